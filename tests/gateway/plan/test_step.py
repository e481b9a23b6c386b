"""What the planner decides, case by case."""

from __future__ import annotations

from collections import Counter

import pytest

from helexa.gateway.config import Eviction, Profile
from helexa.gateway.fleet import events as ev
from helexa.gateway.fleet.model import LOAD_DEADLINE_S, Fleet, Status
from helexa.gateway.plan.instructions import Forgo, Load, Refuse, Seat, Unload, Verdict, Why
from helexa.gateway.plan.place import MOST, best_of, candidates
from helexa.gateway.plan.step import foreseen, step
from helexa.wire import control

from .world import World


def on_nodes(*names: str) -> World:
    """Nodes that all hold the model `a`."""
    world = World(dict.fromkeys(names, 1000), {"a": 400})
    for name in names:
        world.tell(ev.ModelSeen(node=name, model=control.Model(id="a")))
    return world


def warm(world: World, model: str) -> int:
    """Bring a model up with one request, which is still in flight."""
    ask = world.ask(model)
    world.load_done()
    return ask


def test_a_loaded_model_seats_its_request_at_once() -> None:
    world = World({"n1": 1000}, {"a": 400})
    world.finish(warm(world, "a"))
    ask = world.ask("a")
    assert world.seated[ask].node == "n1"


def test_many_requests_for_a_cold_model_cause_one_load_and_are_seated_in_order() -> None:
    world = World({"n1": 1000, "n2": 1000}, {"a": 400})
    asks = [world.ask("a") for _ in range(5)]
    assert len(world.loads) == 1
    world.load_done()
    assert list(world.seated) == asks


def test_a_waiter_that_leaves_is_pruned_and_the_load_goes_on() -> None:
    world = World({"n1": 1000}, {"a": 400})
    world.leave(world.ask("a"), "a")
    world.load_done()
    assert world.status("a", "n1") is Status.LOADED
    assert not world.seated


def test_a_load_does_not_queue_behind_another_where_a_node_loads_none() -> None:
    """A device's worker loads one model after the other, so a short load would wait for a long one."""
    world = World({"large": 4000, "small": 1000}, {"a": 400, "b": 400, "c": 400})
    for model in "abc":
        world.ask(model)
    assert [load.node for load in world.loads] == ["large", "small", "large"]


def test_the_node_with_the_least_outstanding_work_is_taken() -> None:
    world = World({"n1": 1000, "n2": 1000}, {"a": 400})
    for node in ("n1", "n2"):
        world.tell(ev.ModelSeen(node=node, model=control.Model(id="a")))
    nodes = [world.seated[world.ask("a")].node for _ in range(4)]
    assert sorted(nodes) == ["n1", "n1", "n2", "n2"]


def test_a_session_keeps_its_node_among_equals() -> None:
    world = World({"n1": 1000, "n2": 1000, "n3": 1000}, {"a": 400})
    for node in world.memory:
        world.tell(ev.ModelSeen(node=node, model=control.Model(id="a")))
    taken: set[str] = set()
    for _ in range(5):
        ask = world.ask("a", affinity="session-7")
        taken.add(world.seated[ask].node)
        world.finish(ask)
    assert len(taken) == 1


def test_sessions_are_spread_evenly_over_idle_nodes() -> None:
    """Of three CRCs one would be the least half of the time, the others a quarter each."""
    world = on_nodes("n0", "n1", "n2")
    places = [(0, place) for place in world.fleet.places["a"].values()]
    chosen = Counter(best_of(places, {}, f"session-{number}").node for number in range(3000))
    assert min(chosen.values()) > 900


def test_a_session_goes_to_its_own_node_while_that_has_hardly_more_to_do() -> None:
    world = on_nodes("n0", "n1", "n2")
    there = list(world.fleet.places["a"].values())
    own = best_of([(0, place) for place in there], {}, "s1").node
    busier = [(9 if place.node == own else 8, place) for place in there]
    assert best_of(busier, {}, "s1").node == own
    assert best_of(busier, {}, None).node != own
    swamped = [(12 if place.node == own else 8, place) for place in there]
    assert best_of(swamped, {}, "s1").node != own


