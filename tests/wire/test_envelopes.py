"""Errors in both dialects' own words, and what engines say went wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helexa.base import errors
from helexa.wire import envelopes
from helexa.wire.canon import BadAnswer, Fault
from helexa.wire.upstream import stream_fault, upstream_fault

from .shared import encode

LONG = Fault(
    status=400, code="context_length_exceeded", message="m", details={"prompt_tokens": 9000, "context_tokens": 4096}
)
TABLE: list[tuple[Any, int, str, str | None, int, str]] = [
    (errors.InvalidRequest(param="x"), 400, "invalid_request_error", None, 400, "invalid_request_error"),
    (LONG, 400, "invalid_request_error", "context_length_exceeded", 400, "invalid_request_error"),
    (errors.Unauthorized(), 401, "invalid_request_error", "invalid_api_key", 401, "authentication_error"),
    (Fault(status=403, code="permission"), 403, "invalid_request_error", "permission", 403, "permission_error"),
    (errors.UnknownModel(model="x", hint=""), 404, "invalid_request_error", "model_not_found", 404, "not_found_error"),
    (errors.Conflict(reason="x"), 409, "invalid_request_error", "conflict", 409, "conflict_error"),
    (errors.BodyTooLarge(limit_mib=64), 413, "invalid_request_error", "request_too_large", 413, "request_too_large"),
    (
        errors.Refused(model="m", kind="oom"),
        422,
        "invalid_request_error",
        "model_refused",
        422,
        "invalid_request_error",
    ),
    (Fault(status=429, code=""), 429, "rate_limit_error", "rate_limit_exceeded", 429, "rate_limit_error"),
    (Fault(status=503, code="model_loading"), 503, "server_error", "model_loading", 529, "overloaded_error"),
    (errors.HelexaError(), 500, "server_error", "internal_error", 500, "api_error"),
    (errors.UpstreamFailed(node="n", reason="r"), 502, "server_error", "upstream_error", 502, "api_error"),
    (Fault(status=504, code="timeout"), 504, "server_error", "timeout", 504, "timeout_error"),
]


@pytest.mark.parametrize(("error", "status", "kind", "code", "a_status", "a_kind"), TABLE)
def test_every_row_of_the_error_table_has_both_dialects_words(
    error: Any, status: int, kind: str, code: str | None, a_status: int, a_kind: str
) -> None:
    openai = envelopes.openai(error, request_id="r1")
    said = json.loads(openai.body)["error"]
    assert (openai.status, said["type"], said["code"]) == (status, kind, code)
    assert set(said) >= {"message", "type", "param", "code"}
    anthropic = envelopes.anthropic(error, request_id="r1")
    document = json.loads(anthropic.body)
    assert (anthropic.status, document["type"], document["error"]["type"]) == (a_status, "error", a_kind)
    assert document["request_id"] == "r1"


def test_a_prompt_that_is_too_long_is_said_in_the_words_clients_parse() -> None:
    anthropic = json.loads(envelopes.anthropic(LONG, request_id="r").body)["error"]
    assert anthropic["message"] == "prompt is too long: 9000 tokens > 4096 maximum"
    openai = json.loads(envelopes.openai(LONG, request_id="r").body)["error"]
    assert openai["message"].startswith("This model's maximum context length is 4096 tokens.")
    assert "9000 tokens" in openai["message"]
    vague = Fault(status=400, code="context_length_exceeded", message="too much")
    assert json.loads(envelopes.anthropic(vague, request_id="r").body)["error"]["message"] == (
        "prompt is too long: too much"
    )
    assert json.loads(envelopes.openai(vague, request_id="r").body)["error"]["message"] == "too much"


@pytest.mark.parametrize(
    ("field", "named"),
    [("messages", "input"), ("messages.3.content", "input"), ("max_tokens", "max_output_tokens"), ("tools", "tools"),
     ("response_format.json_schema", "text.format"), ("temperature", "temperature"), (None, None)],
)  # fmt: skip
def test_a_field_of_the_neurons_request_is_named_as_the_responses_client_wrote_it(
    field: str | None, named: str | None
) -> None:
    answer = envelopes.responses(Fault(status=400, param=field), request_id="r")
    assert (answer.status, json.loads(answer.body)["error"]["param"]) == (400, named)


def test_an_unknown_model_is_named_the_anthropic_way() -> None:
    error = errors.UnknownModel(model="x", hint="Did you mean y?")
    assert json.loads(envelopes.anthropic(error, request_id="r").body)["error"]["message"].startswith("model: x")


def test_both_request_id_headers_are_sent() -> None:
    headers = dict(envelopes.openai(errors.HelexaError(), request_id="r1").headers)
    assert headers["request-id"] == headers["x-request-id"] == "r1"
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("fault", "seconds", "ms"),
    [
        (Fault(status=503, retry_after=2.2), "3", "2200"),
        (Fault(status=503, retry_after=1e9), "60", "60000"),
        (Fault(status=429, retry_after=0), "1", "0"),
        (Fault(status=429, retry_after=float("inf")), "60", "60000"),
        (Fault(status=429), "1", "1000"),
        (Fault(status=503), "5", "5000"),
        (Fault(status=500), None, None),
    ],
)
def test_retry_after_is_a_small_integer(fault: Fault, seconds: str | None, ms: str | None) -> None:
    headers = dict(envelopes.openai(fault, request_id="r").headers)
    assert (headers.get("retry-after"), headers.get("retry-after-ms")) == (seconds, ms)
    if fault.status != 500:
        assert "retry-after" in dict(envelopes.anthropic(fault, request_id="r").headers)


def test_a_deterministic_failure_says_not_to_try_again() -> None:
    headers = dict(envelopes.openai(errors.HelexaError(should_retry=False), request_id="r").headers)
    assert headers["x-should-retry"] == "false"
    assert dict(envelopes.openai(Fault(retryable=True), request_id="r").headers)["x-should-retry"] == "true"
    assert "x-should-retry" not in dict(envelopes.openai(Fault(), request_id="r").headers)


def test_facts_travel_as_details() -> None:
    error = errors.InvalidRequest("no", param="thread", details={"error_code": "thread_unsupported_request"})
    document = json.loads(envelopes.anthropic(error, request_id="").body)
    assert document["error"]["details"] == {"error_code": "thread_unsupported_request"}
    assert "request_id" not in document
    refused = errors.Refused(model="m", kind="too_big", needed=object())
    details = json.loads(envelopes.openai(refused, request_id="r").body)["error"]["details"]
    assert details["kind"] == "too_big"
    assert "details" not in json.loads(envelopes.openai(Fault(), request_id="r").body)["error"]


def test_a_bad_answer_with_a_fault_is_that_fault() -> None:
    fault = Fault(status=503)
    assert envelopes.fault_of(BadAnswer(fault=fault)) is fault
    assert envelopes.fault_of(BadAnswer(reason="r")).status == 502


def test_every_dialect_has_its_error_event_inside_a_stream() -> None:
    chat = envelopes.chat_event(errors.HelexaError())
    assert chat.startswith(b'data: {"error":{"message":"Something went wrong."')
    assert chat.endswith(b"\n\n")
    message = envelopes.messages_event(errors.HelexaError(), request_id="r")
    assert message.startswith(b'event: error\ndata: {"type":"error","error":{"type":"api_error"')
    assert envelopes.responses_error(errors.HelexaError()) == {
        "code": "server_error",
        "message": "Something went wrong.",
    }


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": 400, "message": "the request exceeds the available context size", "n_prompt_tokens": 9000,
                   "n_ctx": 4096, "type": "exceed_context_size_error"}},
        {"error": {"message": "request (9000 tokens) exceeds the available context size (4096 tokens), try",
                   "type": "exceed_context_size_error"}},
        {"object": "error", "code": 400, "message": "This model's maximum context length is 4096 tokens. However, you "
                                                     "requested 9000 tokens (8900 in the messages)."},
        {"error": {"message": "You passed 9000 input tokens and requested 5 output tokens. However, the model's "
                              "context length is only 4096 tokens."}},
        {"error": {"message": "input (9000 tokens) is too large to process. increase the physical batch size (current "
                              "batch size: 4096)", "type": "server_error"}},
        {"detail": "The decoder prompt (length 9000) is longer than the maximum model length of 4096."},
        {"type": "error", "error": {"type": "invalid_request_error",
                                    "message": "prompt is too long: 9000 tokens > 4096 maximum"}},
        {"error": {"code": "context_length_exceeded", "message": "m",
                   "details": {"prompt_tokens": 9000, "context_tokens": 4096}}},
    ],
)  # fmt: skip
def test_every_engines_way_to_say_too_long_is_understood(body: dict[str, Any]) -> None:
    fault = upstream_fault(400, encode(body))
    assert (fault.status, fault.code, fault.param) == (400, "context_length_exceeded", "messages")
    assert fault.details["prompt_tokens"] == 9000
    assert fault.details["context_tokens"] == 4096


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ("Field 'n': Value must be between 1 <= value <= 2, but got 3", "n"),
        ("Unable to generate parser for this template. JSON schema error at #: unrecognized type", "response_format"),
        ("Failed to initialize samplers: failed to parse grammar", "response_format"),
        ("Failed to initialize samplers: penalty_repeat must be finite and greater than 0", "repeat_penalty"),
    ],
)
def test_the_field_that_llama_cpp_speaks_of_is_named(said: str, field: str) -> None:
    fault = upstream_fault(400, encode({"error": {"code": 400, "message": said, "type": "invalid_request_error"}}))
    assert (fault.status, fault.code, fault.param) == (400, "invalid_request_error", field)


def test_a_token_beyond_the_vocabulary_is_the_askers_fault() -> None:
    said = {"code": 500, "message": "vector::_M_range_check: __n (which is 9) >= this->size()", "type": "server_error"}
    fault = upstream_fault(500, encode({"error": said}))
    assert (fault.status, fault.param) == (400, "tokens")


def test_too_long_without_numbers_is_still_too_long() -> None:
    fault = upstream_fault(500, encode({"error": {"type": "exceed_context_size_error", "message": "m"}}))
    assert (fault.status, fault.code, fault.details) == (400, "context_length_exceeded", {})


@pytest.mark.parametrize(
    ("status", "body", "code", "message"),
    [
        (500, b"Internal Server Error", "upstream_error", "Internal Server Error"),
        (500, b"", "upstream_error", "The engine answered with status 500."),
        (502, b"\xff\xfe", "upstream_error", "��"),
        (500, b'"text"', "upstream_error", "text"),
        (400, b'{"error":"bad"}', "invalid_request_error", "bad"),
        (400, b'{"error":{"message":"bad","type":"invalid_request_error"}}', "invalid_request_error", "bad"),
        (503, b'{"error":{"message":"wait","type":"server_error"}}', "service_unavailable", "wait"),
        (503, b'{"error":{"message":"wait","code":"model_loading"}}', "model_loading", "wait"),
        (429, b"{}", "rate_limit_exceeded", "The engine answered with status 429."),
        (400, b"[" * 100_000, "invalid_request_error", "[" * 500),
    ],
)
def test_any_error_body_becomes_a_fault(status: int, body: bytes, code: str, message: str) -> None:
    fault = upstream_fault(status, body, retry_after=3.0)
    assert (fault.status, fault.code, fault.message, fault.retry_after) == (status, code, message, 3.0)


def test_what_a_model_can_never_do_is_the_requests_fault_so_that_no_client_repeats_it() -> None:
    body = {
        "error": {"code": 501, "message": "No embeddings here. Start it with `--embeddings`", "type": "not_supported"}
    }
    fault = upstream_fault(501, encode(body))
    assert (fault.status, fault.code, fault.message) == (400, "not_supported", "No embeddings here.")


def test_our_own_neurons_refusal_comes_through_with_its_facts() -> None:
    refusal = envelopes.openai(errors.Refused(model="m", kind="too_big", needed_mib=9), request_id="r")
    fault = upstream_fault(refusal.status, refusal.body)
    assert (fault.status, fault.code) == (422, "model_refused")
    assert fault.details == {"model": "m", "kind": "too_big", "needed_mib": 9}


def test_an_error_in_mid_stream_brings_its_status_along() -> None:
    assert stream_fault(b'{"error":{"code":503,"message":"m"}}').status == 503
    assert stream_fault(b'{"error":{"code":7,"message":"m"}}').status == 500
    assert stream_fault(b"nonsense").status == 500


@pytest.mark.parametrize("text", ["prompt", "input"])
@pytest.mark.parametrize(
    "said", ["Prompt contains invalid tokens", "Failed to parse messages", "prompt is too long: 9 tokens > 8"]
)
def test_a_fault_of_a_text_names_the_field_that_it_came_in(text: str, said: str) -> None:
    body = encode({"error": {"message": said}})
    assert upstream_fault(400, body, text=text).param == text


def test_a_fault_of_anything_else_keeps_its_name() -> None:
    assert upstream_fault(400, b'{"error":{"message":"Field \'top_k\' is none"}}', text="prompt").param == "top_k"
