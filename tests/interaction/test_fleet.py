"""Two daemons and more, as processes of their own: cold loads, eviction, faults."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import msgspec
import pytest
import pytest_asyncio

from helexa.testing.fleet import Fleet, ask, eventually

DEVICE = '[[devices]]\nkind = "cpu"\nindex = 0\nmemory_mb = 1000\n'


def echo(name: str, **options: object) -> str:
    return f'[[models]]\nid = "{name}"\nharness = "echo"\noptions = {toml(options)}\n'


def toml(value: object) -> str:
    """A TOML value: JSON's own, but for its tables."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return msgspec.json.encode(value).decode()


MODELS = (
    echo("a", memory_mb=600)
    + echo("b", memory_mb=600)
    + echo("c", memory_mb=600)
    + echo("slow", memory_mb=100, load_s=1.0)
    + echo("slower", memory_mb=100, load_s=2.5)
    + echo("talker", memory_mb=100, tokens_per_s=20, reply="word " * 400)
    + echo("dies", memory_mb=100, tokens_per_s=100, reply="word " * 400, fail="crash:5")
    + echo("stumbles", memory_mb=100, tokens_per_s=200, reply="word " * 400, fail="step:5")
    + echo("broken", memory_mb=100, fail="load")
    + echo("giant", memory_mb=9000)
)


