"""The table of errors, row by row, over HTTP and in each dialect; and what a stream ends in that broke."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
from typing import Any

import httpx2
import pytest

from helexa.gateway.act.proxy import Trip
from helexa.testing.fleet import eventually
from helexa.testing.neuron import Breaks, Ends, FakeModel, Hangs, Says

from .conftest import COLD, WARM, Edge

NEURON = "/v1/chat/completions"
PATHS = ["/v1/chat/completions", "/v1/responses", "/v1/messages"]


def body(path: str, model: str = WARM, **more: Any) -> bytes:
    said = "hello"
    prompt = {"input": said} if path == "/v1/responses" else {"messages": [{"role": "user", "content": said}]}
    limit = {"max_tokens": 9} if path == "/v1/messages" else {}
    return json.dumps({"model": model, **prompt, **limit, **more}).encode()


def told(path: str, answer: httpx2.Response) -> tuple[int, str, str | None]:
    """Status, type and code; the envelope must be the dialect's and carry the ids that each vendor's SDK reads."""
    document = answer.json()
    assert answer.headers["x-request-id"] == answer.headers["request-id"]
    error = document["error"]
    assert error["message"]
    if path == "/v1/messages":
        assert document["type"] == "error"
        assert document["request_id"] == answer.headers["request-id"]
        return answer.status_code, error["type"], None
    assert set(error) >= {"message", "type", "param", "code"}
    return answer.status_code, error["type"], error["code"]


def row(status: int, kind: str, code: str | None, anthropic: tuple[int, str]) -> dict[str, tuple[int, str, str | None]]:
    """What each path answers: OpenAI's status, type and code; Anthropic's status and type."""
    return {path: (*anthropic, None) if path == "/v1/messages" else (status, kind, code) for path in PATHS}


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> str:
    return request.param


async def test_an_unknown_model_is_404_and_names_the_nearest(edge: Edge, path: str) -> None:
    expected = row(404, "invalid_request_error", "model_not_found", (404, "not_found_error"))
    answer = await edge.post(path, body(path, "org/wram"))
    assert told(path, answer) == expected[path]
    assert WARM in answer.json()["error"]["message"]


@pytest.mark.parametrize("unknown", ["/v1/responses/compact", "/v1/messages/batches", "/v1/nothing"])
async def test_a_path_that_is_not_served_is_404_in_the_dialect_of_its_prefix(edge: Edge, unknown: str) -> None:
    kind = ("not_found_error", None) if "messages" in unknown else ("invalid_request_error", "not_found")
    prefix = "/v1/messages" if "messages" in unknown else unknown
    assert told(prefix, await edge.post(unknown, b"{}")) == (404, *kind)


@pytest.mark.parametrize("served", PATHS)
async def test_a_base_url_that_lacks_its_v1_or_has_it_twice_is_told_how_it_must_end(edge: Edge, served: str) -> None:
    lacking, doubled = await edge.post(served.removeprefix("/v1"), b"{}"), await edge.post(f"/v1{served}", b"{}")
    assert (lacking.status_code, doubled.status_code) == (404, 404)
    assert f"; {served} is served: the client's base URL must end in /v1." in lacking.json()["error"]["message"]
    assert f"; {served} is served: the client's base URL must end before /v1." in doubled.json()["error"]["message"]


async def test_a_stored_response_comes_whole_and_has_no_parts_of_its_own(edge: Edge) -> None:
    stored = (await edge.post("/v1/responses", body("/v1/responses"))).json()["id"]
    assert (await edge.http.get(f"/v1/responses/{stored}")).json()["id"] == stored
    streamed = await edge.http.get(f"/v1/responses/{stored}", params={"stream": "true"})
    assert (streamed.status_code, streamed.json()["error"]["param"]) == (400, "stream")
    parts = await edge.http.get(f"/v1/responses/{stored}/input_items")
    assert told("/v1/responses", parts) == (404, "invalid_request_error", "not_found")
    assert parts.json()["error"]["details"] == {"path": f"/v1/responses/{stored}/input_items"}


async def test_options_are_answered_and_open_nothing_to_other_origins(edge: Edge, path: str) -> None:
    answer = await edge.http.options(path, headers={"origin": "http://elsewhere"})
    assert (answer.status_code, answer.content) == (204, b"")
    assert "POST" in answer.headers["allow"]
    assert "access-control-allow-origin" not in answer.headers


async def test_a_body_that_is_too_large_is_413(edge: Edge, path: str) -> None:
    expected = row(413, "invalid_request_error", "request_too_large", (413, "request_too_large"))
    assert told(path, await edge.post(path, body(path, padding="x" * 1024 * 1024))) == expected[path]


async def test_a_body_that_is_packed_is_415_and_says_so(edge: Edge, path: str) -> None:
    expected = row(415, "invalid_request_error", "unsupported_content_encoding", (415, "invalid_request_error"))
    answer = await edge.post(path, gzip.compress(body(path)), {"content-encoding": "gzip"})
    assert told(path, answer) == expected[path]
    assert "`gzip`" in answer.json()["error"]["message"]
    assert (await edge.post(path, body(path), {"content-encoding": "identity"})).status_code == 200


async def test_a_prompt_that_is_too_long_is_told_in_the_words_that_clients_parse(edge: Edge, path: str) -> None:
    too_long = {
        "code": 400,
        "type": "exceed_context_size_error",
        "message": "m",
        "n_prompt_tokens": 9000,
        "n_ctx": 4096,
    }
    edge.neuron.fault(NEURON, Says(status=400, body=json.dumps({"error": too_long}).encode()))
    expected = row(400, "invalid_request_error", "context_length_exceeded", (400, "invalid_request_error"))
    answer = await edge.post(path, body(path))
    assert told(path, answer) == expected[path]
    if path == "/v1/messages":
        assert answer.json()["error"]["message"] == "prompt is too long: 9000 tokens > 4096 maximum"
    else:
        assert "maximum context length is 4096 tokens" in answer.json()["error"]["message"]


async def test_a_model_that_can_never_be_loaded_is_422_with_the_arithmetic(edge: Edge, path: str) -> None:
    edge.neuron.models[COLD].refuses = {"kind": "does_not_fit", "needed_mb": 99_000, "message": "needs 99 GB"}
    expected = row(422, "invalid_request_error", "model_refused", (422, "invalid_request_error"))
    answer = await edge.post(path, body(path, COLD))
    assert told(path, answer) == expected[path]
    assert answer.json()["error"]["details"]["needed_mb"] == 99_000


async def test_a_model_that_still_loads_is_503_with_the_time_to_come_back(edge: Edge, path: str) -> None:
    edge.neuron.models[COLD].load_s = 30.0
    expected = row(503, "server_error", "model_loading", (529, "overloaded_error"))
    answer = await edge.post(path, body(path, COLD))
    assert told(path, answer) == expected[path]
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert answer.json()["error"]["details"]["loading"]["state"] == "loading"


async def test_too_many_that_wait_for_one_model_are_429(edge: Edge, path: str) -> None:
    edge.neuron.models[COLD].load_s = 30.0
    expected = row(429, "rate_limit_error", "rate_limit_exceeded", (429, "rate_limit_error"))
    first, second = await asyncio.gather(*(edge.post(path, body(path, COLD)) for _ in range(2)))
    refused = first if first.status_code == 429 else second
    assert told(path, refused) == expected[path]
    assert int(refused.headers["retry-after"]) >= 1


async def test_no_node_at_all_is_503_and_not_404(edge: Edge, path: str) -> None:
    await edge.neuron.stop()
    expected = row(503, "server_error", "service_unavailable", (529, "overloaded_error"))
    await edge.post(path, body(path))  # the one that finds out
    answer = await edge.post(path, body(path))
    assert told(path, answer) == expected[path]
    assert int(answer.headers["retry-after"]) >= 1


async def test_an_engine_that_fails_is_500_and_a_node_that_breaks_off_502(edge: Edge, path: str) -> None:
    edge.neuron.fault(NEURON, Says(status=500, body=b'{"error":{"message":"boom","type":"server_error","code":500}}'))
    assert told(path, await edge.post(path, body(path)))[:2] == (
        500,
        "api_error" if path == "/v1/messages" else "server_error",
    )
    edge.neuron.fault(NEURON, Breaks())
    expected = row(502, "server_error", "upstream_error", (502, "api_error"))
    assert told(path, await edge.post(path, body(path))) == expected[path]


@pytest.mark.parametrize(
    ("status", "kind", "code", "anthropic"),
    [
        (401, "invalid_request_error", "invalid_api_key", "authentication_error"),
        (403, "invalid_request_error", None, "permission_error"),
        (409, "invalid_request_error", "conflict", "conflict_error"),
        (504, "server_error", "upstream_error", "timeout_error"),
    ],
)
async def test_what_a_node_answers_of_its_own_is_told_in_the_clients_words(
    edge: Edge, path: str, status: int, kind: str, code: str | None, anthropic: str
) -> None:
    error = {"message": "no", "type": kind, "code": "conflict" if status == 409 else None}
    edge.neuron.fault(NEURON, Says(status=status, body=json.dumps({"error": error}).encode()))
    assert told(path, await edge.post(path, body(path))) == row(status, kind, code, (status, anthropic))[path]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_node_that_is_silent_for_good_is_504_and_not_asked_again(
    impatient: Edge, path: str, stream: bool
) -> None:
    impatient.neuron.fault(NEURON, Hangs())
    expected = row(504, "server_error", "upstream_timeout", (504, "timeout_error"))
    for asked in (1, 2):  # the first on a connection that is there already, the second on one of its own
        assert told(path, await impatient.post(path, body(path, stream=stream))) == expected[path]
        assert len(impatient.neuron.asked(NEURON)) == asked


async def test_a_node_that_falls_silent_in_mid_stream_is_told_in_the_streams_own_grammar(
    impatient: Edge, path: str
) -> None:
    impatient.neuron.fault(NEURON, Hangs(after=2))
    answer = await impatient.post(path, body(path, stream=True))
    whole, broken = LAST_WORDS[path]
    last = answer.text.rstrip().rpartition("\n\n")[2]
    assert whole not in answer.text
    assert broken in last
    assert "was silent for" in last


async def test_a_node_that_is_busy_is_not_a_node_that_is_broken(edge: Edge, path: str) -> None:
    busy = {"error": {"message": "its queue is full", "type": "server_error", "code": "rate_limit_exceeded"}}
    edge.neuron.fault(NEURON, Says(status=503, body=json.dumps(busy).encode(), retry_after=7))
    answer = await edge.post(path, body(path))
    assert answer.status_code == (529 if path == "/v1/messages" else 503)
    assert answer.headers["retry-after"] == "7"


LAST_WORDS = {
    "/v1/chat/completions": ("data: [DONE]", '"error"'),
    "/v1/responses": ("event: response.completed", "event: response.failed"),
    "/v1/messages": ("event: message_stop", "event: error"),
}


@pytest.mark.parametrize("fault", [Ends(after=3), Breaks(after=3)], ids=["ends", "breaks"])
async def test_a_stream_that_breaks_ends_in_its_dialects_error_and_never_looks_whole(
    edge: Edge, path: str, fault: Ends | Breaks
) -> None:
    edge.neuron.fault(NEURON, fault)
    answer = await edge.post(path, body(path, stream=True))
    assert answer.status_code == 200
    whole, broken = LAST_WORDS[path]
    assert whole not in answer.text
    assert broken in answer.text.rstrip().rpartition("\n\n")[2]


async def test_a_broken_messages_stream_names_the_request_as_its_headers_do(edge: Edge) -> None:
    edge.neuron.fault(NEURON, Ends(after=3))
    answer = await edge.post("/v1/messages", body("/v1/messages", stream=True))
    last = json.loads(answer.text.rstrip().rpartition("data: ")[2])
    assert last["type"] == "error"
    assert last["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("fault", [Breaks(after=3), Says(status=503, body=b"{}"), Says(status=502)])
async def test_a_request_that_failed_leaves_nothing_to_the_collector_of_cycles(
    edge: Edge, path: str, fault: Breaks | Says, streamed: bool
) -> None:
    """It runs so seldom that bodies of megabytes would be kept by the hundred."""
    edge.neuron.fault(NEURON, fault)

    async def forgotten() -> bool:
        return not any(type(each) is Trip and each.journey.request_id == "mine" for each in gc.get_objects())

    gc.disable()
    try:
        await edge.post(path, body(path, stream=streamed), {"x-request-id": "mine"})
        await eventually(forgotten, "the end of every trace of the request")
    finally:
        gc.enable()


WAITS = {
    "/v1/chat/completions": ('"delta":{"role":"assistant","content":""}', "\n: "),
    "/v1/responses": ("event: response.created", "event: response.in_progress"),
    "/v1/messages": ("event: message_start", "event: ping"),
}


@pytest.fixture
def talkative(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits hears from us ten times as often."""
    for place in ("act.company", "flow"):
        monkeypatch.setattr(f"helexa.gateway.{place}.EVERY_S", 0.09)


