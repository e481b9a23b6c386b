"""The upstream client: keep-alive connections to one origin. See answer.py for the body, design.md for the retry."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from ssl import SSLContext, create_default_context
from typing import Self, cast
from urllib.parse import unquote, urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from helexa.http1.alarm import NEVER, Alarm
from helexa.http1.answer import (
    Answer,
    ConnectFailed,
    OutOfDescriptors,
    Source,
    Taker,
    UpstreamBroken,
    UpstreamError,
    UpstreamTimeout,
    Whole,
)
from helexa.http1.limits import Limits
from helexa.http1.message import BODILESS, Headers, KnownHead, request_head

__all__ = [
    "Answer",
    "ConnectFailed",
    "Origin",
    "OutOfDescriptors",
    "UpstreamBroken",
    "UpstreamError",
    "UpstreamTimeout",
    "Whole",
]

_JOIN_BELOW_BYTES = 64 * 1024  # above this a copy costs more than a second write
_STALE_WITHIN_S = 1.0  # a connection the server had closed shows it in a round trip, a crash mid-work seldom does


class _Link(asyncio.Protocol):
    """One connection to the origin, with at most one answer awaited on it."""

    _transport: asyncio.Transport

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.loop, self.name, self.high_bytes = origin.loop, str(origin), origin.limits.read_high_bytes
        self.deadline = NEVER
        self.reused = self.lost = self.paused = False
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # llhttp fills the list itself: no Python frame per piece
        self._parser = HttpResponseParser(self)
        self._answer: Taker | None = None
        self._index: dict[bytes, bytes] = {}
        self._known: tuple[KnownHead, int, dict[bytes, bytes]] | None = None
        self._asked_at = self._heard_at = self._wait_s = 0.0
        self._heard_bytes = 0
        self._bodiless = self._until_eof = self._complete = self._excess = self._keep = False

    def ask(self, head: bytes, body: bytes, answer: Taker, *, bodiless: bool = False, timeout_s: float = NEVER) -> None:
        """Send a request; `answer` is told of what comes. `bodiless`: whatever its head says, no body follows.

        `timeout_s` is as for `watch`.
        """
        self._index = {}
        self._heard_bytes = 0
        self._bodiless = bodiless
        self._until_eof = self._complete = self._excess = False
        self._answer = answer
        self._asked_at = self._heard_at = now = self.loop.time()
        self._wait_s, self.deadline = timeout_s, now + timeout_s
        if self.deadline < self.origin.alarm.at:
            self.origin.alarm.watch(self.deadline)
        if len(body) < _JOIN_BELOW_BYTES:
            self._write(head + body)
        else:
            self._write(head)
            self._write(body)

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():  # a write that failed has closed it, before we are told
            self._transport.write(data)

    def pause(self, on: bool) -> None:
        if on != self.paused and not self.lost:
            self.paused = on
            if on:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def watch(self, seconds: float | None) -> None:
        """Expect the head within `seconds`; once it is here, more of the body within as long, each time."""
        if seconds is None:
            self.deadline = NEVER
            return
        self._wait_s, self._heard_at = seconds, self.loop.time()
        self.deadline = deadline = self._heard_at + seconds
        if deadline < self.origin.alarm.at:
            self.origin.alarm.watch(deadline)

    @property
    def silent_since(self) -> float:
        """When it was last heard, or asked; NEVER where nobody waits or we do not read."""
        return NEVER if self._answer is None or self.paused else self._heard_at

    def expire(self, now: float) -> None:
        """The deadline has passed; what was heard since it was set has moved it."""
        if now < self._heard_at + self._wait_s:
            self.deadline = self._heard_at + self._wait_s
        elif self._answer is None:
            self.drop()
        else:
            self._end(UpstreamTimeout(origin=self.name, after_s=self._wait_s))

    def fail(self, reason: str) -> None:
        """The answer cannot be had any more: end it and the connection."""
        answered = self._heard_bytes > 0
        stale = self.reused and not answered and self.loop.time() - self._asked_at < _STALE_WITHIN_S
        self._end(UpstreamBroken(origin=self.name, reason=reason, answered=answered, stale=stale))

    def drop(self) -> None:
        """Close the connection; it is nobody's from here on."""
        self.deadline = NEVER
        self.origin.forget(self)
        if not self.lost:
            self.lost = True
            self._transport.abort()

    def _end(self, error: Exception | None) -> None:
        answer, self._answer = self._answer, None
        self.drop()
        if answer is not None:
            answer.end(error)

    # -- the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of asyncio's

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            self.drop()  # nobody asked: whatever this is, it would be read as the next answer
            return
        if answer.status:  # a head has to come in its time, not piece by piece for ever
            self._heard_at = self.loop.time()
        elif self._is_known(answer, data):
            return
        self._heard_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self._complete:
                self._pass_on(answer)
                self.fail(f"it is not valid HTTP ({error})")
                return
            self._excess = True
        if self._pieces:
            self._pass_on(answer)
        elif not answer.status and self._heard_bytes > self.origin.limits.max_header_bytes:
            self.fail("its head is too large")
            return
        if self._complete and self._answer is answer:
            if self._heard_bytes == len(data):
                self._learn(answer.status, data)
            self._finish(answer)

    def _learn(self, status: int, data: bytes) -> None:
        """The head of an answer that came in one piece: llhttp, between two messages, will not see the next like it."""
        head = data[: data.find(b"\r\n\r\n") + 4]
        if b"content-length" in self._index and status not in BODILESS and head.startswith(b"HTTP/1.1 %d " % status):
            known = KnownHead.of(head)
            self._known = None if known is None else (known, status, self._index)

    def _is_known(self, answer: Taker, data: bytes) -> bool:
        """Whether `data` was a whole answer with a head like that one: then it is told."""
        if self._known is None or self._heard_bytes or self._bodiless:
            return False
        head, status, index = self._known
        found = head.cut(data)
        if found is None:
            return False
        length, body = found
        if int(length) != len(body):
            return False
        if index[b"content-length"] != length:
            index = {**index, b"content-length": length}
        answer.open(status, index)
        if body:
            answer.deliver(body)
        self._heard_bytes = len(data)
        if self._answer is answer:
            self._finish(answer)
        return True

    def _pass_on(self, answer: Taker) -> None:
        pieces = self._pieces
        if not pieces:
            return
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._bodiless:
            self._excess = True
        else:
            answer.deliver(data)

    def _finish(self, answer: Taker) -> None:
        """The answer is complete: the connection goes back to the pool if it can serve again."""
        if not self._keep or self._excess or self._transport.get_write_buffer_size():
            self._end(None)
            return
        self._answer = None
        if self.paused:
            self.pause(False)
        if self._bodiless:
            self._parser = HttpResponseParser(self)  # the old one still waits for the body it was told of
        self.origin.keep(self)
        answer.end(None)

    def eof_received(self) -> None:
        answer = self._answer
        if answer is not None and self._until_eof:
            self._end(None)
        else:
            self.fail("the connection was closed")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.fail(f"the connection was lost ({exc})" if exc is not None else "the connection was closed")
        del self._parser, self.on_body  # they and this object hold each other

    # -- llhttp's calls

    def on_message_begin(self) -> None:
        if self._complete:
            raise HttpParserError("bytes after the answer")  # before the body of another becomes more of this one

    def on_header(self, name: bytes, value: bytes) -> None:
        answer = self._answer
        if answer is not None and not answer.status:  # after the head these are trailers, which nobody reads
            name = name.lower()
            if name == b"transfer-encoding" and name in self._index:
                raise HttpParserError("two transfer codings")
            self._index[name] = value.rstrip(b" \t")

    def on_headers_complete(self) -> None:
        answer, parser = self._answer, self._parser
        if answer is None or self._complete:
            return
        status = parser.get_status_code()
        if status < 200:
            self._index = {}
            return
        index = self._index
        framed = b"content-length" in index
        if (coding := index.get(b"transfer-encoding")) is not None:
            if coding.lower() != b"chunked":
                raise HttpParserError("a transfer coding other than chunked")
            framed = True
        if status in BODILESS:
            self._bodiless = True
        self._until_eof = not framed and not self._bodiless
        self._keep = parser.should_keep_alive() and not self._until_eof
        answer.open(status, index)
        self._complete = self._bodiless

    def on_message_complete(self) -> None:
        answer = self._answer
        self._complete = answer is not None and answer.status >= 200


