"""What is told afterwards of a request that had to wait."""

from __future__ import annotations

from typing import Any

from helexa.base.clock import SystemClock
from helexa.gateway.act.dispatcher import Claim, Dispatcher
from helexa.gateway.act.journal import Journal
from helexa.gateway.config import Eviction, Profile
from helexa.gateway.fleet import events as ev
from helexa.gateway.plan.instructions import Load, Order
from helexa.wire import control


class Desk:
    """A dispatcher of one node with 1000 MiB, a journal of it, and the orders it gave."""

    def __init__(self, *models: str) -> None:
        clock = SystemClock()
        self.dispatcher = Dispatcher(clock)
        self.orders: list[Order] = []
        self.dispatcher.hands = self.orders.append
        self.journal = Journal(clock, lambda: self.dispatcher.fleet)
        self.dispatcher.watchers.append(self.journal.watch)
        profiles = {name: Profile(id=name, vram_mb=600) for name in models}
        self.tell(ev.Configured(profiles=profiles, eviction=Eviction(), nodes=("n1",)))
        discovery = control.Discovery(hostname="n1", devices=[control.Device(index=0, name="gpu", vram_total_mb=1000)])
        self.tell(ev.Polled(node="n1", health=control.Health(boot_id="b"), models=(), discovery=discovery))

    def tell(self, event: ev.Event) -> None:
        self.dispatcher.tell(event)

    def ask(self, model: str, decision: str) -> Claim:
        claim = self.dispatcher.seat(model, decision=decision)
        claim.ask()
        return claim

    def explain(self, decision: str) -> dict[str, Any]:
        found = self.journal.find(decision)
        assert found is not None
        return found

    def said(self, decision: str) -> list[str]:
        return [action["what"] for action in self.explain(decision)["actions"]]


def test_who_joins_a_load_is_told_of_it() -> None:
    desk = Desk("a")
    desk.ask("a", "first")
    desk.ask("a", "second")
    assert desk.said("first") == ["load on n1"]
    assert desk.said("second") == ["wait for the load on n1"]


def test_who_waits_for_a_busy_model_is_told_of_it_with_the_arithmetic() -> None:
    desk = Desk("a", "b")
    desk.ask("a", "busy")
    (order,) = desk.orders
    assert isinstance(order, Load)
    desk.tell(ev.Loaded(node="n1", model="a", took_s=1.0))
    desk.ask("b", "first")
    desk.ask("b", "second")
    for decision in ("first", "second"):
        found = desk.explain(decision)
        assert desk.said(decision) == ["wait for room on n1, which a holds now"]
        assert found["outcome"] == "waiting"
        assert [(one["node"], one["waits_for"]) for one in found["candidates"]] == [("n1", ["a"])]


def test_what_is_tried_again_and_again_is_told_once_with_how_often() -> None:
    desk = Desk("a")
    claim = desk.ask("a", "first")
    for _ in range(3):
        desk.tell(ev.Joined(model="a", node="n1", at="n1"))
    (joined,) = [action for action in desk.explain("first")["actions"] if action["what"].startswith("join")]
    assert joined["times"] == 3
    assert joined["last_s"] >= joined["after_s"]
    claim.leave()
    assert desk.explain("first")["outcome"] == "the client left"