def test_a_node_that_is_known_to_be_twice_as_fast_gets_twice_the_work() -> None:
    world = on_nodes("fast", "slow")
    world.tell(ev.Ticked(speeds={("a", "fast"): (5, 80.0), ("a", "slow"): (5, 40.0)}))
    chosen = Counter(world.seated[world.ask("a")].node for _ in range(30))
    assert chosen == {"fast": 20, "slow": 10}


def test_speeds_are_learned_stream_by_stream_and_outlive_an_eviction() -> None:
    world = on_nodes("n1")
    world.tell(ev.Ticked(speeds={("a", "n1"): (1, 100.0), ("a", "gone"): (1, 5.0), ("no", "n1"): (1, 5.0)}))
    assert world.fleet.speeds == {"a": {"n1": 100.0}}
    world.tell(ev.Ticked(speeds={("a", "n1"): (1, 50.0)}))
    assert world.fleet.speeds["a"]["n1"] == pytest.approx(95.0)
    world.tell(ev.ModelGone(node="n1", model="a"))
    assert world.fleet.speeds["a"]["n1"] == pytest.approx(95.0)


def test_a_model_that_fits_beside_another_evicts_nothing() -> None:
    world = World({"n1": 1000}, {"a": 400, "b": 500})
    world.finish(warm(world, "a"))
    warm(world, "b")
    assert not world.evicted


def test_the_idle_model_makes_room_and_comes_back_on_demand() -> None:
    world = World({"n1": 1000}, {"a": 600, "b": 600})
    world.finish(warm(world, "a"))
    first = world.ask("b")
    assert [(u.model, u.reason, u.made_for) for u in world.unloads] == [("a", "evicted", "b")]
    world.unload_done()
    world.load_done()
    world.finish(first)
    second = world.ask("a")
    world.unload_done()
    world.load_done()
    assert world.seated[second].node == "n1"


def test_a_dry_run_tells_of_the_load_that_follows_an_eviction() -> None:
    world = World({"n1": 1000}, {"a": 600, "b": 600})
    world.finish(warm(world, "a"))
    after, out = foreseen(world.fleet, ev.Arrived(ask=-1, model="b"), world.now)
    assert [(type(one), getattr(one, "model", None)) for one in out] == [(Unload, "a"), (Load, "b")]
    assert "b" in after.asks


def test_a_busy_model_is_waited_for_and_not_evicted() -> None:
    world = World({"n1": 1000}, {"a": 600, "b": 600})
    busy = warm(world, "a")
    world.ask("b")
    assert not world.unloads
    world.finish(busy)
    assert [u.model for u in world.unloads] == ["a"]


def test_a_waiter_that_has_been_patient_closes_the_door_of_a_model_that_is_never_idle() -> None:
    world = World({"n1": 1000}, {"a": 600, "b": 600}, eviction=Eviction(patience_s=10))
    busy = warm(world, "a")
    waiting = world.ask("b")
    world.wait(11)
    late = world.ask("a")
    assert late not in world.seated, "a newcomer was seated behind a closed door"
    world.finish(busy)
    world.unload_done()
    world.load_done()
    assert waiting in world.seated


def test_a_pinned_model_is_never_a_victim_and_the_other_is_refused_for_good() -> None:
    profiles = {"a": Profile(id="a", vram_mb=600, pinned=True), "b": Profile(id="b", vram_mb=600)}
    world = World({"n1": 1000}, {"a": 600, "b": 600}, profiles=profiles)
    world.finish(warm(world, "a"))
    refusal = world.refused[world.ask("b")]
    assert refusal.why is Why.INFEASIBLE
    assert refusal.status == 422
    assert not world.unloads


def test_a_higher_rank_is_never_displaced_by_a_lower_one_and_equal_ranks_displace_both_ways() -> None:
    profiles = {
        "high": Profile(id="high", vram_mb=600, residency_priority=200),
        "low": Profile(id="low", vram_mb=600, residency_priority=100),
        "peer": Profile(id="peer", vram_mb=600, residency_priority=100),
    }
    world = World({"n1": 1000}, {}, profiles=profiles)
    world.finish(warm(world, "low"))
    there = world.ask("peer")
    assert [u.model for u in world.unloads] == ["low"]
    world.unload_done()
    world.load_done()
    world.finish(there)
    back = world.ask("low")
    assert [u.model for u in world.unloads] == ["peer"]
    world.unload_done()
    world.load_done()
    world.finish(back)
    high = world.ask("high")
    world.unload_done()
    world.load_done()
    world.finish(high)
    assert world.refused[world.ask("low")].why is Why.INFEASIBLE


