"""The llama engine with the real model: through the whole neuron, one load for all of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from helexa.neuron.app import Neuron
from helexa.neuron.config import DeviceEntry, NeuronConfig
from tests.neuron.api.client import Client
from tests.neuron.helpers import until

pytest.importorskip("xllamacpp")


@pytest.fixture
def model_id(smollm2_path: Path) -> str:
    return f"file:{smollm2_path}"


@pytest.fixture
async def client(model_id: str):
    # one thread: several wait for each other at every step, which takes for ever on processors that have other work
    config = NeuronConfig(port=0, devices=[DeviceEntry(kind="cpu", memory_mb=4000, threads=1)])
    async with Neuron(config, drain_s=0.5) as neuron:
        client = Client(neuron)
        client.patience_s = 25.0
        body = {"model_id": model_id, "context": 2048, "options": {"slots": 2}}
        assert (await client.post("/models/load", body)).json["status"] == "loaded"
        yield client
        await client.origin.aclose()


async def test_a_real_model_answers_streams_counts_and_unloads(client: Client, model_id: str) -> None:
    (row,) = (await client.get("/models")).json
    assert row["harness"] == "llama"
    assert row["limit"]["context"] == 2048
    assert "text" in row["capabilities"]

    whole = await client.chat(model_id, "The capital of France is", max_tokens=8, temperature=0, seed=1)
    assert whole.status == 200
    assert whole.json["usage"]["completion_tokens"] == 8
    assert whole.json["model"] == model_id
    streamed = await client.chat(
        model_id, "The capital of France is", max_tokens=8, temperature=0, seed=1, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    assert streamed.text
    assert streamed.events[-1] == "[DONE]"
    assert any(event.get("usage", {}).get("completion_tokens") == 8 for event in streamed.events[:-1] if event)

    tokens = (await client.post("/tokenize", {"model": model_id, "content": "hello world"})).json["tokens"]
    assert (await client.post("/detokenize", {"model": model_id, "tokens": tokens})).json["content"] == "hello world"

    too_long = await client.chat(model_id, "word " * 4000)
    assert (too_long.status, too_long.json["error"]["code"]) == (400, "context_length_exceeded")

    assert (await client.post("/models/unload", {"model_id": model_id})).json["freed_mb"] > 0
    assert (await client.get("/models")).json == []


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_the_slot_in_the_engine(client: Client, model_id: str, stream: bool) -> None:
    """Long before the answer would have ended: 1,900 tokens take this model more than ten seconds."""
    keeper = client.neuron.keeper
    (socket,) = keeper.sockets()
    asking = asyncio.create_task(client.chat(model_id, "Tell me a story.", stream=stream, max_tokens=1900, **LONG))
    await until_busy(socket, 1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await until(lambda: keeper.loads()[0].in_flight == 0)
    await until_busy(socket, 0)


async def test_a_client_that_leaves_in_a_long_prefill_frees_the_slot_at_the_next_batch(
    client: Client, model_id: str
) -> None:
    (socket,) = client.neuron.keeper.sockets()
    prompt = " ".join(f"w{at}" for at in range(400))
    asking = asyncio.create_task(client.chat(model_id, prompt, max_tokens=200, **LONG))
    await until_busy(socket, 1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await until_busy(socket, 0)


async def test_progress_frames_do_not_reach_the_client_unless_it_asked(client: Client, model_id: str) -> None:
    plain = await client.chat(model_id, "hi", stream=True, max_tokens=2)
    assert b"prompt_progress" not in plain.body
    assert plain.events[0]["choices"][0]["delta"]["role"] == "assistant"
    asked = await client.chat(model_id, "hi", stream=True, max_tokens=2, return_progress=True)
    assert b"prompt_progress" in asked.body


LONG = {"ignore_eos": True, "temperature": 0}


async def until_busy(socket: str, slots: int) -> None:
    async with asyncio.timeout(20):
        while await _busy_slots(socket) != slots:  # noqa: ASYNC110 - llama.cpp tells nobody when a slot comes free
            await asyncio.sleep(0.02)


async def _busy_slots(socket: str) -> int:
    from helexa.http1.client import Origin

    origin = Origin(unix_path=socket)
    answer = await origin.request(b"GET", b"/slots")
    body = await answer.read(1 << 20)
    await origin.aclose()
    return body.count(b'"is_processing":true')


async def test_a_conversation_survives_the_eviction_of_its_model(client: Client, model_id: str) -> None:
    """Its second turn, after an unload and a load, finds nearly all of its prompt computed."""
    spec = {"model_id": model_id, "context": 2048, "options": {"slots": 2}}
    turns = [{"role": "user", "content": "Repeat these words: " + " ".join(f"w{at}" for at in range(120))}]
    body = {"model": model_id, "max_tokens": 8, "temperature": 0}
    await client.post("/models/unload", {"model_id": model_id})
    await client.post("/models/load", spec)
    assert (await client.get("/models")).json[0]["kv_restored_tokens"] == 0
    first = (await client.post("/v1/chat/completions", body | {"messages": turns})).json

    await client.post("/models/unload", {"model_id": model_id})
    await client.post("/models/load", spec)
    assert (await client.get("/models")).json[0]["kv_restored_tokens"] >= first["usage"]["prompt_tokens"]

    turns += [first["choices"][0]["message"], {"role": "user", "content": "Go on."}]
    second = (await client.post("/v1/chat/completions", body | {"messages": turns})).json["usage"]
    assert second["prompt_tokens_details"]["cached_tokens"] >= 0.95 * second["prompt_tokens"]


async def test_an_option_llama_does_not_know_is_refused_with_those_it_does(client: Client, model_id: str) -> None:
    await client.post("/models/unload", {"model_id": model_id})
    got = await client.post("/models/load", {"model_id": model_id, "options": {"n_gpu_layer": 1}})
    assert got.status == 422
    assert "did you mean `n_gpu_layers`?" in got.json["error"]["message"]


async def test_a_file_that_is_no_model_leaves_its_reason_and_nothing_else(client: Client, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(64))
    got = await client.post("/models/load", {"model_id": f"file:{broken}"})
    assert got.status in (400, 422)
    assert (await client.get("/health")).json["devices"][0]["worker_state"] == "ready"
