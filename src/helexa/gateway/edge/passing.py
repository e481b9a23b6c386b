"""A request whose dialect the neuron speaks itself: its bytes go through as they are."""

from __future__ import annotations

import time

import msgspec

from helexa.base.errors import HelexaError
from helexa.base.ids import fresh
from helexa.gateway.act.proxy import Headers
from helexa.gateway.edge.translated import passed, refusal
from helexa.http1.server import Request
from helexa.wire import envelopes
from helexa.wire.checks import CHECKS
from helexa.wire.peek import prefix_of, rewrite_model
from helexa.wire.sse import COMMENT, DONE, encode

SESSION_HEADERS = (
    b"x-session-affinity",
    b"x-claude-code-session-id",
    b"x-session-id",
    b"x-affinity",
    b"session-id",
)
"""What coding clients send to say which conversation this is, most telling first."""

_SESSION = frozenset(SESSION_HEADERS)


def session_of(request: Request) -> str | None:
    """The client's own key for its session, from whichever header it uses."""
    found = request.among(_SESSION)
    if not found:
        return None
    return (request.header(min(found, key=SESSION_HEADERS.index)) or b"").decode("latin-1")


class Passing:
    """Chat completions, completions, embeddings: OpenAI's dialect on both sides."""

    __slots__ = ("_found", "_request", "asked", "endpoint", "stream")

    def __init__(self, request: Request, endpoint: str) -> None:
        self._request = request
        self._found = found = CHECKS[endpoint](request.body)
        self.endpoint = endpoint
        self.asked = found.model
        self.stream = found.streamed

    @property
    def verbatim(self) -> bool:
        """Whether the neuron's stream is the client's, byte for byte."""
        return True

    def affinity(self) -> str | None:
        """The session's own key, or how its prompt begins."""
        request = self._request
        return session_of(request) or self._found.affinity or prefix_of(request.body, self.endpoint)

    def body_for(self, model: str) -> bytes:
        body = self._request.body
        return body if model == self.asked else rewrite_model(body, model)

    def opening(self) -> bytes:
        """A valid first chunk that says nothing yet: resets the idle timers that comments do not reset."""
        if self.endpoint != "/v1/chat/completions":
            return COMMENT
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        head = {"id": fresh("chatcmpl-"), "object": "chat.completion.chunk", "created": int(time.time())}
        return encode(msgspec.json.encode({**head, "model": self.asked, "choices": [choice]}))

    def keepalive(self) -> bytes:
        return COMMENT

    def feed(self, data: bytes) -> bytes:
        return data

    def end(self, tail: bytes) -> bytes:
        """Nothing after a proper end; an error event after a stream that just stopped."""
        closing = tail.rstrip()
        if closing.endswith(DONE.rstrip()) or b'data: {"error"' in closing:
            return b""
        lost = HelexaError("the stream ended before the answer was complete")
        return self.fail(lost)

    def answer(self, body: bytes) -> bytes:
        return body

    def fail(self, error: HelexaError) -> bytes:
        return envelopes.chat_event(error)

    def refuse(self, error: HelexaError, request_id: str) -> tuple[int, Headers, bytes]:
        return refusal(envelopes.openai, error, request_id)

    def passed_error(self, status: int, headers: Headers, body: bytes, request_id: str) -> tuple[int, Headers, bytes]:
        """The engine's error in OpenAI's words, with the codes that clients act on."""
        return passed(envelopes.openai, status, headers, body, request_id)
