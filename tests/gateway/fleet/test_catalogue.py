"""The catalogue lists everything the fleet could serve, and tells the truth about it."""

from __future__ import annotations

import difflib
from typing import Any

import pytest

from helexa.base.errors import UnknownModel
from helexa.gateway.config import ModelsFile, Profile
from helexa.gateway.edge.render import judge
from helexa.gateway.fleet import events as ev
from helexa.gateway.fleet.catalogue import COMPARED, SHOWN, Names, listing
from helexa.wire import control
from tests.gateway.plan.world import World


def entries(world: World, file: ModelsFile | None = None) -> dict[str, dict[str, Any]]:
    rows = listing(world.fleet, Names(file or ModelsFile()), lambda m: judge(world.fleet, m, world.now), 1)
    return {row["id"]: row for row in rows}


def test_a_cold_model_is_listed_with_the_nodes_that_could_serve_it() -> None:
    world = World({"small": 500, "large": 2000}, {"a": 900})
    row = entries(world)["a"]
    assert (row["status"], row["loaded"], row["feasible_on"]) == ("cold", False, ["large"])


def test_an_infeasible_model_is_listed_with_the_arithmetic() -> None:
    row = entries(World({"n1": 500}, {"a": 900}))["a"]
    assert row["status"] == "infeasible"
    assert "900 MiB" in row["reason"]
    assert "500 MiB total" in row["reason"]


def test_a_node_that_refused_to_load_a_model_is_not_listed_as_one_that_could() -> None:
    world = World({"n1": 1000}, {}, profiles={"a": Profile(id="a")})
    world.ask("a")
    world.load_fails(status=422, kind="does_not_fit", evictable=False)
    row = entries(world)["a"]
    assert (row["status"], row["feasible_on"]) == ("infeasible", [])


def test_a_model_that_found_no_room_at_the_moment_is_cold_and_not_failed() -> None:
    world = World({"n1": 1000}, {}, profiles={"a": Profile(id="a")})
    world.ask("a")
    world.load_fails(status=422, kind="does_not_fit", evictable=True)
    row = entries(world)["a"]
    assert (row["status"], row["feasible_on"]) == ("cold", ["n1"])


def test_a_model_that_is_infeasible_on_many_nodes_gives_some_reasons_and_counts_the_others() -> None:
    row = entries(World({f"n{i}": 500 + i for i in range(100)}, {"a": 900}))["a"]
    assert row["reason"].count(" MiB total") == SHOWN
    assert row["reason"].endswith(f"and so on for {100 - SHOWN} more nodes")


def test_a_model_is_feasible_on_every_node_of_a_large_fleet_that_could_hold_it() -> None:
    row = entries(World({f"n{i}": 1000 for i in range(100)}, {"a": 900}))["a"]
    assert len(row["feasible_on"]) == 100


def test_a_loading_model_shows_its_stage_and_progress() -> None:
    world = World({"n1": 1000}, {"a": 400})
    state = control.LoadingState(stage="load", progress=0.4)
    world.tell(ev.ModelSeen(node="n1", model=control.Model(id="a", status="loading", loading=state)))
    row = entries(world)["a"]
    assert (row["status"], row["loading"]["stage"], row["loading"]["progress"]) == ("loading", "load", 0.4)


def test_a_loaded_model_that_no_profile_lists_appears_too() -> None:
    world = World({"n1": 1000}, {})
    world.tell(ev.ModelSeen(node="n1", model=control.Model(id="stray", vram_used_mb=300)))
    row = entries(world)["stray"]
    assert row["locations"] == [{"node": "n1", "status": "loaded", "vram_estimate_mb": 300}]


def test_a_loaded_model_tells_its_engine_and_why_it_is_that_one() -> None:
    world = World({"n1": 1000}, {"a": 400})
    told = control.Model(id="a", harness="openvino", harness_reason="8 slots were asked for", vram_used_mb=300)
    world.tell(ev.ModelSeen(node="n1", model=told))
    (location,) = entries(world)["a"]["locations"]
    assert (location["harness"], location["harness_reason"]) == ("openvino", "8 slots were asked for")


def test_a_model_on_a_node_that_does_not_answer_is_not_said_to_be_loaded() -> None:
    world = World({"n1": 1000}, {"a": 400})
    world.tell(ev.ModelSeen(node="n1", model=control.Model(id="a", vram_used_mb=400)))
    world.tell(ev.Missed(node="n1", reason="no answer", limit=1))
    row = entries(world)["a"]
    assert (row["status"], row["loaded"], row["reason"]) == ("cold", False, "n1: no answer")
    assert [(one["node"], one["status"]) for one in row["locations"]] == [("n1", "unreachable")]
    world.see("n1")
    assert entries(world)["a"]["status"] == "loaded"


def test_a_pinned_model_is_said_to_be_pinned_where_it_is() -> None:
    world = World({"n1": 1000}, {"a": 400})
    world.tell(ev.ModelSeen(node="n1", model=control.Model(id="a", vram_used_mb=400, pinned=True)))
    assert [one.get("pinned") for one in entries(world)["a"]["locations"]] == [True]
    world.tell(ev.ModelSeen(node="n1", model=control.Model(id="a", vram_used_mb=400, pinned=False)))
    assert [one.get("pinned") for one in entries(world)["a"]["locations"]] == [None]


def test_a_failed_model_says_why() -> None:
    world = World({"n1": 1000}, {"a": 400})
    world.ask("a")
    world.load_fails()
    row = entries(world)["a"]
    assert (row["status"], row["reason"]) == ("failed", "n1: it broke")


def test_the_measured_load_time_is_shown_and_an_unknown_one_is_left_out() -> None:
    world = World({"n1": 1000}, {"a": 400})
    assert "expected_load_s" not in entries(world)["a"]
    world.ask("a")
    world.load_done(took_s=3.0)
    assert entries(world)["a"]["expected_load_s"] == 3.0


def test_an_exact_alias_wins_over_a_glob_and_is_listed_as_its_own_entry() -> None:
    file = ModelsFile(
        models=(Profile(id="a", vram_mb=400), Profile(id="b", vram_mb=400)),
        aliases={"gpt-*": "a", "gpt-4": "b"},
    )
    world = World({"n1": 1000}, {"a": 400, "b": 400})
    names = Names(file)
    assert names.resolve(world.fleet, "gpt-4") == "b"
    assert names.resolve(world.fleet, "gpt-5-mini") == "a"
    assert entries(world, file)["gpt-4"]["alias_of"] == "b"
    assert "gpt-*" not in entries(world, file)


def test_an_unknown_model_is_refused_with_the_nearest_names() -> None:
    world = World({"n1": 1000}, {"qwen3-8b": 400, "llama": 400})
    with pytest.raises(UnknownModel, match="qwen3-8b"):
        Names(ModelsFile()).resolve(world.fleet, "qwen3-7b")


def test_an_unknown_name_is_not_compared_with_each_of_thousands(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    matches = difflib.get_close_matches

    def counting(word: str, possibilities: list[str], n: int, cutoff: float) -> list[str]:
        compared.append(len(possibilities))
        return matches(word, possibilities, n, cutoff)

    monkeypatch.setattr(difflib, "get_close_matches", counting)
    world = World({"n1": 1000}, {f"org/m{number:04}": 400 for number in range(2000)})
    for asked, nearest in (("org/m1234x", "org/m1234"), ("a", "org/m0000"), ("z", "org/m0000")):
        with pytest.raises(UnknownModel, match=nearest):
            Names(ModelsFile()).resolve(world.fleet, asked)
    assert max(compared) <= COMPARED
