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


def test_what_a_node_said_of_a_model_no_longer_binds_once_its_devices_have_changed() -> None:
    world = World({"n1": 1000}, {}, profiles={"a": Profile(id="a")})
    never = CROWDED | {"evictable": False}
    world.tell(ev.Fitted(node="n1", model="a", refusal=never))
    world.see("n1")
    assert world.refused[world.ask("a")].status == 422
    world.memory["n1"] = 4000
    world.see("n1")
    assert world.ask("a") not in world.refused
    assert [(load.node, load.model) for load in world.loads] == [("n1", "a")]


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


def told(model: str, **more: object) -> control.Model:
    return control.Model(id=model, vram_used_mb=600, devices=[0], **more)  # type: ignore[arg-type]


def test_a_load_of_another_gateway_is_no_victim_before_it_was_used() -> None:
    world = World({"n1": 1000}, {"a": 600, "b": 600})
    world.tell(ev.ModelSeen(node="n1", model=told("a", loaded_s=0.0)))
    world.ask("b")
    assert not world.unloads
    world.tell(ev.ModelSeen(node="n1", model=told("a", loaded_s=1.0, idle_s=0.0)))
    world.wait(1.5)
    assert [unload.model for unload in world.unloads] == ["a"]


def test_what_was_used_here_is_a_victim_at_once_although_a_late_report_calls_it_unused() -> None:
    world = World({"n1": 1000}, {"a": 600, "b": 600})
    ask = world.ask("a")
    world.load_done()
    world.tell(ev.ModelSeen(node="n1", model=told("a", loaded_s=0.0)))
    world.ask("b")
    assert not world.unloads
    world.finish(ask)
    assert [unload.model for unload in world.unloads] == ["a"]


def test_a_load_that_nobody_ever_uses_goes_when_its_minimum_residency_is_over() -> None:
    world = World({"n1": 1000}, {"a": 600, "b": 600})
    world.tell(ev.ModelSeen(node="n1", model=told("a", loaded_s=15.0)))
    world.ask("b")
    world.wait(4.0)
    assert not world.unloads
    world.wait(2.0)
    assert [(unload.model, unload.spare_unused_s) for unload in world.unloads] == [("a", 20.0)]


def test_a_model_that_others_use_is_not_idle() -> None:
    profiles = {"a": Profile(id="a", vram_mb=600, idle_unload_s=10.0)}
    world = World({"n1": 1000}, {}, profiles=profiles)
    world.tell(ev.ModelSeen(node="n1", model=told("a", loaded_s=60.0, idle_s=9.0)))
    world.tell(ev.ModelSeen(node="n1", model=told("a", loaded_s=60.0, idle_s=1.0)))
    world.wait(8.0)
    assert not world.unloads
    world.wait(2.0)
    assert [(unload.reason, unload.min_idle_s) for unload in world.unloads] == [("idle", 10.0)]


def test_who_has_waited_long_enough_has_the_requests_of_other_gateways_end_first() -> None:
    world = World({"n1": 1000}, {"a": 600, "b": 600})
    world.tell(ev.ModelSeen(node="n1", model=told("a", loaded_s=60.0, idle_s=0.0, in_flight=3)))
    world.ask("b")
    assert world.unloads[0].drain_s is None
    world.unload_refused()
    world.wait(world.fleet.eviction.patience_s)
    assert world.unloads[0].drain_s is not None


def test_a_load_of_another_gateway_that_fails_is_not_tried_again_at_once() -> None:
    world = World({"n1": 1000}, {"a": 600})
    world.tell(ev.ModelSeen(node="n1", model=told("a", status="loading")))
    ask = world.ask("a")
    world.tell(ev.ModelSeen(node="n1", model=control.Model(id="a", status="failed", error="out of luck")))
    assert not world.loads
    assert ask not in world.refused
    world.wait(3)
    world.load_fails()
    assert "it broke" in world.refused[ask].message
