"""What becomes of requests when a node falls silent, is drained, or has its models pinned; real processes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from helexa.testing.fleet import Fleet, ask, eventually

from .test_fleet import DEVICE, echo

POLLING = "every_s = 0.2\ntimeout_s = 0.5\n"
PATIENT = POLLING + "restart_s = 60.0\n"
IMPATIENT = POLLING + "restart_s = 0.0\n"
QUICK = "[eviction]\nmin_residency_s = 0.0\npatience_s = 1.0\n"


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Fleet]:
    models = (
        echo("a", memory_mb=600)
        + echo("b", memory_mb=600)
        + echo("c", memory_mb=600)
        + echo("talker", memory_mb=100, tokens_per_s=20, reply="word " * 400)
        + echo("thinker", memory_mb=100, tokens_per_s=2, reply="one two three four")
    )
    neurons = {"n1": DEVICE, "n2": DEVICE}
    async with Fleet(tmp_path, neurons=neurons, models=models, cortex=QUICK, polling=POLLING) as fleet:
        yield fleet


async def home_of(fleet: Fleet, model: str) -> str:
    """The node that has the model now, loading it if none has."""
    answer = await fleet.http.post("/v1/chat/completions", json=ask(model, max_tokens=1))
    assert answer.status_code == 200, answer.text
    return answer.headers["x-cortex-node"]


async def until_busy(fleet: Fleet, node: str, model: str) -> None:
    async def busy() -> bool:
        return any(place["model"] == model and place["in_flight"] for place in (await fleet.node(node))["models"])

    await eventually(busy, f"{model} is busy on {node}")


async def test_a_node_that_falls_silent_loses_no_request_that_had_no_answer_yet(pair: Fleet) -> None:
    node = await home_of(pair, "thinker")
    asked = asyncio.create_task(pair.http.post("/v1/chat/completions", json=ask("thinker")))
    await until_busy(pair, node, "thinker")
    pair.neurons[node].kill(signal.SIGSTOP)
    answer = await asked
    assert answer.status_code == 200
    assert answer.headers["x-cortex-node"] != node
    assert answer.json()["choices"][0]["message"]["content"] == "one two three four"
    await pair.until_idle()


async def test_a_stream_that_had_begun_on_a_node_that_falls_silent_ends_in_an_error_event(pair: Fleet) -> None:
    node = await home_of(pair, "talker")
    lines: list[str] = []
    async with pair.http.stream("POST", "/v1/chat/completions", json=ask("talker", stream=True)) as answer:
        async for line in answer.aiter_lines():
            lines.append(line)
            if len(lines) == 6:
                pair.neurons[node].kill(signal.SIGSTOP)
    assert '"error"' in [line for line in lines if line][-1]
    assert "data: [DONE]" not in lines
    pair.neurons[node].kill(signal.SIGCONT)
    await eventually(pair.all_healthy, "the node is back")
    await pair.until_neurons_idle()


async def test_a_device_is_recycled_after_so_many_cycles_and_brings_its_model_back(tmp_path: Path) -> None:
    models = echo("a", memory_mb=600) + echo("b", memory_mb=600)
    worn = "[eviction]\nmin_residency_s = 0.5\ndefrag_after_cycles = 3\n"
    async with Fleet(tmp_path, neurons={"n1": DEVICE}, models=models, cortex=worn, polling=POLLING) as fleet:
        for model in ("a", "b", "a", "b"):
            await home_of(fleet, model)

        async def recycled() -> bool:
            said = (await fleet.http.get(fleet.metrics_url)).text
            return 'cortex_device_recycles_total{device="0",node="n1"} 1.0' in said

        await eventually(recycled, "the worker was recycled")
        await fleet.until_status("b", "loaded")
        assert (await fleet.http.post("/v1/chat/completions", json=ask("b"))).status_code == 200

        async def whole() -> bool:
            return (await fleet.node("n1"))["devices"][0]["cycles"] == 0

        await eventually(whole, "the device counts anew")
        assert "recycled after 3 load cycles" in fleet.neurons["n1"].log.read_text()


@asynccontextmanager
async def asking(fleet: Fleet) -> AsyncIterator[list[int]]:
    """A client that asks for `a` all the time, and the status of each answer."""
    answers, over = list[int](), asyncio.Event()

    async def go_on() -> None:
        while not over.is_set():
            answers.append((await fleet.http.post("/v1/chat/completions", json=ask("a"))).status_code)

    client = asyncio.create_task(go_on())
    yield answers
    over.set()
    await client


async def test_no_request_is_lost_while_a_device_is_recycled(tmp_path: Path) -> None:
    async with Fleet(tmp_path, neurons={"n1": DEVICE}, models=echo("a", memory_mb=600), polling=POLLING) as fleet:
        node = fleet.neurons["n1"].url

        async def rested() -> bool:
            return (await fleet.http.post(f"{node}/devices/0/recycle", json={"after_cycles": 0})).status_code == 200

        async with asking(fleet) as answers:
            for _ in range(3):
                await fleet.until_status("a", "loaded")
                await eventually(rested, "a moment between two requests")
        assert set(answers) == {200}


async def test_no_request_is_lost_while_the_only_node_is_started_anew_and_then_the_gateway(tmp_path: Path) -> None:
    async with Fleet(tmp_path, neurons={"n1": DEVICE}, models=echo("a", memory_mb=600), polling=PATIENT) as fleet:
        async with asking(fleet) as answers:
            await fleet.until_status("a", "loaded")
            await fleet.neurons["n1"].stop()
            fleet.neurons["n1"].start()
        assert set(answers) == {200}
        await fleet.cortex.stop()
        fleet.cortex.start()

        async def first() -> int:
            try:
                return (await fleet.http.post("/v1/chat/completions", json=ask("a"))).status_code
            except httpx2.ConnectError:
                return 0

        assert await eventually(first, "the gateway listens") == 200


async def test_a_drained_node_finishes_what_runs_and_gets_nothing_new_until_it_is_taken_back(pair: Fleet) -> None:
    node = await home_of(pair, "talker")
    body = ask("talker", stream=True, max_tokens=30)
    async with pair.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        drained = await pair.http.post("/cortex/v1/drain", json={"node": node})
        assert drained.json() == {"node": node, "draining": True}
        assert (await pair.node(node))["draining"]
        assert await home_of(pair, "talker") != node
        rest = [line async for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    await pair.http.post("/cortex/v1/drain", json={"node": node, "drain": False})
    assert not (await pair.node(node))["draining"]
    other = next(name for name in pair.neurons if name != node)
    await pair.http.post("/cortex/v1/drain", json={"node": other})
    assert await home_of(pair, "talker") == node


async def test_a_drain_is_the_nodes_own_and_every_gateway_sees_it(tmp_path: Path) -> None:
    models = echo("a", memory_mb=100)
    async with Fleet(tmp_path, neurons={"n1": DEVICE}, models=models, polling=IMPATIENT, gateways=2) as fleet:
        other = fleet.others[0]
        await fleet.http.post("/cortex/v1/drain", json={"node": "n1"})

        async def seen() -> bool:
            return bool((await other.node("n1"))["draining"])

        await eventually(seen, "the other gateway sees the drain")
        refused = await other.http.post("/v1/chat/completions", json=ask("a"))
        assert refused.status_code == 503
        assert "draining" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) >= 1
        await other.http.post("/cortex/v1/drain", json={"node": "n1", "drain": False})

        async def back() -> bool:
            return not (await fleet.node("n1"))["draining"]

        await eventually(back, "the first gateway sees it back")
        assert (await fleet.http.post("/v1/chat/completions", json=ask("a"))).status_code == 200


async def test_a_pinned_model_is_not_evicted_until_it_is_unpinned(pair: Fleet) -> None:
    for model in ("a", "b"):
        await home_of(pair, model)
        pinned = await pair.http.post("/cortex/v1/pin", json={"model": model})
        assert pinned.json()["pinned"]
    refused = await pair.http.post("/v1/chat/completions", json=ask("c"))
    assert refused.status_code == 422
    assert "pinned" in refused.json()["error"]["message"]
    assert (await pair.entry("a"))["loaded"]
    await pair.http.post("/cortex/v1/pin", json={"model": "a", "pinned": False})
    assert (await pair.http.post("/v1/chat/completions", json=ask("c"))).status_code == 200
    assert (await pair.entry("b"))["loaded"]
    assert not (await pair.entry("a"))["loaded"]


async def test_a_pin_is_the_nodes_own_and_outlives_the_gateway_that_asked_for_it(tmp_path: Path) -> None:
    models = echo("a", memory_mb=600) + echo("b", memory_mb=600)
    neurons = {"n1": DEVICE}
    async with Fleet(tmp_path, neurons=neurons, models=models, cortex=QUICK, polling=POLLING, gateways=2) as fleet:
        other = fleet.others[0]
        await home_of(fleet, "a")
        await fleet.http.post("/cortex/v1/pin", json={"model": "a"})

        assert (await other.http.post("/v1/chat/completions", json=ask("b"))).status_code == 422
        fleet.cortex.kill()
        fleet.cortex.start()
        await eventually(fleet.all_healthy, "the gateway is back")
        assert (await fleet.http.post("/v1/chat/completions", json=ask("b"))).status_code == 422
        await other.http.post("/cortex/v1/pin", json={"model": "a", "pinned": False})
        assert (await other.http.post("/v1/chat/completions", json=ask("b"))).status_code == 200


async def test_what_is_to_be_preloaded_is_loaded_without_anybody_asking(tmp_path: Path) -> None:
    models = echo("early", memory_mb=100).replace("options", "preload = true\noptions") + echo("late", memory_mb=100)
    async with Fleet(tmp_path, neurons={"n1": DEVICE}, models=models, polling=POLLING) as fleet:
        await fleet.until_status("early", "loaded")
        assert (await fleet.entry("late"))["status"] == "cold"


async def test_a_gateway_that_is_told_to_stop_under_load_ends_every_stream_properly(pair: Fleet) -> None:
    await home_of(pair, "talker")
    bodies = [ask("talker", stream=True, max_tokens=20 + number) for number in range(8)]
    streams = [asyncio.create_task(pair.http.post("/v1/chat/completions", json=body)) for body in bodies]

    async def busy() -> bool:
        nodes = (await pair.nodes()).values()
        return sum(place["in_flight"] for node in nodes for place in node["models"]) == len(bodies)

    await eventually(busy, "all streams run")
    pair.cortex.kill(signal.SIGTERM)
    for answer in await asyncio.gather(*streams):
        assert answer.text.rstrip().endswith("data: [DONE]")
    assert await pair.cortex.exit_status() == 0
    await pair.until_neurons_idle()