def test_a_model_that_can_never_fit_evicts_nothing_and_is_told_each_nodes_arithmetic() -> None:
    world = World({"n1": 1000, "n2": 2000}, {"a": 600, "giant": 9000})
    world.finish(warm(world, "a"))
    refusal = world.refused[world.ask("giant")]
    assert not world.unloads
    assert refusal.status == 422
    assert refusal.fields["kind"] == "does_not_fit"
    assert refusal.fields["nodes"]["n2"]["needed_mb"] == 9000
    assert refusal.fields["nodes"]["n2"]["per_device"][0]["available_mb"] == 2000


def test_a_refusal_in_a_large_fleet_shows_some_nodes_and_counts_the_others() -> None:
    world = World({f"n{i}": 500 for i in range(100)}, {"a": 900})
    refused = world.refused[world.ask("a")]
    assert (len(refused.appraisals), refused.nodes) == (MOST, 100)
    assert f"nor can {100 - MOST} others" in refused.message


def test_a_model_waits_for_the_one_busy_node_of_many_that_could_ever_hold_it() -> None:
    world = World({**{f"n{i}": 500 for i in range(100)}, "z": 1000}, {"a": 900, "b": 950})
    world.ask("b")
    world.load_done()
    world.ask("a")
    assert world.fleet.clearing == {"z": "a"}
    assert not world.refused


def test_a_report_without_news_is_planned_nothing_for() -> None:
    world = World({"n1": 1000}, {"a": 900, "b": 950})
    world.ask("a")
    world.load_done()
    world.ask("b")
    world.see("n1")
    known = world.fleet
    world.see("n1")
    assert world.fleet is known


def test_memory_of_other_processes_is_neither_free_nor_evictable() -> None:
    world = World({"n1": 1000}, {"a": 600})
    health = control.Health(devices=[control.DeviceHealth(index=0, vram_used_mb=500)])
    world.tell(ev.Polled(node="n1", health=health, models=()))
    assert world.refused[world.ask("a")].fields["per_device"][0]["foreign_mb"] == 500


def test_a_failed_load_is_tried_on_another_node_before_anyone_is_refused() -> None:
    world = World({"n1": 1000, "n2": 1000}, {"a": 400})
    ask = world.ask("a")
    first = world.loads[0].node
    world.load_fails()
    assert world.loads[0].node != first
    world.load_done()
    assert ask in world.seated


def test_a_model_that_failed_everywhere_is_refused_with_its_reason_until_its_back_off_ends() -> None:
    world = World({"n1": 1000}, {"a": 400})
    ask = world.ask("a")
    world.load_fails()
    world.wait(3)
    world.load_fails()
    assert world.refused[ask].why is Why.FAILED
    assert (world.refused[ask].retry_after or 0) > 0
    assert world.refused[world.ask("a")].why is Why.FAILED
    assert not world.loads, "a broken load was tried again at once"
    world.wait(5)
    world.ask("a")
    assert len(world.loads) == 1


def test_who_waits_for_a_load_that_fails_once_is_served_by_the_next() -> None:
    world = World({"n1": 1000}, {"a": 400})
    waiting = [world.ask("a")]
    world.load_fails()
    waiting.append(world.ask("a"))
    assert not world.loads, "a broken load was tried again at once"
    world.wait(3)
    world.load_done()
    assert list(world.seated) == waiting


def test_a_model_whose_loads_failed_on_two_nodes_is_refused_at_once() -> None:
    world = World({"n1": 1000, "n2": 1000}, {"a": 400})
    ask = world.ask("a")
    world.load_fails()
    world.load_fails()
    assert world.refused[ask].why is Why.FAILED


def test_what_is_wanted_without_a_request_is_loaded_although_its_first_load_fails() -> None:
    world = World({"n1": 1000}, {"a": 400})
    world.tell(ev.Wanted(model="a"))
    world.load_fails()
    world.wait(3)
    assert [load.model for load in world.loads] == ["a"]
    world.load_fails()
    world.wait(60)
    assert not world.loads, "nobody waits for it"


