"""Bodies of the control routes. Their errors are flat, `{"error": text, "code": ...}`, which every gateway reads; but a
preflight refusal is `{"error": {"kind", "model_id", ...}}`. Those of `/v1/*` are wire/envelopes'.
"""

from __future__ import annotations

import math

import msgspec

from helexa.base.errors import HelexaError, Refused
from helexa.http1.message import Header
from helexa.http1.server import Reply

JSON: list[Header] = [(b"content-type", b"application/json")]
SSE: list[Header] = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
SIGN_OF_LIFE = b": keep-alive\n\n"

_encoder = msgspec.json.Encoder(enc_hook=str)


def encode(body: object) -> bytes:
    """Any of our structs, or plain data, as JSON."""
    return _encoder.encode(body)


def send(reply: Reply, body: object, status: int = 200, more: list[Header] | None = None) -> None:
    """A JSON answer."""
    reply.send(status, JSON + (more or []), encode(body))


def refuse(reply: Reply, error: HelexaError, status: int | None = None) -> None:
    """An error of a control route."""
    if isinstance(error, Refused):
        return send(reply, {"error": {**error.fields, "message": error.message}}, error.status)
    headers: list[Header] = []
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after))))
    body = {**error.fields, "error": error.message, "code": error.code}
    return send(reply, body, status or error.status, headers)
