"""Any chunking of any upstream stream is a valid stream of the client's dialect and says what the whole answer says."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from helexa.wire.translate import MessagesExchange, ResponsesExchange

from .grammar import Heard, messages_grammar, responses_grammar
from .scripts import Script, chunkings, scripts
from .shared import messages, responses


def _run(exchange: MessagesExchange | ResponsesExchange, chunks: list[bytes]) -> bytes:
    return b"".join([exchange.feed(piece) for piece in chunks]) + exchange.end()


@given(st.data(), scripts())
def test_any_chunking_of_any_stream_is_a_valid_messages_stream_with_the_whole_answers_content(
    data: st.DataObject, script: Script
) -> None:
    heard = messages_grammar(_run(messages({"stream": True}), data.draw(chunkings(script.stream))))
    whole = json.loads(messages().answer(script.whole))
    assert (heard.thoughts, heard.text) == (script.thoughts, script.text)
    assert [(id, name, json.loads(said)) for id, name, said in heard.calls] == [
        (id, name, json.loads(said)) for id, name, said in script.calls
    ]
    assert _said_in_message(whole) == (heard.thoughts, heard.text, [(i, n, json.loads(a)) for i, n, a in heard.calls])
    assert whole["stop_reason"] == heard.final["delta"]["stop_reason"]
    if "usage" in json.loads(script.whole):
        assert whole["usage"] == heard.final["usage"]


@given(st.data(), scripts(), st.sampled_from([None, "auto"]))
def test_any_chunking_of_any_stream_is_a_valid_responses_stream_with_the_whole_answers_content(
    data: st.DataObject, script: Script, summary: str | None
) -> None:
    body = {"stream": True, "reasoning": {"summary": summary}}
    heard = responses_grammar(_run(responses(body), data.draw(chunkings(script.stream))))
    whole = json.loads(responses(body).answer(script.whole))
    assert (heard.thoughts, heard.text) == (script.thoughts, script.text)
    assert heard.calls == list(script.calls)
    assert _said_in_response(whole) == (heard.thoughts, heard.text, heard.calls)
    assert (whole["status"], whole["incomplete_details"]) == (heard.final["status"], heard.final["incomplete_details"])
    if "usage" in json.loads(script.whole):
        assert whole["usage"] == heard.final["usage"]


@given(st.data(), scripts())
def test_a_stream_cut_anywhere_before_its_finish_ends_in_an_error_event_and_never_looks_complete(
    data: st.DataObject, script: Script
) -> None:
    body = b"".join(script.pieces)
    cut = body[: data.draw(st.integers(0, len(body)))]
    for exchange, check in ((messages(), messages_grammar), (responses(), responses_grammar)):
        heard: Heard = check(_run(exchange, [cut]))
        assert not heard.complete
        assert exchange.feed(script.stream) == b""
        assert exchange.end() == b""


@given(st.data(), scripts())
def test_keep_alives_may_come_between_any_two_chunks(data: st.DataObject, script: Script) -> None:
    stages = st.sampled_from([None, "queued", "loading"])
    for exchange, check in ((messages(), messages_grammar), (responses(), responses_grammar)):
        out = [exchange.keepalive(data.draw(stages))]
        for piece in data.draw(chunkings(script.stream)):
            out += [exchange.feed(piece), exchange.keepalive(data.draw(stages))]
        out += [exchange.end(), exchange.keepalive()]
        heard = check(b"".join(out))
        assert heard.complete
        assert heard.text == script.text


def _said_in_message(whole: dict[str, Any]) -> tuple[str, str, list[Any]]:
    content = whole["content"]
    return (
        "".join(block["thinking"] for block in content if block["type"] == "thinking"),
        "".join(block["text"] for block in content if block["type"] == "text"),
        [(block["id"], block["name"], block["input"]) for block in content if block["type"] == "tool_use"],
    )


def _said_in_response(whole: dict[str, Any]) -> tuple[str, str, list[Any]]:
    heard = Heard()
    for item in whole["output"]:
        if item["type"] == "function_call":
            heard.calls.append((item["call_id"], item["name"], item["arguments"]))
        elif item["type"] == "reasoning":
            heard.thoughts += "".join(part["text"] for part in item["content"] + item["summary"])
        else:
            heard.text += "".join(part["text"] for part in item["content"])
    return heard.thoughts, heard.text, heard.calls
