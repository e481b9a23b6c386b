"""One model is loaded where the first gateway that asked wants it."""

from __future__ import annotations

from helexa.neuron.core.leases import Leases
from helexa.wire.control import Lease


def lease(holder: str, on: str, seconds: float = 10.0, model: str = "m") -> Lease:
    return Lease(model_id=model, on=on, holder=holder, seconds=seconds)


def test_the_first_that_asks_decides_for_all_until_its_lease_ends() -> None:
    leases, granted = Leases().asked(lease("g1", "n1"), 0.0)
    assert granted.on == "n1"
    leases, granted = leases.asked(lease("g2", "n2"), 9.9)
    assert granted == lease("g1", "n1")
    leases, granted = leases.asked(lease("g2", "n2"), 10.0)
    assert granted.on == "n2"


def test_models_are_agreed_on_one_by_one() -> None:
    leases, _ = Leases().asked(lease("g1", "n1"), 0.0)
    leases, granted = leases.asked(lease("g2", "n2", model="other"), 0.0)
    assert granted.on == "n2"


def test_who_holds_a_lease_may_choose_another_node() -> None:
    leases, _ = Leases().asked(lease("g1", "n1"), 0.0)
    leases, _ = leases.asked(lease("g1", "n2"), 1.0)
    assert leases.asked(lease("g2", "n1"), 2.0)[1].on == "n2"


def test_a_lease_that_is_given_up_binds_nobody() -> None:
    leases, _ = Leases().asked(lease("g1", "n1"), 0.0)
    leases, _ = leases.asked(lease("g1", "n1", seconds=0.0), 1.0)
    assert leases.asked(lease("g2", "n2"), 1.0)[1].on == "n2"


def test_giving_up_late_does_not_give_up_what_was_chosen_since() -> None:
    leases, _ = Leases().asked(lease("g1", "n1"), 0.0)
    leases, _ = leases.asked(lease("g1", "n2"), 1.0)
    leases, _ = leases.asked(lease("g1", "n1", seconds=0.0), 1.1)
    assert leases.asked(lease("g2", "n3"), 2.0)[1].on == "n2"


def test_leases_that_have_ended_are_forgotten() -> None:
    leases, _ = Leases().asked(lease("g1", "n1"), 0.0)
    leases, _ = leases.asked(lease("g1", "n1", model="other"), 20.0)
    assert set(leases.held) == {"other"}
