"""What an engine said went wrong, in whichever of the forms engines use, as a neutral `Fault`.

Our own neuron answers with the OpenAI envelope of `envelopes`, so its code and details come through as they are.
llama.cpp, vLLM, FastAPI and plain text have their own; only "the prompt is too long" needs more than the message,
because clients read the two numbers out of it.
"""

from __future__ import annotations

import re
from typing import cast

import msgspec

from helexa.wire.canon import Fault
from helexa.wire.envelopes import CONTEXT

_TOO_LONG_TYPES = ("exceed_context_size_error", CONTEXT)
_TOO_LONG = (
    re.compile(r"maximum context length is (?P<window>\d+) tokens\D+?(?P<prompt>\d+) tokens"),
    re.compile(r"passed (?P<prompt>\d+) input tokens.*?context length is only (?P<window>\d+)", re.DOTALL),
    re.compile(r"prompt \(length (?P<prompt>\d+)\) is longer than the maximum model length of (?P<window>\d+)"),
    re.compile(r"prompt is too long: (?P<prompt>\d+) tokens > (?P<window>\d+)"),
    re.compile(r"request \((?P<prompt>\d+) tokens\) exceeds the available context size \((?P<window>\d+) tokens\)"),
    re.compile(r"input \((?P<prompt>\d+) tokens\) is too large to process.*?batch size: (?P<window>\d+)"),
)
_FIELD = re.compile(r"Field '(\w+)'")
"""How llama.cpp names a field that it does not take..."""
_FIELD_OF = {
    "JSON schema error": "response_format",
    "failed to parse grammar": "response_format",
    "initialize samplers: std::exception": "response_format",  # which the assistant's last words do not begin
    "penalty_repeat": "repeat_penalty",
    "Prompt contains invalid tokens": "prompt",
    "Input content cannot be empty": "input",
    "vector::_M_range_check": "tokens",
}
"""... and what it says of one without a name. The last is a token id beyond the vocabulary, which it calls a 500."""
# What llama.cpp calls a failure of its own, and is the request's: with 500 every SDK would try it again.
_REQUESTS_FAULT = re.compile(r"(image|audio|video) input is not supported|^Failed to parse (messages|tools)")
_CODE_OF_STATUS = {429: "rate_limit_exceeded", 503: "service_unavailable"}
_TEXT_LIMIT = 500
_ADVICE = " Start it with"  # llama.cpp's, on its own command line: nothing that a client could do
_TEXTS = ("messages", "prompt")


def upstream_fault(status: int, body: bytes, *, retry_after: float | None = None, text: str = "") -> Fault:
    """The fault behind an engine's error answer, whatever its form; never raises. `text`: the field that the text came
    in, where that is known; engines make all of it a prompt."""
    error = _error_object(body)
    message = _text(error.get("message")) or f"The engine answered with status {status}."
    code = _text(error.get("code")) or _text(error.get("type"))
    if (too_long := _too_long(error, code, message)) is not None:
        param = _named(_text(error.get("param")) or "messages", text)
        return Fault(status=400, code=CONTEXT, message=message, param=param, details=too_long)
    if status == 501:  # not for this model, ever: clients repeat every 5xx, so it is none for them
        status, message = 400, message.partition(_ADVICE)[0]
    param = _text(error.get("param")) or _field(message)
    if param == "tokens":
        status = 400
    if _REQUESTS_FAULT.search(message):
        status, param = 400, "messages"
    return Fault(
        status=status,
        code=_code(code, status),
        message=message,
        param=_named(param, text) or None,
        retry_after=retry_after,
        details=_details(error),
    )


def stream_fault(body: bytes) -> Fault:
    """The fault behind an error in mid-stream, where the status is inside, or is 500."""
    code = _error_object(body).get("code")
    return upstream_fault(code if isinstance(code, int) and 400 <= code < 600 else 500, body)


def _error_object(body: bytes) -> dict[str, object]:
    try:
        document: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = body.decode("utf-8", "replace")[:_TEXT_LIMIT].strip()
    if not isinstance(document, dict):
        return {"message": document}
    whole = cast(dict[str, object], document)
    inner = whole.get("error", whole.get("detail", whole))
    return cast(dict[str, object], inner) if isinstance(inner, dict) else {"message": inner}


def _field(message: str) -> str:
    match = _FIELD.match(message)
    return match[1] if match else next((name for said, name in _FIELD_OF.items() if said in message), "")


def _named(param: str, text: str) -> str:
    return text if text and param in _TEXTS else param


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _code(code: str, status: int) -> str:
    if code and code not in ("invalid_request_error", "server_error"):
        return code
    return _CODE_OF_STATUS.get(status, "invalid_request_error" if status < 500 else "upstream_error")


def _details(error: dict[str, object]) -> dict[str, object]:
    details = error.get("details")
    return cast(dict[str, object], details) if isinstance(details, dict) else {}


def _too_long(error: dict[str, object], code: str, message: str) -> dict[str, object] | None:
    """The two numbers, if this is about the window; an empty dict when it is, but does not say them."""
    details = _details(error)
    if error.get("type") in _TOO_LONG_TYPES or code in _TOO_LONG_TYPES:
        prompt, window = error.get("n_prompt_tokens"), error.get("n_ctx")
        if isinstance(prompt, int) and isinstance(window, int):
            return {**details, "prompt_tokens": prompt, "context_tokens": window}
        return details or _numbers(message) or {}
    return _numbers(message)


def _numbers(message: str) -> dict[str, object] | None:
    for pattern in _TOO_LONG:
        if match := pattern.search(message):
            return {"prompt_tokens": int(match["prompt"]), "context_tokens": int(match["window"])}
    return None