def two(folder: Path) -> Fleet:
    """Two nodes of 1000 MiB; models that crowd each other."""
    return Fleet(folder, neurons={"n1": DEVICE, "n2": DEVICE}, models=MODELS)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with two(tmp_path) as fleet:
        yield fleet


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lasting(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with two(tmp_path_factory.mktemp("fleet")) as fleet:
        yield fleet


@pytest_asyncio.fixture(loop_scope="module")
async def empty(lasting: Fleet) -> Fleet:
    """The same pair for every test that leaves both nodes alive, with nothing loaded."""
    await lasting.until_neurons_idle()
    for entry in (await lasting.http.get("/v1/models")).json()["data"]:
        if entry["loaded"]:
            assert (await lasting.http.post("/cortex/v1/unload", json={"model": entry["id"]})).status_code == 202

    async def cold() -> bool:
        places = [place for node in (await lasting.nodes()).values() for place in node["models"]]
        return all(place["status"] == "failed" for place in places)

    await eventually(cold, "nothing is loaded")
    return lasting


async def lines_of(fleet: Fleet, body: dict[str, object]) -> list[str]:
    """The lines of a streamed answer, but for the empty ones."""
    async with fleet.http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as answer:
        assert answer.status_code == 200, await answer.aread()
        return [line async for line in answer.aiter_lines() if line]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_model_only_in_the_catalogue_is_cold_and_its_first_request_loads_it_once(empty: Fleet) -> None:
    assert (await empty.entry("slow"))["status"] == "cold"
    answers = await asyncio.gather(
        *(empty.http.post("/v1/chat/completions", json=ask("slow", f"hello {i}")) for i in range(8))
    )
    assert [answer.status_code for answer in answers] == [200] * 8
    assert {answer.json()["choices"][0]["message"]["content"] for answer in answers} == {f"hello {i}" for i in range(8)}
    places = (await empty.entry("slow"))["locations"]
    assert len(places) == 1
    loads = sum(daemon.log.read_text().count("slow is loading") for daemon in empty.neurons.values())
    assert loads == 1


@pytest.mark.asyncio(loop_scope="module")
async def test_a_client_that_waits_for_a_load_hears_from_us_all_the_time(empty: Fleet) -> None:
    first, *lines = await lines_of(empty, ask("slower"))
    assert '"content":""' in first
    assert lines[0].startswith(":")
    assert lines[-1] == "data: [DONE]"


@pytest.mark.asyncio(loop_scope="module")
async def test_what_does_not_fit_beside_another_evicts_it_and_the_other_comes_back_on_demand(empty: Fleet) -> None:
    for model in ("a", "b"):
        assert (await empty.http.post("/v1/chat/completions", json=ask(model))).status_code == 200
    assert (await empty.http.post("/v1/chat/completions", json=ask("c"))).status_code == 200
    cold = [model for model in ("a", "b") if (await empty.entry(model))["status"] == "cold"]
    assert len(cold) == 1
    assert (await empty.http.post("/v1/chat/completions", json=ask(cold[0]))).status_code == 200
    assert (await empty.entry(cold[0]))["loaded"]
    metrics = (await empty.http.get(empty.metrics_url)).text
    assert 'reason="evicted"' in metrics


@pytest.mark.asyncio(loop_scope="module")
async def test_a_decision_can_be_explained_afterwards(empty: Fleet) -> None:
    for model in ("a", "b"):
        await empty.http.post("/v1/chat/completions", json=ask(model))
    answer = await empty.http.post("/v1/chat/completions", json=ask("c"))
    found = (await empty.http.get(f"/cortex/v1/decisions/{answer.headers['x-cortex-decision']}")).json()
    assert found["model"] == "c"
    assert (found["outcome"], found["node"]) == ("seated", answer.headers["x-cortex-node"])
    said = [action["what"] for action in found["actions"]]
    assert any(what.startswith("evict ") for what in said)
    assert said[-1] == f"load on {found['node']}"
    weighed = {candidate["node"] for candidate in found["candidates"]}
    assert found["node"] in weighed
    assert len(weighed) + found["not_weighed"] == 2, "every node of the fleet is accounted for"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_model_that_can_never_fit_is_refused_with_arithmetic_and_evicts_nothing(empty: Fleet) -> None:
    await empty.http.post("/v1/chat/completions", json=ask("a"))
    answer = await empty.http.post("/v1/chat/completions", json=ask("giant"))
    assert answer.status_code == 422
    assert "9000 MiB" in answer.json()["error"]["message"] or "8.8 GiB" in answer.json()["error"]["message"]
    entry = await empty.entry("giant")
    assert (entry["status"], entry["feasible_on"]) == ("infeasible", [])
    assert (await empty.entry("a"))["loaded"]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_load_that_fails_is_told_with_its_reason(empty: Fleet) -> None:
    answer = await empty.http.post("/v1/chat/completions", json=ask("broken"))
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert "broken" in answer.json()["error"]["message"]
    found = (await empty.http.get(f"/cortex/v1/decisions/{answer.headers['x-cortex-decision']}")).json()
    said = [action["what"] for action in found["actions"]]
    failed = {what.partition(" failed: ")[0] for what in said if "fail" in what}
    assert failed == {"the load on n1", "the load on n2"}


@pytest.mark.asyncio(loop_scope="module")
async def test_a_client_that_leaves_frees_its_seat_streamed_or_not(empty: Fleet) -> None:
    async with empty.http.stream("POST", "/v1/chat/completions", json=ask("talker", stream=True)) as answer:
        async for _ in answer.aiter_lines():
            break
    await empty.until_idle()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await empty.http.post("/v1/chat/completions", json=ask("talker"))
    await empty.until_idle()

    async def neurons_idle() -> bool:
        healths = [(await empty.http.get(f"{daemon.url}/health")).json() for daemon in empty.neurons.values()]
        return not any(model["in_flight"] for health in healths for model in health["models"])

    await eventually(neurons_idle, "no seat taken on any neuron")


@pytest.mark.asyncio(loop_scope="module")
async def test_an_engine_that_fails_in_mid_stream_ends_in_an_error_event_and_not_in_done(empty: Fleet) -> None:
    lines = await lines_of(empty, ask("stumbles"))
    assert '"error"' in lines[-1]
    assert "data: [DONE]" not in lines


async def test_a_stream_that_stands_in_a_nodes_queue_hears_signs_of_life_until_its_turn(tmp_path: Path) -> None:
    narrow = DEVICE + "[admission]\nmax_in_flight = 1\n"
    models = echo("talker", memory_mb=100, tokens_per_s=20, reply="word " * 70)
    async with Fleet(tmp_path, neurons={"n1": narrow}, models=models) as fleet:
        assert (await fleet.http.post("/v1/chat/completions", json=ask("talker", max_tokens=1))).status_code == 200
        both = await asyncio.gather(*(lines_of(fleet, ask("talker")) for _ in range(2)))
    served, queued = sorted(both, key=len)
    assert not [line for line in served if line.startswith(":")]
    assert '"content":""' in queued[0]
    signs = [line for line in queued if line.startswith(":")]
    assert signs
    assert queued[1 : 1 + len(signs)] == signs
    assert queued[-1] == served[-1] == "data: [DONE]"
    assert len(queued) - len(signs) - 1 == len(served)


async def test_a_worker_that_crashes_costs_its_own_streams_an_error_event_and_is_back(pair: Fleet) -> None:
    lines = await lines_of(pair, ask("dies"))
    assert '"error"' in lines[-1]
    assert "data: [DONE]" not in lines
    await pair.until_status("dies", "loaded")


async def test_a_neuron_killed_in_mid_stream_gives_an_error_event_and_the_next_request_another_node(
    pair: Fleet,
) -> None:
    body = ask("talker", stream=True)
    lines: list[str] = []
    async with pair.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        node = answer.headers["x-cortex-node"]
        async for line in answer.aiter_lines():
            lines.append(line)
            if len(lines) == 6:
                pair.neurons[node].kill()
    events = [line for line in lines if line]
    assert '"error"' in events[-1]
    assert "data: [DONE]" not in events
    answer = await pair.http.post("/v1/chat/completions", json=ask("talker", max_tokens=3))
    assert answer.status_code == 200
    assert answer.headers["x-cortex-node"] != node


async def test_a_neuron_that_comes_back_is_used_again(pair: Fleet, tmp_path: Path) -> None:
    config = tmp_path / "cortex.toml"
    config.write_text(config.read_text().replace("[polling]", "[polling]\nrestart_s = 0.0"))
    assert (await pair.http.post("/cortex/v1/reload")).status_code == 200
    for daemon in pair.neurons.values():
        daemon.kill()
    answer = await pair.http.post("/v1/chat/completions", json=ask("a"))
    assert answer.status_code == 503
    assert "retry-after" in answer.headers

    async def seen_dead() -> bool:
        return not any([(await pair.node(name))["healthy"] for name in pair.neurons])

    await eventually(seen_dead, "both nodes seen dead")
    for daemon in pair.neurons.values():
        daemon.start()
    await eventually(pair.all_healthy, "both nodes back", limit_s=30)
    assert (await pair.http.post("/v1/chat/completions", json=ask("a"))).status_code == 200


async def test_a_request_that_is_not_streamed_waits_no_longer_than_it_was_told_to(tmp_path: Path) -> None:
    models = echo("slow", memory_mb=100, load_s=20)
    async with Fleet(tmp_path, neurons={"n1": DEVICE}, models=models) as fleet:
        config = tmp_path / "cortex.toml"
        config.write_text(config.read_text().replace("max_wait_s = 30", "max_wait_s = 0.5"))
        assert (await fleet.http.post("/cortex/v1/reload")).json()["changed"] == ["gateway"]
        answer = await fleet.http.post("/v1/chat/completions", json=ask("slow"))
        assert answer.status_code == 503
        error = answer.json()["error"]
        assert error["code"] == "model_loading"
        assert error["details"]["loading"]["state"] == "loading"
        assert int(answer.headers["retry-after"]) >= 1


async def test_the_gateway_stops_in_order_when_it_is_told_to(pair: Fleet) -> None:
    body = ask("talker", stream=True, max_tokens=30)
    async with pair.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        os.kill(pair.cortex.pid, signal.SIGTERM)
        rest = [line async for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert await pair.cortex.exit_status() == 0


async def test_a_gateway_that_is_stopping_turns_new_requests_away_while_an_answer_runs(pair: Fleet) -> None:
    async with pair.http.stream("POST", "/v1/chat/completions", json=ask("talker", stream=True)) as on:
        lines = on.aiter_lines()
        await anext(lines)
        os.kill(pair.cortex.pid, signal.SIGTERM)

        async def turned_away() -> httpx2.Response | None:
            answer = await pair.http.post("/v1/chat/completions", json=ask("a"))
            return answer if answer.status_code == 503 else None

        openai = await eventually(turned_away, "a new request is turned away")
        anthropic = await pair.http.post("/v1/messages", json=ask("a", max_tokens=4))
        assert openai.json()["error"]["code"] == "service_unavailable"
        assert anthropic.json()["error"]["type"] == "overloaded_error"
        assert openai.headers["retry-after"] == anthropic.headers["retry-after"] == "5"
    assert await pair.cortex.exit_status() == 0
