"""What a node's reports mean for what the gateway believes."""

from __future__ import annotations

from helexa.gateway.config import Profile
from helexa.gateway.fleet import events as ev
from helexa.wire import control
from tests.gateway.plan.world import World


def report(world: World, device: control.DeviceHealth, *models: control.Model) -> None:
    world.tell(ev.Polled(node="n1", health=control.Health(devices=[device]), models=models))


def test_foreign_memory_is_what_the_node_says_it_is() -> None:
    world = World({"n1": 1000}, {"a": 400})
    # The model was there when health was asked for, and gone when the models were.
    report(world, control.DeviceHealth(index=0, vram_used_mb=400, foreign_mb=0))
    assert world.fleet.free["n1"] == {0: 1000}
    report(world, control.DeviceHealth(index=0, vram_used_mb=400, foreign_mb=100))
    assert world.fleet.free["n1"] == {0: 900}


def test_foreign_memory_of_a_node_that_does_not_tell_is_what_its_models_leave_unexplained() -> None:
    world = World({"n1": 1000}, {"a": 400})
    report(world, control.DeviceHealth(index=0, vram_used_mb=500), control.Model(id="a", vram_used_mb=400, devices=[0]))
    assert world.fleet.free["n1"] == {0: 500}
    assert world.fleet.nodes["n1"].devices[0].foreign_mb == 100


CROWDED = {"kind": "does_not_fit", "evictable": True, "needed_mb": 400}


def test_a_preflight_that_finds_no_room_at_the_moment_is_no_verdict_on_the_model() -> None:
    world = World({"n1": 1000}, {}, profiles={"a": Profile(id="a")})
    world.tell(ev.Fitted(node="n1", model="a", refusal=CROWDED))
    ask = world.ask("a")
    assert ask not in world.refused
    assert [(load.node, load.model) for load in world.loads] == [("n1", "a")]
    assert world.fleet.free["n1"] == {0: 600}


def test_a_preflight_that_says_never_is_one() -> None:
    world = World({"n1": 1000}, {}, profiles={"a": Profile(id="a")})
    world.tell(ev.Fitted(node="n1", model="a", refusal=CROWDED | {"evictable": False}))
    assert world.refused[world.ask("a")].status == 422


def test_a_load_whose_room_another_gateway_took_is_tried_again_and_refuses_nobody() -> None:
    world = World({"n1": 1000}, {"a": 400})
    ask = world.ask("a")
    world.load_fails(status=422, **CROWDED)
    assert ask not in world.refused
    assert not world.loads
    world.wait(1.5)
    world.load_done()
    assert world.seated[ask].node == "n1"


def test_a_load_that_found_no_room_goes_to_another_node_at_once() -> None:
    world = World({"n1": 1000, "n2": 900}, {"a": 400})
    world.ask("a")
    world.load_fails(status=422, **CROWDED)
    assert [load.node for load in world.loads] == ["n2"]