class Origin:
    """Connections to one upstream: `Origin(host=..., port=...)`, with TLS, or `Origin(unix_path=...)`.

    The number of connections is not bounded here: whoever sends requests bounds how many are in flight.
    """

    def __init__(
        self,
        *,
        host: str = "localhost",
        port: int = 80,
        ssl: SSLContext | None = None,
        unix_path: str | None = None,
        limits: Limits | None = None,
        max_idle: int = 256,
        idle_timeout_s: float = 30.0,
        connect_timeout_s: float = 5.0,
    ) -> None:
        self.limits = limits or Limits()
        self._host, self._port, self._ssl, self._unix_path = host, port, ssl, unix_path
        self._max_idle, self._idle_timeout_s, self._connect_timeout_s = max_idle, idle_timeout_s, connect_timeout_s
        bracketed = f"[{host}]" if ":" in host else host
        self._authority = f"{bracketed}:{port}".encode() if unix_path is None else b"localhost"
        self._idle: list[_Link] = []  # the last one used is the first one taken
        self._links: set[_Link] = set()
        self._closed = False

    @classmethod
    def from_url(cls, url: str, *, limits: Limits | None = None, connect_timeout_s: float = 5.0) -> Self:
        """`http://host:port`, `https://host` or `unix:///path`. Raises ValueError."""
        parts = urlsplit(url)
        if parts.scheme == "unix" and parts.path:
            return cls(unix_path=unquote(parts.path), limits=limits, connect_timeout_s=connect_timeout_s)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not an http, https or unix address: {url}")
        secure = parts.scheme == "https"
        return cls(
            host=parts.hostname,
            port=parts.port or (443 if secure else 80),
            ssl=create_default_context() if secure else None,
            limits=limits,
            connect_timeout_s=connect_timeout_s,
        )

    async def request(
        self,
        method: bytes,
        target: bytes,
        headers: Headers = (),
        body: bytes = b"",
        *,
        head_timeout_s: float | None = None,
        retry: bool = True,
    ) -> Answer:
        """Ask, and return when the head of the answer is here.

        Raises ConnectFailed (of it OutOfDescriptors), UpstreamTimeout, UpstreamBroken.

        With `retry`, a kept connection that turns out to be closed is replaced by a fresh one, once.
        """
        head = request_head(method, target, self._authority, headers, len(body))
        link = self._idle.pop() if self._idle else await self._connect()
        try:
            return await self._asked(link, method, head, body, head_timeout_s)
        except UpstreamBroken as broken:
            if not (broken.stale and retry):
                raise
            return await self._asked(await self._connect(), method, head, body, head_timeout_s)

    async def _asked(
        self, link: _Link, method: bytes, head: bytes, body: bytes, head_timeout_s: float | None
    ) -> Answer:
        answer = Answer(link)
        link.ask(head, body, answer, bodiless=method == b"HEAD")
        await answer.headed(head_timeout_s)
        return answer

    def ask(
        self,
        method: bytes,
        target: bytes,
        headers: Headers,
        body: bytes,
        done: Callable[[Whole], None],
        max_bytes: int,
        timeout_s: float,
    ) -> Whole | None:
        """As `request`, for an answer that is wanted whole and told to `done`. None where no connection is idle.

        `timeout_s` bounds the wait for the head and for each piece after it. There is no retry: `done` sees the error,
        and may ask by `request` again if it is `stale`.
        """
        if not self._idle:
            return None
        head = request_head(method, target, self._authority, headers, len(body))
        link = self._idle.pop()
        whole = Whole(link, done, max_bytes)
        link.ask(head, body, whole, bodiless=method == b"HEAD", timeout_s=timeout_s)
        return whole

    def give_up_silent(self, for_s: float) -> None:
        """Break off every answer of which nothing was heard for `for_s`: who calls knows that the upstream is gone."""
        if self._links:
            limit = self.loop.time() - for_s
            for link in [link for link in self._links if link.silent_since <= limit]:
                link.fail("its upstream answers nobody any more")

    async def aclose(self) -> None:
        """Close every connection; answers under way break off."""
        self._closed = True
        for link in list(self._links):
            link.fail("the client was closed")
        if hasattr(self, "alarm"):
            self.alarm.stop()

    def __str__(self) -> str:
        return f"unix:{self._unix_path}" if self._unix_path is not None else self._authority.decode()

    def __repr__(self) -> str:
        return f"<Origin {self}: {len(self._links)} connections, {len(self._idle)} idle>"

    # -- for the connections

    def keep(self, link: _Link) -> None:
        if self._closed or len(self._idle) >= self._max_idle:
            link.drop()
            return
        link.reused = True
        link.watch(self._idle_timeout_s)
        self._idle.append(link)

    def forget(self, link: _Link) -> None:
        self._links.discard(link)
        if link in self._idle:
            self._idle.remove(link)

    async def _connect(self) -> _Link:
        if self._closed:
            raise ConnectFailed(origin=str(self), reason="the client was closed")
        self._wake()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                link = await self._open()
        except TimeoutError:
            raise ConnectFailed(origin=str(self), reason=f"none within {self._connect_timeout_s} s") from None
        except OSError as error:
            failed = OutOfDescriptors if error.errno in (errno.EMFILE, errno.ENFILE) else ConnectFailed
            raise failed(origin=str(self), reason=str(error)) from error
        self._links.add(link)
        return link

    async def _open(self) -> _Link:
        if self._unix_path is not None:
            _, link = await self.loop.create_unix_connection(lambda: _Link(self), self._unix_path)
        else:
            _, link = await self.loop.create_connection(lambda: _Link(self), self._host, self._port, ssl=self._ssl)
        return link

    def _wake(self) -> None:
        if not hasattr(self, "loop"):
            self.loop = asyncio.get_running_loop()
            self.alarm = Alarm(self.loop, self._expire)

    def _expire(self, now: float) -> float:
        """End what is overdue; the next deadline."""
        for link in [link for link in self._links if link.deadline <= now]:
            link.expire(now)
        return min((link.deadline for link in self._links), default=NEVER)


_: type[Source] = _Link