@pytest.mark.usefixtures("talkative")
async def test_who_waits_for_a_load_is_kept_company_in_its_own_grammar(edge: Edge, path: str) -> None:
    edge.neuron.models[COLD] = FakeModel(id=COLD, load_s=0.8)
    answer = await edge.post(path, body(path, COLD, stream=True))
    opening, alive = WAITS[path]
    assert opening in answer.text[:800]
    assert answer.text.count(alive) >= 1
    assert LAST_WORDS[path][0] in answer.text
    assert LAST_WORDS[path][1] not in answer.text


@pytest.mark.usefixtures("talkative")
async def test_a_prompt_that_proves_too_long_after_the_wait_keeps_its_words_in_the_stream(
    edge: Edge, path: str
) -> None:
    edge.neuron.models[COLD] = FakeModel(id=COLD, load_s=0.5)
    too_long = {"type": "exceed_context_size_error", "message": "m", "n_prompt_tokens": 9000, "n_ctx": 4096}
    edge.neuron.fault(NEURON, Says(status=400, body=json.dumps({"error": too_long}).encode()))
    answer = await edge.post(path, body(path, COLD, stream=True))
    words = {
        "/v1/messages": "prompt is too long: 9000 tokens > 4096 maximum",
        "/v1/responses": "context_length_exceeded",
        "/v1/chat/completions": '"code":"context_length_exceeded"',
    }
    assert words[path] in answer.text
    assert LAST_WORDS[path][0] not in answer.text


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (500, "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"),
        (500, "Failed to parse messages: Missing tool call type: {}"),
        (501, "This server does not support embeddings."),
    ],
)
async def test_what_the_request_is_to_blame_for_is_not_called_the_engines_failure(
    edge: Edge, path: str, status: int, message: str
) -> None:
    error = {"code": status, "message": message, "type": "server_error"}
    edge.neuron.fault(NEURON, Says(status=status, body=json.dumps({"error": error}).encode()))
    answer = await edge.post(path, body(path))
    assert told(path, answer)[:2] == (400, "invalid_request_error")
    assert message in answer.json()["error"]["message"]


