"""Errors in each dialect's own words: one neutral `Fault` in, status, headers and body out.

The table is docs/reference/dialects.md, "Errors". Text is part of the contract where clients parse it: Claude Code
looks for "prompt is too long: N tokens > M maximum", Codex for the code `context_length_exceeded`. With any other text
Claude Code tries six smaller requests before it gives up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple, cast

import msgspec

from helexa.base.errors import HelexaError
from helexa.wire import sse
from helexa.wire.canon import BadAnswer, Fault

CONTEXT = "context_length_exceeded"

_MAX_RETRY_AFTER_S = 60  # the anthropic SDK obeys any value, the openai SDK gives up above 120
_DEFAULT_RETRY_AFTER_S = {429: 1.0, 503: 5.0, 529: 5.0}

_OPENAI_TYPE = {429: "rate_limit_error"}
_OPENAI_CODE = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
_ANTHROPIC_TYPE = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_RESPONSES_FIELDS = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
"""A neuron speaks of the chat request that it was sent; this is where the client said the same."""
_RESPONSES_CODES = frozenset((CONTEXT, "rate_limit_exceeded", "insufficient_quota", "server_error", "invalid_prompt"))


class Rendered(NamedTuple):
    """An HTTP error answer."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def fault_of(error: HelexaError | Fault) -> Fault:
    """The neutral form of any of our errors. Fields other than `param` become `details`."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, BadAnswer) and error.fault:
        return error.fault
    facts = dict(error.fields)
    param = facts.pop("param", None)
    retryable = facts.pop("should_retry", None)
    more = facts.pop("details", None)
    if isinstance(more, Mapping):
        facts |= cast(Mapping[str, object], more)
    return Fault(
        status=error.status,
        code=error.code,
        message=error.message,
        param=param if isinstance(param, str) else None,
        retry_after=error.retry_after,
        retryable=retryable if isinstance(retryable, bool) else None,
        details=facts,
    )


def openai(error: HelexaError | Fault, *, request_id: str) -> Rendered:
    """The answer of the OpenAI dialects: `{"error": {message, type, param, code[, details]}}`."""
    fault = fault_of(error)
    return _rendered(fault, fault.status, {"error": _openai_error(fault)}, request_id)


def responses(error: HelexaError | Fault, *, request_id: str) -> Rendered:
    """The same for a Responses request, with the field named as it is there."""
    fault = fault_of(error)
    field = _RESPONSES_FIELDS.get((fault.param or "").partition(".")[0], fault.param)
    return openai(replace(fault, param=field), request_id=request_id)


def anthropic(error: HelexaError | Fault, *, request_id: str) -> Rendered:
    """The answer of the Messages dialect. What cannot be served now is 529: its clients retry that one."""
    fault = fault_of(error)
    status = 529 if fault.status == 503 else fault.status
    return _rendered(fault, status, _anthropic_document(fault, request_id), request_id)


def chat_event(error: HelexaError | Fault) -> bytes:
    """The last frame of a broken chat or completions stream; no `[DONE]` may follow it."""
    return sse.encode(_json({"error": _openai_error(fault_of(error))}))


def messages_event(error: HelexaError | Fault, *, request_id: str = "") -> bytes:
    """The last frame of a broken Messages stream; no `message_stop` may follow it."""
    return sse.encode(_json(_anthropic_document(fault_of(error), request_id)), b"error")


def responses_error(error: HelexaError | Fault) -> dict[str, str]:
    """The `error` of a failed response, with one of the codes that clients of the dialect know."""
    fault = fault_of(error)
    return {"code": _responses_code(fault), "message": _openai_message(fault)}


def _responses_code(fault: Fault) -> str:
    if fault.code in _RESPONSES_CODES:
        return fault.code
    if fault.status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if 400 <= fault.status < 500 else "server_error"


def _openai_error(fault: Fault) -> dict[str, object]:
    kind = _OPENAI_TYPE.get(fault.status) or ("invalid_request_error" if fault.status < 500 else "server_error")
    code = fault.code if fault.code not in (kind, "") else None
    error: dict[str, object] = {
        "message": _openai_message(fault),
        "type": kind,
        "param": fault.param,
        "code": code or _OPENAI_CODE.get(fault.status),
    }
    if fault.details:
        error["details"] = fault.details
    return error


def _anthropic_document(fault: Fault, request_id: str) -> dict[str, object]:
    default = "invalid_request_error" if fault.status < 500 else "api_error"
    error: dict[str, object] = {
        "type": _ANTHROPIC_TYPE.get(fault.status, default),
        "message": _anthropic_message(fault),
    }
    if fault.details:
        error["details"] = fault.details
    document: dict[str, object] = {"type": "error", "error": error}
    if request_id:
        document["request_id"] = request_id
    return document


def _window(fault: Fault) -> tuple[object, object] | None:
    prompt, window = fault.details.get("prompt_tokens"), fault.details.get("context_tokens")
    return (prompt, window) if prompt is not None and window is not None else None


def _openai_message(fault: Fault) -> str:
    if fault.code == CONTEXT and (window := _window(fault)):
        return (
            f"This model's maximum context length is {window[1]} tokens. However, your messages resulted in "
            f"{window[0]} tokens. Please reduce the length of the messages."
        )
    return fault.message


def _anthropic_message(fault: Fault) -> str:
    if fault.code == CONTEXT:
        if window := _window(fault):
            return f"prompt is too long: {window[0]} tokens > {window[1]} maximum"
        return f"prompt is too long: {fault.message}"
    model = fault.details.get("model")
    if fault.code == "model_not_found" and model:
        return f"model: {model}. {fault.message}"
    return fault.message


def _rendered(fault: Fault, status: int, document: dict[str, object], request_id: str) -> Rendered:
    headers = [("content-type", "application/json"), ("request-id", request_id), ("x-request-id", request_id)]
    wait_s = fault.retry_after if fault.retry_after is not None else _DEFAULT_RETRY_AFTER_S.get(status)
    if wait_s is not None:
        wait_s = min(max(wait_s, 0.0), _MAX_RETRY_AFTER_S) if math.isfinite(wait_s) else _MAX_RETRY_AFTER_S
        headers += [("retry-after", str(max(1, math.ceil(wait_s)))), ("retry-after-ms", str(round(wait_s * 1000)))]
    if fault.retryable is not None:
        headers.append(("x-should-retry", "true" if fault.retryable else "false"))
    return Rendered(status, tuple(headers), _json(document))


def _json(document: object) -> bytes:
    return msgspec.json.encode(document, enc_hook=str)
