"""What stays in its dialect reaches the neuron byte for byte, but for `model` where an alias stood."""

from __future__ import annotations

import json

import pytest

from helexa.gateway.edge.passing import Passing
from helexa.http1.message import Header, Request

from .conftest import Edge

CHAT = "/v1/chat/completions"

# Unknown fields, odd spacing, numbers that a re-encoding would change, a key given twice, a nested `model`, escapes.
ODD = (
    b'\r\n{ "made_up" : {"model":"nested", "a":[1.0, 1, 1e2, -0.0, 123456789012345678901234567890]},\t"model":  %b ,\n'
    b'"messages" :[ {"role":"user","content":"\\u00e9\\ud83d\\ude00 \\/ \xc3\xa9","x":null}],"temperature":1.0,'
    b'"twice":1,"twice":2, "seed":7 %b }\n'
)
NAMES = [
    pytest.param(b'"org/warm"', b'"org/warm"', id="as it is"),
    pytest.param(b'"an alias"', b'"org/warm"', id="alias"),
    pytest.param(b'"gpt-4o"', b'"org/warm"', id="glob"),
    pytest.param(b'"\\u0061n \\u0061lias"', b'"org/warm"', id="alias with escapes"),
    pytest.param(b'"org\\/warm"', b'"org\\/warm"', id="escaped, but itself"),
]


@pytest.mark.parametrize(("asked", "sent"), NAMES)
@pytest.mark.parametrize("stream", [b"", b',"stream" : true', b', "stream":false'])
async def test_a_request_reaches_the_neuron_unchanged_but_for_its_model(
    edge: Edge, asked: bytes, sent: bytes, stream: bytes
) -> None:
    answer = await edge.post(CHAT, ODD % (asked, stream))
    assert answer.status_code == 200
    (seen,) = edge.neuron.asked(CHAT)
    assert seen.body == ODD % (sent, stream)


async def test_a_model_given_twice_is_replaced_twice_because_parsers_differ_in_which_one_counts(edge: Edge) -> None:
    body = b'{"model":%b,"messages":[{"role":"user","content":"x"}], "mod\\u0065l" : %b}'
    assert (await edge.post(CHAT, body % (b'"gpt-1"', b'"gpt-2"'))).status_code == 200
    (seen,) = edge.neuron.asked(CHAT)
    assert seen.body == body % (b'"org/warm"', b'"org/warm"')


async def test_only_headers_on_the_list_reach_a_neuron(edge: Edge) -> None:
    headers = {
        "authorization": "Bearer secret",
        "cookie": "a=b",
        "x-helexa-node": "n2",
        "x-api-key": "secret",
        "x-include-thinking": "true",
        "traceparent": "00-1-2-01",
    }
    body = b'{"model":"org/warm","messages":[{"role":"user","content":"x"}]}'
    assert (await edge.post(CHAT, body, headers)).status_code == 200
    (seen,) = edge.neuron.asked(CHAT)
    assert {name for name, _ in seen.headers} <= {
        b"host", b"content-type", b"content-length", b"connection", b"x-include-thinking", b"traceparent",
    }  # fmt: skip
    assert (b"x-include-thinking", b"true") in seen.headers


def passing(body: bytes, *headers: Header) -> Passing:
    request = Request.of("POST", CHAT.encode(), list(headers), True)
    request.body = b'{"model":"m","messages":[{"role":"user","content":"x"}]' + body + b"}"
    return Passing(request, CHAT)


def test_a_stream_that_begins_before_its_model_is_there_names_the_model() -> None:
    first = passing(b',"stream":true').opening()
    chunk = json.loads(first.removeprefix(b"data: "))
    assert (chunk["model"], chunk["object"]) == ("m", "chat.completion.chunk")
    assert chunk["id"].startswith("chatcmpl-")
    assert chunk["created"] > 1_700_000_000
    assert chunk["choices"] == [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]


@pytest.mark.parametrize(
    ("headers", "body", "key"),
    [
        ([], b"", None),
        ([], b',"safety_identifier":"c"', "c"),
        ([], b',"safety_identifier":"c","user":"b"', "b"),
        ([], b',"safety_identifier":"c","user":"b","prompt_cache_key":"a"', "a"),
        ([(b"session-id", b"codex")], b',"prompt_cache_key":"a"', "codex"),
        ([(b"session-id", b"codex"), (b"x-session-affinity", b"opencode")], b"", "opencode"),
        ([(b"x-claude-code-session-id", b"cc"), (b"x-affinity", b"vibe")], b',"user":"b"', "cc"),
    ],
)
def test_the_most_telling_name_of_a_session_is_its_affinity_key(
    headers: list[Header], body: bytes, key: str | None
) -> None:
    assert passing(body, *headers).affinity() == key
