"""The operator API: a dry run says what would be done, and refuses what the order itself would refuse."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from helexa.testing.fleet import ask, eventually
from helexa.testing.neuron import CHAT
from helexa.wire import control

from .conftest import COLD, WARM, Edge


async def dry_run(edge: Edge, **asked: str) -> httpx2.Response:
    async def known() -> bool:
        return (await edge.http.get(f"/v1/models/{WARM}")).json().get("loaded", False)

    await eventually(known, "the loaded model is heard of")
    return await edge.http.post("/cortex/v1/plan", json=asked)


@pytest.mark.parametrize(
    ("asked", "actions"),
    [
        ({"model": WARM}, [{"action": "seat", "model": WARM, "node": "n1"}]),
        ({"model": COLD}, [{"action": "load", "model": COLD, "node": "n1", "devices": [0]}]),
        ({"unload": WARM}, [{"action": "unload", "model": WARM, "node": "n1", "reason": "operator"}]),
        ({"drain": "n1"}, [{"action": "drain", "node": "n1", "in_flight": 0, "models": [WARM]}]),
    ],
)
async def test_a_dry_run_tells_the_actions_and_does_none(
    edge: Edge, asked: dict[str, str], actions: list[dict[str, Any]]
) -> None:
    answer = await dry_run(edge, **asked)
    assert answer.json()["actions"] == actions
    assert not [path for path in ("/models/load", "/models/unload", "/drain") if edge.neuron.asked(path)]


async def test_a_dry_run_tells_of_a_node_that_has_the_model_how_it_stands_there(edge: Edge) -> None:
    (found,) = (await dry_run(edge, model=WARM)).json()["candidates"]
    assert (found["verdict"], found["detail"]) == ("loaded", "is there, 0 requests in flight")
    assert found["waits_for"] == []


async def test_a_model_is_loaded_at_once_where_a_drain_that_had_just_turned_it_away_is_over(edge: Edge) -> None:
    """Its refusal was once taken for a load that had failed, and kept the node closed to the model for seconds."""
    edge.neuron.draining = True
    refused = await edge.http.post(CHAT, json=ask(COLD))
    assert (refused.status_code, len(edge.neuron.asked("/models/load"))) == (503, 1)
    edge.neuron.draining = False
    await edge.http.post("/cortex/v1/drain", json={"node": "n1", "drain": False})
    assert (await edge.http.post(CHAT, json=ask(COLD))).status_code == 200


@pytest.mark.parametrize(
    ("asked", "status", "told"),
    [
        ({"model": "org/warn"}, 404, "Nearest: org/warm"),
        ({"unload": COLD}, 404, "is not loaded"),
        ({"drain": "n9"}, 404, "nodes: n1"),
        ({"modle": WARM}, 400, "give one of"),
        ({"model": WARM, "drain": "n1"}, 400, "give one of"),
    ],
)
async def test_a_dry_run_of_what_would_be_refused_is_refused(
    edge: Edge, asked: dict[str, str], status: int, told: str
) -> None:
    answer = await dry_run(edge, **asked)
    assert answer.status_code == status
    assert told in answer.json()["error"]["message"]


async def test_a_load_that_is_queued_on_its_device_says_behind_what_wherever_it_is_shown(edge: Edge) -> None:
    edge.neuron.models[COLD].load_s = 60.0
    stands = control.LoadingState(stage="queued", behind=f"the load of {WARM}")
    shown = {"stage": "queued", "progress": None, "behind": f"the load of {WARM}"}
    async with edge.http.stream("POST", CHAT, json=ask(COLD, stream=True)) as waiting:
        await edge.neuron.until(lambda: bool(edge.neuron.asked("/models/load")))
        edge.neuron.tell(control.Event(kind="model", model=control.Model(id=COLD, status="loading", loading=stands)))

        async def told() -> bool:
            return (await edge.http.get(f"/v1/models/{COLD}")).json().get("loading") == shown

        await eventually(told, "the catalogue shows it")
        decision = (await edge.http.get(f"/cortex/v1/decisions/{waiting.headers['x-cortex-decision']}")).json()

    async def nobody_waits() -> bool:
        return not edge.cortex.fleet.waiting

    await eventually(nobody_waits, "the first has left the queue")
    refused = await edge.http.post(CHAT, json=ask(COLD))
    assert f"its load on n1 is queued behind the load of {WARM}" in [one["what"] for one in decision["actions"]]
    assert refused.json()["error"]["details"]["loading"] == {"state": "loading", "node": "n1", **shown}


async def test_a_request_that_came_to_no_model_is_explained_like_any_other(edge: Edge) -> None:
    answer = await edge.http.post(CHAT, json=ask("org/warn"))
    assert answer.status_code == 404
    found = (await edge.http.get(f"/cortex/v1/decisions/{answer.headers['x-cortex-decision']}")).json()
    assert found["model"] == "org/warn"
    assert found["outcome"].startswith("refused: ")
    assert "Nearest: org/warm" in found["outcome"]


async def test_a_client_that_was_sent_away_after_its_time_is_not_said_to_have_left(edge: Edge) -> None:
    edge.neuron.models[COLD].load_s = 60.0
    answer = await edge.http.post(CHAT, json=ask(COLD))
    assert answer.status_code == 503
    assert "the request waited for the load on n1" in answer.json()["error"]["message"]
    found = (await edge.http.get(f"/cortex/v1/decisions/{answer.headers['x-cortex-decision']}")).json()
    assert found["outcome"] == "refused: `max_wait_s` was over before it had a place"
    assert [action["what"] for action in found["actions"]] == ["load on n1"]