LOST = {
    "/v1/chat/completions": [
        {"modalities": ["audio"]},
        {"audio": {"voice": "a"}},
        {"tools": [{"type": "custom"}]},
        {"tool_choice": {"type": "function", "function": {"name": "absent"}}},
    ],
    "/v1/responses": [
        {"previous_response_id": "resp_0"},
        {"conversation": "conv_0"},
        {"prompt": {"id": "p"}},
        {"background": True},
        {"tool_choice": {"type": "function", "name": "absent"}},
    ],
    "/v1/messages": [
        {"thread": {"type": "create"}},
        {"mcp_servers": [{"name": "a"}]},
        {"container": "c"},
        {"tool_choice": {"type": "tool", "name": "absent"}},
    ],
}


async def test_what_would_change_the_meaning_if_it_were_ignored_is_refused_by_name(edge: Edge, path: str) -> None:
    for fields in LOST[path]:
        answer = await edge.post(path, body(path, **fields))
        assert told(path, answer)[0] == 400, fields
        (name,) = fields
        error = answer.json()["error"]
        assert (error.get("param") or error["message"]).startswith(name), fields
    assert not edge.neuron.asked(NEURON)


async def test_what_is_not_known_is_ignored_and_told_once(
    edge: Edge, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = f"made_up_for{path.replace('/', '_')}"
    with caplog.at_level("INFO"):
        for _ in range(2):
            assert (await edge.post(path, body(path, **{unknown: {"a": 1}}))).status_code == 200
    assert caplog.text.count(unknown) == (0 if path == "/v1/chat/completions" else 1)  # there it goes on as it came
    assert (unknown.encode() in edge.neuron.asked(NEURON)[0].body) == (path == "/v1/chat/completions")
