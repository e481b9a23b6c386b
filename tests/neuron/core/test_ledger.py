"""No two loads are promised the same memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from helexa.neuron.core.ledger import Ledger, Shortfall
from helexa.neuron.core.plan import DeviceState, Share

TWO = (
    DeviceState(index=0, kind="cpu", name="a", total_mb=1000),
    DeviceState(index=1, kind="cpu", name="b", total_mb=500, foreign_mb=100),
)


def reserved(ledger: Ledger, model: str, *shares: tuple[int, int]) -> Ledger:
    outcome = ledger.reserve(model, [Share(device=device, weights_mb=mb) for device, mb in shares])
    assert isinstance(outcome, Ledger)
    return outcome


def test_a_second_load_cannot_have_what_the_first_was_promised() -> None:
    ledger = reserved(Ledger(found=TWO), "a", (0, 600))
    refused = ledger.reserve("b", [Share(device=0, weights_mb=600)])

    assert isinstance(refused, Shortfall)
    assert refused.evictable
    assert (refused.wants[0].free_mb, refused.wants[0].missing_mb) == (400, 200)


def test_what_never_fits_is_not_called_evictable() -> None:
    refused = Ledger(found=TWO).reserve("b", [Share(device=1, weights_mb=450)])

    assert isinstance(refused, Shortfall)
    assert not refused.evictable


def test_a_device_that_is_not_there_holds_nothing() -> None:
    assert isinstance(Ledger(found=TWO).reserve("b", [Share(device=7, weights_mb=1)]), Shortfall)


def test_a_model_may_replace_its_own_promise() -> None:
    ledger = reserved(Ledger(found=TWO), "a", (0, 900))
    assert reserved(ledger, "a", (0, 950)).of("a") == 950


def test_a_measurement_corrects_a_promise_upwards_only() -> None:
    ledger = reserved(Ledger(found=TWO), "a", (0, 300))
    assert ledger.measured("a", 0, 350).of("a") == 350
    assert ledger.measured("a", 0, 250).of("a") == 300
    assert ledger.measured("unknown", 0, 250) == ledger


def test_what_a_model_held_on_several_devices_comes_back_together() -> None:
    ledger = reserved(Ledger(found=TWO), "a", (0, 300), (1, 200))
    assert [device.free_mb for device in ledger.devices()] == [700, 200]
    assert [device.free_mb for device in ledger.release("a").devices()] == [1000, 400]
    assert [device.free_mb for device in ledger.emptied()] == [1000, 400]


OPERATION = st.tuples(
    st.sampled_from(["reserve", "release", "measure"]),
    st.sampled_from(["a", "b", "c"]),
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 700)), min_size=1, max_size=2, unique_by=lambda s: s[0]),
)


@given(st.lists(OPERATION, max_size=40))
def test_memory_is_conserved_whatever_is_asked(operations: list[tuple[str, str, list[tuple[int, int]]]]) -> None:
    ledger = Ledger(found=TWO)
    measured_over = False
    for verb, model, shares in operations:
        if verb == "reserve":
            outcome = ledger.reserve(model, [Share(device=device, weights_mb=mb) for device, mb in shares])
            ledger = outcome if isinstance(outcome, Ledger) else ledger
        elif verb == "release":
            ledger = ledger.release(model)
            assert ledger.of(model) == 0
        else:
            ledger = ledger.measured(model, *shares[0])
            measured_over = True
        for device in ledger.devices():
            assert device.reserved_mb == sum(hold.get(device.index, 0) for hold in ledger.holds.values())
            assert measured_over or device.reserved_mb + device.foreign_mb <= device.total_mb