def test_a_typed_refusal_of_the_node_reaches_the_client_whole() -> None:
    world = World({"n1": 1000}, {"a": 400})
    ask = world.ask("a")
    world.load_fails(status=422, kind="quant_not_found", available=["Q8_0"])
    refusal = world.refused[ask]
    assert (refusal.status, refusal.fields["kind"], refusal.fields["available"]) == (422, "quant_not_found", ["Q8_0"])


def test_a_request_that_a_node_failed_is_loaded_elsewhere_rather_than_seated_there_again() -> None:
    world = World({"n1": 1000, "n2": 1000}, {"a": 400})
    warm(world, "a")
    node = next(iter(world.fleet.places["a"]))
    ask = world.ask("a", avoid=frozenset({node}))
    assert [load.node for load in world.loads] != [node]
    world.load_done()
    assert world.seated[ask].node != node


def test_a_node_that_cannot_be_reached_loses_its_health_and_the_model_keeps_its_good_name() -> None:
    world = World({"n1": 1000}, {"a": 400})
    ask = world.ask("a")
    order = world.loads.pop()
    world.tell(ev.LoadFailed(node="n1", model="a", error="no connection", unreachable=True))
    assert order.node == "n1"
    assert world.refused[ask].why is Why.UNHEALTHY
    world.see("n1")
    world.ask("a")
    assert len(world.loads) == 1, "a back-off was held against the model"


def test_a_load_that_came_just_after_a_drain_goes_elsewhere_and_nothing_is_held_against_the_model() -> None:
    world = World({"n1": 1000, "n2": 1000}, {"a": 400})
    ask = world.ask("a")
    first = world.loads.pop().node
    world.tell(ev.LoadFailed(node=first, model="a", error="this neuron is draining", leaving=True))
    (second,) = world.loads
    assert second.node != first
    world.tell(ev.LoadFailed(node=world.loads.pop().node, model="a", error="this neuron is draining", leaving=True))
    assert world.refused[ask].why is Why.UNHEALTHY
    world.see(first)
    world.ask("a")
    assert [load.node for load in world.loads] == [first], "a back-off was held against the model"


def test_with_no_other_node_a_request_is_tried_once_more_where_it_failed() -> None:
    world = World({"n1": 1000}, {"a": 400})
    warm(world, "a")
    assert world.seated[world.ask("a", avoid=frozenset({"n1"}))].node == "n1"


def test_back_off_is_remembered_for_one_model_on_one_node_only() -> None:
    world = World({"n1": 1000}, {"a": 400, "b": 400})
    world.ask("a")
    world.load_fails()
    world.ask("b")
    assert [load.model for load in world.loads] == ["b"]


def test_a_recovering_model_holds_its_route_and_is_not_placed_a_second_time() -> None:
    world = World({"n1": 1000, "n2": 1000}, {"a": 400})
    world.tell(ev.ModelSeen(node="n1", model=control.Model(id="a", status="recovering")))
    ask = world.ask("a")
    assert not world.loads
    world.tell(ev.ModelSeen(node="n1", model=control.Model(id="a", status="loaded")))
    assert world.seated[ask].node == "n1"


@pytest.mark.parametrize("status", [Status.LOADING, Status.RECOVERING, Status.POISONED, Status.UNLOADING])
def test_a_request_that_its_node_turns_away_waits_there_for_what_passes(status: Status) -> None:
    world = World({"n1": 1000}, {"a": 400})
    warm(world, "a")
    world.tell(ev.TurnedAway(node="n1", model="a", status=status))
    ask = world.ask("a")
    assert ask not in world.seated
    assert ask not in world.refused
    world.tell(ev.ModelSeen(node="n1", model=control.Model(id="a", status="loaded")))
    assert world.seated[ask].node == "n1"


def test_what_a_node_turned_away_is_not_heard_once_its_model_is_known_to_be_on_its_way() -> None:
    world = World({"n1": 1000}, {"a": 400})
    world.ask("a")
    before = world.fleet
    world.tell(ev.TurnedAway(node="n1", model="a", status=Status.UNLOADING))
    assert world.fleet.places == before.places


