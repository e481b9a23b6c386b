"""Refusals of requests that never became one (bad framing, too large), in the envelope of the path they were for."""

from __future__ import annotations

from collections.abc import Sequence

from helexa.base.ids import fresh
from helexa.http1.message import Header
from helexa.neuron.api import answers
from helexa.wire import envelopes
from helexa.wire.canon import Fault


def refusal(status: int, code: str, message: str, target: bytes) -> tuple[Sequence[Header], bytes]:
    """Headers and body of a refusal, for the http1 server."""
    if target.startswith(b"/v1/"):
        fault = Fault(status=status, code=code, message=message)
        rendered = envelopes.openai(fault, request_id=fresh("req_"))
        return [(name.encode(), value.encode()) for name, value in rendered.headers], rendered.body
    return answers.JSON, answers.encode({"error": message, "code": code})
