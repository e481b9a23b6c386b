"""A node of the system that came before, behind a real gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from helexa.testing.fleet import Fleet, ask, eventually
from helexa.testing.predecessor import Predecessor, transcript
from tests.chaos.clients import KINDS, chat_grammar

QWEN = "Qwen/Qwen3-8B"
KNOWN = [*transcript()["loadable"], *transcript()["refused"]]
MODELS = "".join(f'[[models]]\nid = "{name}"\nvram_mb = 18000\n' for name in KNOWN)


@pytest.fixture
async def node() -> AsyncIterator[Predecessor]:
    async with Predecessor() as running:
        yield running


@pytest.fixture
async def fleet(tmp_path: Path, node: Predecessor) -> AsyncIterator[Fleet]:
    old, polling = {"beast": node.url}, "every_s = 0.2\n"
    async with Fleet(tmp_path, neurons={}, strangers=old, models=MODELS, polling=polling) as running:
        yield running


async def test_its_devices_and_what_it_could_load_are_known(fleet: Fleet) -> None:
    node = await fleet.node("beast")
    assert [(device["name"], device["total_mb"]) for device in node["devices"]] == [
        ("NVIDIA GeForce RTX 5090", 32607),
        ("NVIDIA GeForce RTX 5090", 32607),
    ]
    assert node["devices"][0]["foreign_mb"] == 612
    entry = await fleet.entry(QWEN)
    assert (entry["status"], entry["feasible_on"]) == ("cold", ["beast"])


async def test_a_model_is_loaded_there_served_in_every_dialect_and_unloaded(fleet: Fleet, node: Predecessor) -> None:
    for kind in KINDS:
        body = {**kind.body(QWEN, "Which city?"), "stream": kind.stream}
        answer = await fleet.http.post(kind.path, json=body)
        assert answer.status_code == 200, answer.text
        said = kind.streamed(answer.content)[0] if kind.stream else kind.whole(answer.json())
        assert said == "Tbilisi it is", kind.name
    assert node.asked.count("POST /models/load") == 1
    entry = await fleet.entry(QWEN)
    assert (entry["status"], entry["context_length"]) == ("loaded", 131072)
    assert (await fleet.http.post("/cortex/v1/unload", json={"model": QWEN})).status_code == 202
    await fleet.until_status(QWEN, "cold")

    async def gone() -> bool:
        return not node.loaded

    await eventually(gone, "the node has nothing loaded")


async def test_what_it_has_loaded_already_is_used_as_it_is(fleet: Fleet, node: Predecessor) -> None:
    await fleet.http.post(f"{node.url}/models/load", json={"model_id": QWEN, "harness": "candle"})
    await fleet.until_status(QWEN, "loaded")
    streamed = await fleet.http.post("/v1/chat/completions", json=ask(QWEN, stream=True))
    assert chat_grammar(streamed.content) == ("Tbilisi it is", True)
    assert node.asked.count("POST /models/load") == 1


async def test_a_model_that_went_behind_the_gateways_back_is_loaded_again(fleet: Fleet, node: Predecessor) -> None:
    assert (await fleet.http.post("/v1/chat/completions", json=ask(QWEN))).status_code == 200
    node.loaded.clear()
    assert (await fleet.http.post("/v1/chat/completions", json=ask(QWEN))).status_code == 200
    assert list(node.loaded) == [QWEN]


async def test_a_second_model_is_put_where_there_is_room(fleet: Fleet, node: Predecessor) -> None:
    for model in transcript()["loadable"]:
        assert (await fleet.http.post("/v1/chat/completions", json=ask(model))).status_code == 200
    assert {tuple(spec.devices or ()) for spec in node.loaded.values()} == {(0,), (1,)}


@pytest.mark.parametrize("model", [name for name, found in transcript()["refused"].items() if found["status"] == 422])
async def test_its_typed_refusals_reach_the_client_whole(fleet: Fleet, model: str) -> None:
    told = transcript()["refused"][model]["error"]
    answer = await fleet.http.post("/v1/chat/completions", json=ask(model))
    assert answer.status_code == 422
    details = answer.json()["error"]["details"]
    assert {name: details[name] for name in told if name != "model_id"} == {
        k: v for k, v in told.items() if k != "model_id"
    }


async def test_a_load_that_breaks_there_is_told_with_its_cause(fleet: Fleet) -> None:
    answer = await fleet.http.post("/v1/chat/completions", json=ask("nobody/breaks"))
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert "missing field `vocab_size`" in answer.json()["error"]["message"]


async def test_one_that_is_gone_is_found_out_by_polling_alone(fleet: Fleet, node: Predecessor) -> None:
    await node.__aexit__(None, None, None)

    async def away() -> bool:
        return not (await fleet.node("beast"))["healthy"]

    await eventually(away, "the node is away")
