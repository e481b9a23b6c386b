"""The scripted neuron does what its script says, and tells what it saw."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from helexa.http1.client import Answer, Origin, UpstreamBroken, UpstreamTimeout
from helexa.testing.neuron import CHAT, Breaks, Endless, Ends, FakeModel, Hangs, Late, Says, ScriptedNeuron
from helexa.wire import control
from helexa.wire.sse import SseDecoder

SMALL = {"model": "org/a", "messages": [{"role": "user", "content": "hi"}]}


class Caller:
    """Asks one neuron, as a gateway would."""

    def __init__(self, neuron: ScriptedNeuron) -> None:
        self.origin = Origin.from_url(neuron.url)

    async def ask(self, method: str, path: str, body: object = None, timeout_s: float | None = None) -> Answer:
        payload = b"" if body is None else msgspec.json.encode(body)
        return await self.origin.request(method.encode(), path.encode(), (), payload, head_timeout_s=timeout_s)

    async def json(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        answer = await self.ask(method, path, body)
        return answer.status, msgspec.json.decode(await answer.read(1 << 20))

    async def events(self, answer: Answer) -> list[bytes]:
        decoder, found = SseDecoder(), list[bytes]()
        async for piece in answer.chunks():
            found += [frame.data for frame in decoder.feed(piece)]
        return found


@asynccontextmanager
async def running(*models: FakeModel, **options: Any) -> AsyncIterator[tuple[ScriptedNeuron, Caller]]:
    async with asyncio.timeout(20), ScriptedNeuron(*models, **options) as neuron:
        caller = Caller(neuron)
        try:
            yield neuron, caller
        finally:
            await caller.origin.aclose()


def test_the_memory_of_its_devices_is_told_before_it_runs() -> None:
    neuron = ScriptedNeuron(memory_mb=(8000, 4000))
    assert [device.vram_total_mb for device in neuron.devices] == [8000, 4000]


async def test_it_speaks_the_control_contract() -> None:
    async with running(FakeModel(id="org/a", loaded=True, vram_mb=3000)) as (neuron, caller):
        _, discovery = await caller.json("GET", "/discovery")
        _, health = await caller.json("GET", "/health")
        _, models = await caller.json("GET", "/models")
        assert msgspec.convert(discovery, control.Discovery).boot_id == neuron.boot_id
        assert msgspec.convert(health, control.Health).devices[0].vram_free_mb == 21_000
        assert [(row["id"], row["status"], row["vram_used_mb"]) for row in models] == [("org/a", "loaded", 3000)]
        assert await caller.json("GET", "/models/org%2Fa/endpoint") == (200, {"url": neuron.url})
        assert (await caller.json("GET", "/version"))[0] == 200
        assert (await caller.json("GET", "/nothing"))[0] == 404


async def test_a_load_takes_its_time_and_is_told_as_events() -> None:
    async with running(FakeModel(id="org/a", load_s=0.05)) as (neuron, caller):
        stream = await caller.ask("GET", "/events")
        assert await caller.json("POST", "/models/load", {"model_id": "org/a"}) == (200, {"status": "loaded"})
        assert await caller.json("POST", "/models/unload", {"model_id": "org/a"}) == (
            200,
            {"status": "unloaded", "freed_mb": 1000},
        )
        pieces, decoder, told = stream.chunks(), SseDecoder(), list[str]()
        while len(told) < 3:
            events = [msgspec.json.decode(f.data, type=control.Event) for f in decoder.feed(await anext(pieces))]
            told += [event.model.status if event.model else event.kind for event in events]
        assert told == ["loading", "loaded", "gone"]
        await neuron.stop()
        with pytest.raises(UpstreamBroken):
            await anext(pieces)


@pytest.mark.parametrize(
    ("model", "status", "kind"),
    [
        (FakeModel(id="org/a", vram_mb=9000), 422, "does_not_fit"),
        (FakeModel(id="org/a", refuses={"kind": "quant_not_found", "nearest": "Q4_K_M"}), 422, "quant_not_found"),
        (FakeModel(id="org/b"), 422, "repo_fetch_failed"),
    ],
)
async def test_a_load_that_cannot_be_is_refused_with_its_kind(model: FakeModel, status: int, kind: str) -> None:
    async with running(model, memory_mb=8000) as (neuron, caller):
        found, answer = await caller.json("POST", "/models/load", {"model_id": "org/a"})
        assert (found, answer["error"]["kind"]) == (status, kind)
        assert neuron.loaded == []


async def test_a_load_that_breaks_leaves_nothing_behind() -> None:
    async with running(FakeModel(id="org/a", breaks="out of luck")) as (_, caller):
        assert await caller.json("POST", "/models/load", {"model_id": "org/a"}) == (400, {"error": "out of luck"})
        assert await caller.json("GET", "/models") == (200, [])


async def test_it_answers_a_chat_whole_and_streamed() -> None:
    async with running(FakeModel(id="org/a", loaded=True, reply="one two three")) as (_, caller):
        status, answer = await caller.json("POST", CHAT, SMALL)
        assert status == 200
        assert answer["choices"][0]["message"]["content"] == "one two three"
        assert answer["usage"]["completion_tokens"] == 3
        events = await caller.events(await caller.ask("POST", CHAT, SMALL | {"stream": True}))
        assert events[-1] == b"[DONE]"
        deltas = [msgspec.json.decode(event)["choices"][0]["delta"] for event in events[:-2]]
        assert "".join(delta.get("content", "") for delta in deltas) == "one two three"


async def test_a_chat_for_a_model_that_is_not_loaded_is_a_404_with_the_code_that_gateways_look_for() -> None:
    async with running(FakeModel(id="org/a")) as (_, caller):
        status, answer = await caller.json("POST", CHAT, SMALL)
        assert (status, answer["error"]["code"]) == (404, "model_not_found")


async def test_it_dies_in_mid_stream() -> None:
    async with running(FakeModel(id="org/a", loaded=True)) as (neuron, caller):
        neuron.fault(CHAT, Breaks(after=2))
        answer = await caller.ask("POST", CHAT, SMALL | {"stream": True})
        with pytest.raises(UpstreamBroken):
            await caller.events(answer)


async def test_it_stops_a_stream_without_a_last_word() -> None:
    async with running(FakeModel(id="org/a", loaded=True)) as (neuron, caller):
        neuron.fault(CHAT, Ends(after=2))
        events = await caller.events(await caller.ask("POST", CHAT, SMALL | {"stream": True}))
        assert len(events) == 2


async def test_it_hangs_until_its_client_gives_up_and_notes_that_it_left() -> None:
    async with running() as (neuron, caller):
        neuron.fault("/health", Hangs())
        with pytest.raises(UpstreamTimeout):
            await caller.ask("GET", "/health", timeout_s=0.05)
        await neuron.until(lambda: [one.outcome for one in neuron.asked("/health")] == ["left"])


async def test_it_lies_as_told_and_only_as_often_as_told() -> None:
    async with running(FakeModel(id="org/a", loaded=True, row={"status": "dreaming", "vram_used_mb": -5})) as (
        neuron,
        caller,
    ):
        neuron.fault("/health", Says(status=200, body=b"<html>"), times=1)
        assert await (await caller.ask("GET", "/health")).read(1000) == b"<html>"
        assert (await caller.json("GET", "/health"))[0] == 200
        _, (row,) = await caller.json("GET", "/models")
        assert (row["status"], row["vram_used_mb"]) == ("dreaming", -5)


async def test_its_endless_body_ends_with_the_reader() -> None:
    async with running() as (neuron, caller):
        neuron.fault("/models", Endless())
        answer = await caller.ask("GET", "/models")
        with pytest.raises(UpstreamBroken):
            await answer.read(1 << 20)
        await neuron.until(lambda: neuron.seen[0].outcome == "left")


async def test_it_answers_late_as_told() -> None:
    async with running() as (neuron, caller):
        neuron.fault("/health", Late(seconds=0.02))
        assert (await caller.json("GET", "/health"))[0] == 200


async def test_it_records_requests_byte_for_byte() -> None:
    async with running(FakeModel(id="org/a", loaded=True)) as (neuron, caller):
        await caller.json("POST", CHAT, SMALL)
        (seen,) = neuron.asked(CHAT)
        assert seen.body == msgspec.json.encode(SMALL)
        assert (seen.method, seen.outcome) == ("POST", "answered")


async def test_a_busy_model_is_unloaded_only_when_it_is_drained_or_forced() -> None:
    async with running(FakeModel(id="org/a", loaded=True, first_token_s=0.2)) as (neuron, caller):
        chat = asyncio.create_task(caller.json("POST", CHAT, SMALL))
        await neuron.until(lambda: bool(neuron.asked(CHAT)))
        assert (await caller.json("POST", "/models/unload", {"model_id": "org/a"}))[0] == 409
        assert (await caller.json("POST", "/models/unload", {"model_id": "org/a", "drain_s": 5.0}))[0] == 200
        assert (await chat)[0] == 200


async def test_it_comes_back_on_its_port_as_another_boot() -> None:
    async with running(FakeModel(id="org/a", load_s=0.0)) as (neuron, caller):
        await caller.json("POST", "/models/load", {"model_id": "org/a"})
        before, url = neuron.boot_id, neuron.url
        await neuron.stop()
        await neuron.start()
        assert (neuron.url, neuron.loaded) == (url, [])
        assert neuron.boot_id != before
