"""The data path: what a client of `/v1/*` gets, also when engines fail and clients leave."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from helexa.http1.client import UpstreamBroken
from tests.neuron.api.client import Client, chat_body
from tests.neuron.helpers import until


async def test_an_answer_comes_whole(client: Client) -> None:
    await client.load("org/m")
    got = await client.chat("org/m", "hello there")
    assert got.status == 200
    assert got.json["choices"][0]["message"]["content"] == "hello there"
    assert got.json["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert got.header(b"content-length") is not None


async def test_a_stream_says_the_same_and_ends_with_done(client: Client) -> None:
    await client.load("m")
    got = await client.chat("m", "one two three", stream=True, stream_options={"include_usage": True})
    assert got.header(b"content-type") == b"text/event-stream"
    assert got.text == "one two three"
    assert got.events[-1] == "[DONE]"
    assert got.events[-2]["usage"]["completion_tokens"] == 3


async def test_any_spelling_of_the_id_reaches_the_model(client: Client) -> None:
    await client.load("org/m")
    assert (await client.chat("hf:org/m", "x")).status == 200


async def test_unknown_fields_reach_the_engine_and_harm_nobody(client: Client) -> None:
    await client.load("m")
    assert (await client.chat("m", "x", frobnicate={"deep": [1]})).status == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [(b"{", None), (b"{}", "model"), (b'{"model": 7}', "model"), (b'{"model": ""}', "model"), (b"[]", None)],
)
async def test_a_bad_body_is_400_in_the_envelope(client: Client, body: bytes, param: str | None) -> None:
    got = await client.post("/v1/chat/completions", body)
    assert got.status == 400
    error = got.json["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


async def test_a_model_that_is_not_loaded_is_404_and_names_what_is(client: Client) -> None:
    await client.load("here")
    got = await client.chat("elsewhere", "x")
    assert (got.status, got.json["error"]["code"]) == (404, "model_not_found")
    assert "`here`" in got.json["error"]["message"]


async def test_a_model_that_is_loading_is_503_with_a_retry_after(client: Client) -> None:
    loading = asyncio.create_task(client.load("m", fail="hang:load"))
    await until(lambda: client.neuron.keeper.status("m") is not None)
    got = await client.chat("m", "x")
    assert got.status == 503
    assert got.header(b"retry-after") is not None
    loading.cancel()


async def test_a_prompt_over_the_window_is_400_with_both_numbers(client: Client) -> None:
    await client.post("/models/load", {"model_id": "m", "harness": "echo", "context": 8})
    got = await client.chat("m", "word " * 20)
    assert (got.status, got.json["error"]["code"]) == (400, "context_length_exceeded")
    assert "maximum context length is 8 tokens" in got.json["error"]["message"]


async def test_a_failed_step_in_a_stream_is_an_error_event_and_no_done(client: Client) -> None:
    await client.load("m", fail="step:2")
    got = await client.chat("m", "one two three", stream=True)
    assert got.text == "one two"
    assert "as asked" in got.events[-1]["error"]["message"]


async def test_a_failed_step_without_a_stream_is_500(client: Client) -> None:
    await client.load("m", fail="step:2")
    got = await client.chat("m", "one two three")
    assert got.status == 500
    assert "as asked" in got.json["error"]["message"]


async def test_an_engine_that_dies_in_a_stream_ends_it_with_an_error_event(client: Client) -> None:
    await client.load("m", fail="crash:2", tokens_per_s=100)
    got = await client.chat("m", "one two three", stream=True)
    assert got.events[-1]["error"]["code"] == "upstream_error"
    assert b"[DONE]" not in got.body


async def test_an_engine_that_dies_before_its_first_byte_is_502(client: Client) -> None:
    await client.load("m", fail="crash:0")
    got = await client.chat("m", "one two three")
    assert (got.status, got.json["error"]["type"]) == (502, "server_error")


async def test_killing_the_worker_ends_every_stream_and_the_model_comes_back(client: Client) -> None:
    await client.load("m", tokens_per_s=20, reply="word " * 200)
    async with client.chatting("m", "x", stream=True) as answer:
        pid = client.neuron.pool.pid(0)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        body = await answer.read(1 << 20)
    assert b'"error"' in body
    assert b"[DONE]" not in body
    await until(lambda: client.neuron.pool.restarts(0) == 1)
    assert (await client.load("m")).status == 200
    assert (await client.chat("m", "hi", max_tokens=1)).status == 200


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_its_seat(client: Client, stream: bool) -> None:
    await client.load("m", fail="hang:1", reply="one two")
    keeper = client.neuron.keeper
    asking = asyncio.create_task(client.chat("m", "x", stream=stream))
    await until(lambda: keeper.loads()[0].in_flight == 1)
    asking.cancel()
    await until(lambda: keeper.loads()[0].in_flight == 0)


async def test_a_silent_engine_does_not_silence_the_stream(client: Client) -> None:
    await client.load("m", prefill_tokens_per_s=1.0, reply="done")
    got = await client.chat("m", "x y", stream=True)
    assert got.body.count(b": keep-alive\n\n") >= 1
    assert got.body.index(b": keep-alive") < got.body.index(b"data: ")
    assert got.text == "done"


async def test_a_pause_in_mid_stream_is_filled_between_events_only(client: Client) -> None:
    await client.load("m", tokens_per_s=0.5, reply="one two")
    got = await client.chat("m", "x", stream=True)
    assert b": keep-alive\n\n" in got.body
    assert got.text == "one two"
    assert got.events[-1] == "[DONE]"


async def test_a_full_queue_is_503_with_a_retry_after_and_the_seats_go_round(client: Client) -> None:
    await client.load("m", fail="hang:9")
    keeper = client.neuron.keeper
    hanging = [asyncio.create_task(client.chat("m", "word " * 10)) for _ in range(2)]
    await until(lambda: keeper.loads()[0].in_flight == 2)
    queued = asyncio.create_task(client.chat("m", "x"))
    await until(lambda: keeper.loads()[0].queue_depth == 1)
    refused = await client.chat("m", "x")
    assert refused.status == 503
    assert refused.header(b"retry-after") is not None
    hanging[0].cancel()
    assert (await queued).status == 200
    hanging[1].cancel()
    await until(lambda: keeper.loads()[0].in_flight == 0)


async def test_calls_that_do_not_decode_work_beside_a_full_model(client: Client) -> None:
    await client.load("m", fail="hang:0")
    keeper = client.neuron.keeper
    hanging = [asyncio.create_task(client.chat("m", "x")) for _ in range(2)]
    await until(lambda: keeper.loads()[0].in_flight == 2)
    got = await client.post("/tokenize", {"model": "m", "content": "one two"})
    tokens = got.json["tokens"]
    assert len(tokens) == 2
    back = await client.post("/detokenize", {"model": "m", "tokens": tokens})
    assert back.json["content"] == "one two"
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)


async def test_embeddings_are_unit_vectors_of_the_text_alone(client: Client) -> None:
    await client.load("m")
    got = await client.post("/v1/embeddings", {"model": "m", "input": ["a", "b", "a"]})
    first, second, third = (row["embedding"] for row in got.json["data"])
    assert first == third != second
    assert abs(sum(value * value for value in first) - 1) < 1e-6


async def test_completions_and_the_list_of_models(client: Client) -> None:
    await client.load("m")
    got = await client.post("/v1/completions", {"model": "m", "prompt": "one two", "max_tokens": 1})
    assert got.json["choices"][0] == {"index": 0, "text": "one", "finish_reason": "length"}
    assert [row["id"] for row in (await client.get("/v1/models")).json["data"]] == ["m"]
    seen = await client.head("/v1/models")
    assert (seen.status, seen.body) == (200, b"")


async def test_an_answer_that_is_not_streamed_breaks_off_when_its_engine_dies(client: Client) -> None:
    """After the head of a plain body there is no grammar for an error: the connection must break."""
    await client.load("m", reply="word " * 400_000)
    body = chat_body("m", "x")
    from msgspec.json import encode

    answer = await client.origin.request(b"POST", b"/v1/chat/completions", (), encode(body))
    pid = client.neuron.pool.pid(0)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(UpstreamBroken):
        await answer.read(1 << 26)
