"""A request in a dialect that neurons do not speak: translated on the way in, and back on the way out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from helexa.base.errors import HelexaError
from helexa.gateway.act.proxy import Headers
from helexa.http1.server import Request
from helexa.wire import envelopes
from helexa.wire.envelopes import Rendered
from helexa.wire.peek import prefix_of
from helexa.wire.translate import Exchange
from helexa.wire.upstream import upstream_fault

log = logging.getLogger(__name__)

Rendering = Callable[..., Rendered]
_logged: set[str] = set()


class Translated:
    """One exchange as a call. `render` makes the dialect's error answers; `done` is told when an answer is whole."""

    __slots__ = ("_done", "_exchange", "_render", "_session", "asked", "endpoint", "stream")

    def __init__(
        self, exchange: Exchange, asked: str, render: Rendering, session: str | None, done: Callable[[], None]
    ) -> None:
        self._exchange = exchange
        self._render = render
        self._done = done
        self.asked = asked
        self.endpoint = "/v1/chat/completions"
        self.stream = exchange.stream
        self._session = session or exchange.affinity
        note(exchange.notices)

    @property
    def verbatim(self) -> bool:
        """Whether the neuron's stream is the client's, byte for byte."""
        return False

    def affinity(self) -> str | None:
        """The session's own key, or how its prompt begins."""
        return self._session or prefix_of(self._exchange.request, self.endpoint)

    def body_for(self, model: str) -> bytes:
        return self._exchange.request  # it names the model already: the edge resolved it to know what it can do

    def opening(self) -> bytes:
        return self._exchange.opening()

    def keepalive(self) -> bytes:
        return self._exchange.keepalive("queued")

    def feed(self, data: bytes) -> bytes:
        return self._exchange.feed(data)

    def end(self, tail: bytes) -> bytes:
        out = self._exchange.end()
        self._done()
        return out

    def answer(self, body: bytes) -> bytes:
        out = self._exchange.answer(body)
        self._done()
        return out

    def fail(self, error: HelexaError) -> bytes:
        return self._exchange.fail(error)

    def refuse(self, error: HelexaError, request_id: str) -> tuple[int, Headers, bytes]:
        return refusal(self._render, error, request_id)

    def passed_error(self, status: int, headers: Headers, body: bytes, request_id: str) -> tuple[int, Headers, bytes]:
        return passed(self._render, status, headers, body, request_id)


def refusal(render: Rendering, error: HelexaError, request_id: str) -> tuple[int, Headers, bytes]:
    """An error answer in the dialect that `render` writes, request ids among its headers."""
    return as_answer(render(error, request_id=request_id))


def passed(
    render: Rendering, status: int, headers: Headers, body: bytes, request_id: str
) -> tuple[int, Headers, bytes]:
    """An engine's error answer in the words of the client's dialect."""
    retry = next((value for name, value in headers if name == b"retry-after"), b"")
    fault = upstream_fault(status, body, retry_after=float(retry) if retry.isdigit() else None)
    return as_answer(render(fault, request_id=request_id))


def as_answer(rendered: Rendered) -> tuple[int, Headers, bytes]:
    headers = [(name.encode(), value.encode("latin-1", "replace")) for name, value in rendered.headers if value]
    return rendered.status, headers, rendered.body


def note(notices: Iterable[str]) -> None:
    """Fields that were ignored, logged the first time each is seen."""
    fresh = [notice for notice in notices if notice not in _logged]
    if fresh and len(_logged) < 1000:
        _logged.update(fresh)
        log.info("ignored in requests: %s", ", ".join(fresh))


def dialect_of(request: Request) -> Rendering:
    """Whose errors a request expects: Anthropic's under /v1/messages or with its version header, else OpenAI's."""
    if request.path.startswith("/v1/messages") or request.header(b"anthropic-version") is not None:
        return envelopes.anthropic
    return envelopes.openai