def test_a_load_of_anothers_that_does_not_move_is_not_waited_for_for_ever() -> None:
    world = World({"n1": 1000, "n2": 1000}, {"a": 400})

    def loads(progress: float) -> None:
        state = control.LoadingState(stage="load", progress=progress)
        model = control.Model(id="a", status="loading", loading=state, vram_predicted_mb=400)
        world.tell(ev.ModelSeen(node="n1", model=model))

    loads(0.1)
    world.ask("a")
    world.wait(LOAD_DEADLINE_S - 1)
    loads(0.2)
    world.wait(LOAD_DEADLINE_S - 1)
    assert not world.loads, "it moves"
    world.wait(60)
    assert [load.node for load in world.loads] == ["n2"]


def test_where_no_other_node_could_load_it_a_stuck_load_is_told_to_who_waits() -> None:
    world = World({"n1": 1000}, {"a": 400})
    world.tell(ev.ModelSeen(node="n1", model=control.Model(id="a", status="loading", vram_predicted_mb=400)))
    ask = world.ask("a")
    world.wait(LOAD_DEADLINE_S + 60)
    assert (world.refused[ask].status, world.refused[ask].why) == (503, Why.UNSERVABLE)
    assert "nothing has moved there for long" in world.refused[ask].message


def test_a_model_that_has_long_been_loaded_is_not_called_stuck_when_its_node_fails_requests() -> None:
    world = World({"n1": 1000}, {"a": 400})
    world.tell(ev.ModelSeen(node="n1", model=control.Model(id="a", status="loaded", vram_predicted_mb=400)))
    world.wait(LOAD_DEADLINE_S + 60)
    for _ in range(3):
        world.finish(world.ask("a"), transport_error=True)
    assert "nothing has moved" not in world.refused[world.ask("a")].message


def test_a_load_that_was_given_up_is_not_waited_for_because_its_node_still_tells_of_it() -> None:
    world = World({"n1": 1000, "n2": 1000}, {"a": 400})
    world.ask("a")
    assert [load.node for load in world.loads] == ["n1"]
    world.load_fails()
    world.tell(ev.ModelSeen(node="n1", model=control.Model(id="a", status="loading", vram_predicted_mb=400)))
    world.ask("a")
    assert [load.node for load in world.loads] == ["n2"]


def test_a_draining_node_gets_no_new_work() -> None:
    world = World({"n1": 1000, "n2": 1000}, {"a": 400})
    world.finish(warm(world, "a"))
    node = next(iter(world.fleet.places["a"]))
    world.tell(ev.Drained(node=node, draining=True))
    world.ask("a")
    assert world.loads[0].node != node


def test_three_missed_polls_make_a_node_unhealthy_and_one_answer_heals_it() -> None:
    world = World({"n1": 1000}, {"a": 400})
    for _ in range(2):
        world.tell(ev.Missed(node="n1", reason="no answer"))
    assert world.fleet.nodes["n1"].healthy
    world.tell(ev.Missed(node="n1", reason="no answer"))
    assert not world.fleet.nodes["n1"].healthy
    assert world.refused[world.ask("a")].why is Why.UNHEALTHY
    world.see("n1")
    assert world.fleet.nodes["n1"].healthy


@pytest.mark.parametrize("away", [ev.Missed(node="n1", reason="no answer", limit=1), ev.Leaving(node="n1")])
def test_a_node_that_may_only_be_started_anew_is_waited_for_and_not_longer(away: ev.Event) -> None:
    world = World({"n1": 1000, "small": 100}, {"a": 400}, restart_s=10.0)
    world.finish(warm(world, "a"))
    world.tell(away)
    served = world.ask("a")
    world.wait(9)
    world.see("n1")
    assert served in world.seated
    world.tell(away)
    refused = world.ask("a")
    world.wait(9)
    assert refused not in world.refused
    world.wait(1)
    assert world.refused[refused].why is Why.UNHEALTHY
    assert world.refused[world.ask("a")].why is Why.UNHEALTHY


def test_a_node_that_is_away_is_not_waited_for_where_another_can_serve() -> None:
    world = World({"n1": 1000, "n2": 1000}, {"a": 400}, restart_s=10.0)
    world.finish(warm(world, "a"))
    node = next(iter(world.fleet.places["a"]))
    world.tell(ev.Leaving(node=node))
    world.ask("a")
    assert [load.node for load in world.loads] == ["n2" if node == "n1" else "n1"]


