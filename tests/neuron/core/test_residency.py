"""Whether a model may go, on the conditions of whoever wants it gone."""

from __future__ import annotations

import pytest

from helexa.neuron.core.residency import Stay


@pytest.mark.parametrize(
    ("stay", "spare_unused_s", "min_idle_s", "why"),
    [
        (Stay(loaded_s=3.0, idle_s=None), 20.0, 0.0, "was loaded 3.00 s ago and not used yet"),
        (Stay(loaded_s=30.0, idle_s=None), 20.0, 0.0, None),
        (Stay(loaded_s=3.0, idle_s=0.1), 20.0, 0.0, None),
        (Stay(loaded_s=300.0, idle_s=4.0), 0.0, 60.0, "was used 4.00 s ago"),
        (Stay(loaded_s=300.0, idle_s=61.0), 0.0, 60.0, None),
        (Stay(loaded_s=300.0, idle_s=None), 0.0, 60.0, None),
        (Stay(loaded_s=0.0, idle_s=None), 0.0, 0.0, None),
    ],
)
def test_a_model_is_held_for_who_it_was_loaded_for_and_while_it_is_in_use(
    stay: Stay, spare_unused_s: float, min_idle_s: float, why: str | None
) -> None:
    assert stay.holds(spare_unused_s=spare_unused_s, min_idle_s=min_idle_s, load_id="") == why


@pytest.mark.parametrize(("meant", "held"), [("first", True), ("second", False), ("", False)])
def test_a_model_is_held_from_who_saw_it_on_an_earlier_stay(meant: str, held: bool) -> None:
    stay = Stay(loaded_s=300.0, idle_s=99.0, load_id="second")
    assert (stay.holds(spare_unused_s=0.0, min_idle_s=0.0, load_id=meant) is not None) is held
