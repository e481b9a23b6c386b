"""Every dialect through the whole chain, with the vendors' own SDKs and the real model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import anthropic
import httpx2
import openai
import pytest
import pytest_asyncio

from helexa.testing.fleet import Fleet, ask

from .test_fleet import DEVICE, echo
from .test_up import MODEL, Up

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    running = Up(tmp_path_factory.mktemp("up"))
    running.until_printed("Ctrl-C stops everything")
    yield running
    running.end()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    tools = [{"name": "look", "arguments": {"at": "sky"}}, {"name": "wait", "arguments": {}}]
    models = (
        echo("slow to message", memory_mb=100, load_s=2.5)
        + echo("slow to respond", memory_mb=100, load_s=2.5)
        + echo("tooler", memory_mb=100, tool_calls=tools)
        + echo("stumbles", memory_mb=100, tokens_per_s=200, reply="word " * 400, fail="step:5")
    )
    async with Fleet(tmp_path_factory.mktemp("fleet"), neurons={"n1": DEVICE}, models=models) as running:
        yield running


def test_the_anthropic_sdk_gets_the_same_message_streamed_and_not(up: Up) -> None:
    with anthropic.Anthropic(base_url=up.url, api_key="anything", max_retries=0) as client:
        body = {"model": MODEL, "max_tokens": 8, "messages": [{"role": "user", "content": "Say hello."}]}
        whole = client.messages.create(**body, extra_body={"temperature": 0, "seed": 1})
        assert whole.content[0].text
        assert whole.stop_reason == "max_tokens"
        assert whole.usage.output_tokens == 8
        with client.messages.stream(**body, extra_body={"temperature": 0, "seed": 1}) as stream:
            streamed = stream.get_final_message()
        assert streamed.content[0].text == whole.content[0].text
        prompt = whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)
        counted = client.messages.count_tokens(model=MODEL, messages=body["messages"])
        assert counted.input_tokens == prompt


def test_the_stop_sequence_that_was_met_is_named(up: Up) -> None:
    body = {"model": MODEL, "max_tokens": 40, "messages": [{"role": "user", "content": "Say hello."}]}
    with anthropic.Anthropic(base_url=up.url, api_key="anything", max_retries=0) as client:
        said = client.messages.create(**body, extra_body={"temperature": 0}).content[0].text
        stop = said.split()[2]
        met = client.messages.create(**body, stop_sequences=["~~", stop], extra_body={"temperature": 0})
        assert (met.stop_reason, met.stop_sequence) == ("stop_sequence", stop)
        assert met.content[0].text == said[: said.index(stop)]
        with client.messages.stream(**body, stop_sequences=["~~", stop], extra_body={"temperature": 0}) as stream:
            assert stream.get_final_message().stop_sequence == stop


def test_the_openai_sdk_gets_a_response_and_can_go_on_from_it(up: Up) -> None:
    with openai.OpenAI(base_url=f"{up.url}/v1", api_key="anything", max_retries=0) as client:
        first = client.responses.create(model=MODEL, input="Say hello.", max_output_tokens=8, temperature=0)
        assert first.output_text
        second = client.responses.create(
            model=MODEL, input="And now?", previous_response_id=first.id, max_output_tokens=8, temperature=0
        )
        assert second.usage is not None
        assert first.usage is not None
        assert second.usage.input_tokens > first.usage.input_tokens
        events = [
            event.type
            for event in client.responses.create(
                model=MODEL, input="Say hello.", max_output_tokens=4, temperature=0, stream=True
            )
        ]
        assert events[0] == "response.created"
        assert events[-1] == "response.incomplete"
        assert client.responses.retrieve(first.id).output_text == first.output_text
        client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(first.id)


def test_a_prompt_that_is_too_long_is_told_in_the_words_each_client_parses(up: Up) -> None:
    text = "one two three four five six seven eight nine ten " * 2000
    with openai.OpenAI(base_url=f"{up.url}/v1", api_key="x", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}])
        assert refused.value.code == "context_length_exceeded"
    with (
        anthropic.Anthropic(base_url=up.url, api_key="x", max_retries=0) as other,
        pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > \d+ maximum"),
    ):
        other.messages.create(model=MODEL, max_tokens=5, messages=[{"role": "user", "content": text}])


@pytest.mark.asyncio(loop_scope="module")
async def test_parallel_tool_calls_arrive_whole_in_both_dialects(fleet: Fleet) -> None:
    tool = {"name": "look", "description": "", "input_schema": {"type": "object"}}
    body = {**ask("tooler"), "max_tokens": 50, "tools": [tool, {**tool, "name": "wait"}]}
    message = (await fleet.http.post("/v1/messages", json=body)).json()
    calls = [(block["name"], block["input"]) for block in message["content"] if block["type"] == "tool_use"]
    assert calls == [("look", {"at": "sky"}), ("wait", {})]
    assert message["stop_reason"] == "tool_use"
    client = anthropic.AsyncAnthropic(base_url=fleet.url, api_key="x", max_retries=0)
    async with client, client.messages.stream(**body) as stream:
        streamed = await stream.get_final_message()
    assert [(b.name, b.input) for b in streamed.content if b.type == "tool_use"] == calls


@pytest.mark.parametrize(
    ("path", "body", "alive"),
    [
        ("/v1/messages", {"max_tokens": 9, **ask("slow to message")}, "event: ping"),
        ("/v1/responses", {"model": "slow to respond", "input": "hello"}, "event: response.in_progress"),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_client_that_waits_for_a_load_is_kept_company_in_its_own_grammar(
    fleet: Fleet, path: str, body: dict[str, object], alive: str
) -> None:
    async with fleet.http.stream("POST", path, json={**body, "stream": True}) as answer:
        lines = [line async for line in answer.aiter_lines() if line]
    assert lines.count(alive) >= 2
    assert any("hello" in line or "one" in line for line in lines)


@pytest.mark.parametrize(
    ("path", "body", "sign", "never"),
    [
        ("/v1/messages", {"max_tokens": 99, **ask("stumbles")}, "event: error", "event: message_stop"),
        ("/v1/responses", {"model": "stumbles", "input": "x"}, "event: response.failed", "event: response.completed"),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_an_engine_that_fails_in_mid_stream_never_looks_like_a_clean_end(
    fleet: Fleet, path: str, body: dict[str, object], sign: str, never: str
) -> None:
    async with fleet.http.stream("POST", path, json={**body, "stream": True}) as answer:
        lines = [line async for line in answer.aiter_lines() if line]
    assert sign in lines
    assert never not in lines


def test_models_are_listed_in_the_shape_of_the_one_who_asks(up: Up) -> None:
    with anthropic.Anthropic(base_url=up.url, api_key="x") as client:
        assert [model.id for model in client.models.list()] == [MODEL]
        assert client.models.retrieve(MODEL).display_name == MODEL
    assert httpx2.head(f"{up.url}/api/hello").status_code == 200


@pytest.mark.asyncio(loop_scope="module")
async def test_errors_come_in_the_dialect_of_the_path(fleet: Fleet) -> None:
    messages = await fleet.http.post("/v1/messages", json={"model": "nobody", "max_tokens": 1, "messages": []})
    assert messages.status_code == 404
    assert messages.json()["type"] == "error"
    assert messages.json()["error"]["type"] == "not_found_error"
    responses = await fleet.http.post("/v1/responses", content=b"{")
    assert responses.status_code == 400
    assert responses.json()["error"]["type"] == "invalid_request_error"