def test_a_node_that_failed_a_request_is_tried_again_before_one_that_is_away_is_waited_for() -> None:
    world = World({"n1": 1000, "n2": 1000}, {"a": 400}, restart_s=10.0)
    world.finish(warm(world, "a"))
    home, other = sorted(world.memory, key=lambda name: name not in world.fleet.places["a"])
    world.tell(ev.Leaving(node=other))
    assert world.seated[world.ask("a", avoid=frozenset({home}))].node == home


def test_a_node_that_the_operator_took_out_is_not_waited_for() -> None:
    world = World({"n1": 1000}, {"a": 400}, restart_s=10.0)
    world.tell(ev.Drained(node="n1", draining=True))
    assert world.refused[world.ask("a")].why is Why.UNHEALTHY


def test_a_gateway_that_has_just_begun_waits_for_its_nodes_to_be_seen() -> None:
    configured = ev.Configured(profiles={}, eviction=Eviction(), nodes=("n1",), restart_s=10.0)
    fleet, _ = step(Fleet(), configured, 5.0)
    fleet, out = step(fleet, ev.Arrived(ask=1, model="a"), 5.0)
    assert not out
    _, out = step(fleet, ev.Ticked(), 15.0)
    assert isinstance(out[0], Refuse)


def test_a_full_queue_tells_what_its_requests_wait_for() -> None:
    world = World({"n1": 1000}, {"a": 400})
    world.tell(ev.Configured(profiles=world.fleet.profiles, eviction=Eviction(), nodes=("n1",), max_queue=1))
    world.ask("a")
    refused = world.refused[world.ask("a")]
    assert (refused.status, refused.fields["loading"]) == (429, {"state": "loading", "node": "n1"})


def test_a_restarted_node_has_lost_its_models() -> None:
    world = World({"n1": 1000}, {"a": 400})
    world.finish(warm(world, "a"))
    world.tell(ev.Polled(node="n1", health=control.Health(boot_id="one"), models=(control.Model(id="a"),)))
    world.tell(ev.Polled(node="n1", health=control.Health(boot_id="two"), models=()))
    assert world.status("a", "n1") is None
    world.ask("a")
    assert len(world.loads) == 1


def test_transport_errors_in_a_row_open_the_circuit_and_time_closes_it() -> None:
    world = World({"n1": 1000}, {"a": 400})
    warm(world, "a")
    asks = [world.ask("a") for _ in range(3)]
    for ask in asks:
        world.finish(ask, transport_error=True)
    assert not world.fleet.nodes["n1"].open(world.now)
    world.wait(2)
    assert world.fleet.nodes["n1"].open(world.now)


def test_a_full_queue_refuses_the_next_request_only() -> None:
    world = World({"n1": 1000}, {"a": 400})
    found = dict(world.fleet.profiles)
    world.tell(ev.Configured(profiles=found, eviction=Eviction(), nodes=("n1",), max_queue=2))
    first, second, third = (world.ask("a") for _ in range(3))
    assert world.refused[third].status == 429
    world.load_done()
    assert {first, second} == set(world.seated)


def test_an_idle_model_is_unloaded_after_its_time_and_a_busy_one_is_not() -> None:
    profiles = {"a": Profile(id="a", vram_mb=400, idle_unload_s=60)}
    world = World({"n1": 1000}, {"a": 400}, profiles=profiles)
    ask = warm(world, "a")
    world.wait(120)
    assert not world.unloads
    world.finish(ask)
    world.wait(61)
    assert [u.reason for u in world.unloads] == ["idle"]


def test_preload_loads_without_a_request() -> None:
    profiles = {"a": Profile(id="a", vram_mb=400, preload=True)}
    world = World({"n1": 1000}, {"a": 400}, profiles=profiles)
    assert [load.model for load in world.loads] == ["a"]


def test_a_pin_is_what_the_node_says_else_what_the_configuration_says_even_anew() -> None:
    world = World({"n1": 1000}, {"a": 400})

    def pinned(told: bool | None) -> bool:
        world.tell(ev.ModelSeen(node="n1", model=control.Model(id="a", vram_used_mb=400, pinned=told)))
        return world.fleet.places["a"]["n1"].pinned

    assert [pinned(told) for told in (None, True, None, False, None)] == [False, True, True, False, False]
    profiles = {"a": Profile(id="a", vram_mb=400, pinned=True)}
    world.tell(ev.Configured(profiles=profiles, eviction=world.fleet.eviction, nodes=("n1",)))
    assert pinned(None)
    assert not pinned(False)


def preloading(*names: str) -> World:
    profiles = {name: Profile(id=name, vram_mb=600, preload=True) for name in names}
    return World({"n1": 1000}, dict.fromkeys(names, 600), profiles=profiles)


def test_preloads_do_not_displace_each_other() -> None:
    world = preloading("a", "b")
    world.load_done()
    world.wait(world.fleet.eviction.min_residency_s + 1)
    assert world.status("a", "n1") is Status.LOADED
    assert not world.loads
    assert not world.unloads
    assert not world.fleet.wanted


def test_what_an_operator_or_a_request_wants_takes_the_room_of_a_preload() -> None:
    world = preloading("a", "b", "c")
    world.load_done()
    world.tell(ev.Wanted(model="b"))
    world.wait(world.fleet.eviction.min_residency_s + 1)
    world.settle()
    assert world.status("b", "n1") is Status.LOADED
    world.ask("c")
    world.settle()
    assert world.status("c", "n1") is Status.LOADED


def test_a_model_that_can_never_fit_is_not_wanted_any_more_and_that_is_told() -> None:
    world = World({"n1": 1000}, {"a": 2000})
    (told,) = world.tell(ev.Wanted(model="a"))
    assert isinstance(told, Forgo)
    assert "2.0 GiB" in told.message
    assert not world.fleet.wanted


def test_a_model_that_left_the_catalogue_is_not_wanted_any_more() -> None:
    world = World({"n1": 1000}, {"a": 400})
    world.tell(ev.Missed(node="n1", reason="away", limit=1))
    world.tell(ev.Wanted(model="a"))
    assert "a" in world.fleet.wanted
    world.tell(ev.Configured(profiles={}, eviction=world.fleet.eviction, nodes=("n1",)))
    assert not world.fleet.wanted


def test_an_unload_that_the_node_refuses_keeps_the_model_and_is_asked_again_later() -> None:
    world = World({"n1": 1000}, {"a": 600, "b": 600})
    world.finish(warm(world, "a"))
    world.ask("b")
    world.unload_refused()
    assert world.status("a", "n1") is Status.LOADED
    assert not world.unloads, "it was asked again at once"
    world.wait(2)
    assert [u.model for u in world.unloads] == ["a"]


def test_a_model_on_two_devices_needs_room_on_each() -> None:
    profiles = {"tp": Profile(id="tp", vram_mb=1600, min_devices=2)}
    world = World({"n1": 1000}, {"tp": 1600}, profiles=profiles)
    devices = [control.Device(index=i, vram_total_mb=1000) for i in range(2)]
    world.tell(
        ev.Polled(
            node="n1", health=control.Health(), models=(), discovery=control.Discovery(hostname="n1", devices=devices)
        )
    )
    world.ask("tp")
    assert world.loads[0].devices == (0, 1)


def machine(world: World, *memory: int, node: str = "n1", **more: int) -> None:
    """The node has devices of so many MiB; `more` is foreign memory, `used0=500` on device 0."""
    devices = [control.Device(index=i, vram_total_mb=mib) for i, mib in enumerate(memory)]
    used = [control.DeviceHealth(index=i, vram_used_mb=more.get(f"used{i}", 0)) for i in range(len(memory))]
    seen = control.Discovery(hostname=node, devices=devices)
    world.tell(ev.Polled(node=node, health=control.Health(devices=used), models=(), discovery=seen))


def fitted(world: World, node: str, model: str, warmth: str) -> None:
    """The node's preflight has answered: so warm are the weights there."""
    shares = [control.PlanShare(device=0, needed_mb=world.sizes[model])]
    plan = control.PlanView(model_id=model, harness="llama", format="gguf", shares=shares, warmth=warmth)
    world.tell(ev.Fitted(node=node, model=model, plan=plan))


def test_the_device_with_the_most_free_memory_is_taken_and_not_the_first() -> None:
    world = World({"n1": 1000}, {"a": 300})
    machine(world, 1000, 1000, 1000, used0=600, used1=100, used2=300)
    world.ask("a")
    assert world.loads[0].devices == (1,)


def test_tensor_parallel_takes_the_roomiest_devices_and_needs_its_share_on_each() -> None:
    profiles = {"tp": Profile(id="tp", vram_mb=1600, tensor_parallel=2)}
    world = World({"n1": 1000}, {"tp": 1600}, profiles=profiles)
    machine(world, 1000, 1000, 1000, used0=150)
    world.ask("tp")
    assert world.loads[0].devices == (1, 2)


def test_two_devices_that_have_the_memory_only_together_never_take_a_split_model() -> None:
    profiles = {"tp": Profile(id="tp", vram_mb=1600, tensor_parallel=2)}
    world = World({"n1": 1000}, {"tp": 1600}, profiles=profiles)
    machine(world, 1700, 700)
    assert world.refused[world.ask("tp")].why is Why.INFEASIBLE


def test_a_split_model_of_unknown_size_is_not_feasible_on_a_node_with_one_device() -> None:
    world = World({"n1": 1000}, {}, profiles={"tp": Profile(id="tp", tensor_parallel=2)})
    refused = world.refused[world.ask("tp")]
    assert "needs 2 device(s); has 1" in refused.message


def test_a_node_that_has_the_weights_wins_over_one_with_more_memory_that_must_download() -> None:
    world = World({"n1": 5000, "n2": 1000, "n3": 1000}, {"a": 400})
    for node, warmth in (("n1", "cold"), ("n2", "disk"), ("n3", "memory")):
        fitted(world, node, "a", warmth)
    world.ask("a")
    assert world.loads[0].node == "n3"


def test_free_room_on_a_cold_node_wins_over_evicting_on_one_that_has_the_weights() -> None:
    world = World({"n1": 500, "n2": 1000}, {"a": 400, "b": 300})
    fitted(world, "n1", "a", "disk")
    world.tell(ev.ModelSeen(node="n1", model=control.Model(id="b", vram_used_mb=300)))
    world.ask("a")
    assert (world.loads[0].node, world.unloads) == ("n2", [])


def test_of_the_nodes_that_would_have_to_evict_the_one_that_loses_least_is_taken() -> None:
    world = World({"n1": 1000, "n2": 700}, {"a": 650, "b": 600, "c": 600})
    for node, model in (("n1", "b"), ("n2", "c")):
        world.tell(ev.ModelSeen(node=node, model=control.Model(id=model, vram_used_mb=600)))
    for _ in range(3):
        world.finish(world.ask("b"))
    world.finish(world.ask("c"))
    world.wait(60.0)
    world.ask("a")
    assert [(one.model, one.node) for one in world.unloads] == [("c", "n2")]


def test_feasibility_goes_by_totals_and_placement_by_what_is_free() -> None:
    world = World({"n1": 1000, "n2": 900}, {"a": 800, "b": 500})
    world.tell(ev.ModelSeen(node="n1", model=control.Model(id="b", vram_used_mb=500)))
    assert [one.verdict for one in candidates(world.fleet, "a", world.now)] == [Verdict.FITS, Verdict.EVICT]
    world.ask("a")
    assert world.loads[0].node == "n2"


def test_the_dry_run_says_what_then_happens() -> None:
    from helexa.gateway.plan.step import step

    world = World({"n1": 1000}, {"a": 600, "b": 600})
    world.finish(warm(world, "a"))
    _, foreseen = step(world.fleet, ev.Arrived(ask=99, model="b"), world.now)
    happened = world.tell(ev.Arrived(ask=99, model="b"))
    assert foreseen == happened
    assert isinstance(happened[0], Unload)


def test_the_plan_is_the_same_for_the_same_fleet_event_and_time() -> None:
    def play() -> list[object]:
        world = World({"n1": 1000, "n2": 1500}, {"a": 600, "b": 600, "c": 900})
        out: list[object] = []
        for model in ("a", "b", "c", "a"):
            world.now += 1
            out += world.tell(ev.Arrived(ask=len(out) + 100, model=model))
        return out

    assert play() == play()
    assert {type(one) for one in play()} <= {Load, Unload, Seat, Refuse}
