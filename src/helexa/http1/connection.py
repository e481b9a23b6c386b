"""One client's connection: bytes to Request, Reply to bytes, one request at a time.

Input is cut, then parsed: a request is taken off the input only when the one before it has been answered, so pipelined
requests are raw bytes under one bound and answers cannot get out of order. What is refused, and why, is in design.md.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Literal, Protocol, cast

import msgspec

from helexa.http1.alarm import NEVER, Alarm
from helexa.http1.limits import Limits
from helexa.http1.message import (
    BODILESS,
    ChunkedBody,
    Header,
    Headers,
    Heads,
    Refusal,
    Request,
    answer_head,
    check_start,
)

log = logging.getLogger(__name__)

Phase = Literal["idle", "head", "body", "busy", "linger", "closing", "lost"]
Refuser = Callable[[int, str, str, bytes], tuple[Sequence[Header], bytes]]
Work = Coroutine[Any, Any, None]
Handler = Callable[[Request, "Reply"], Work | None]
"""Answers a request: by what it returns, run as a task; or, returning None, at once or by callbacks that come later."""
Address = tuple[str, int]

_CLOSE = b"connection: close\r\n"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Owner(Protocol):
    """What a connection needs of the server that accepted it."""

    loop: asyncio.AbstractEventLoop
    alarm: Alarm
    limits: Limits
    handler: Handler
    refuse: Refuser
    in_flight: int
    draining: bool
    closed: bool

    def welcome(self, conn: Connection) -> None: ...
    def farewell(self, conn: Connection, task: asyncio.Task[None] | None) -> None: ...


class Reply(msgspec.Struct, eq=False):
    """The writer of one answer. Nothing here blocks; a client that left turns every call into nothing.

    `on_gone` is called when the client leaves an answer that no task is at work on; `on_pressure(True)` when more than
    `write_high_bytes` wait to be sent, and `on_pressure(False)` when they are.
    """

    _conn: Connection
    request: Request
    _bare: bool
    """The answer has a head only."""
    _chunked: bool
    _held: bytes = b""
    """The head of a stream, waiting to leave with the first piece."""
    _left: int | None = None
    """Bytes still owed under a declared length."""
    finished: bool = False
    status: int = 0
    """0: it has not begun."""
    on_pressure: Callable[[bool], None] | None = None
    on_gone: Callable[[], None] | None = None

    @property
    def started(self) -> bool:
        return self.status != 0

    def send(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer in one write. Raises ValueError for a header that would break the head."""
        framing = b"" if status in BODILESS else b"content-length: %d\r\n" % len(body)
        head = self._begin(status, headers, framing)
        self.finished = True
        self._conn.write(head if self._bare else head + body)
        self._conn.finished(self)

    def start(self, status: int, headers: Headers, *, length: int | None = None) -> None:
        """Begin a streamed answer: of `length` bytes, or chunked (to HTTP/1.0: ended by the connection's end)."""
        framing = b""
        if status in BODILESS:
            self._chunked, length = False, None
        elif length is not None:
            self._chunked = False
            framing = b"content-length: %d\r\n" % length
        elif self._chunked:
            framing = b"transfer-encoding: chunked\r\n"
        self._left = length
        self._held = self._begin(status, headers, framing)

    def _begin(self, status: int, headers: Headers, framing: bytes) -> bytes:
        if self.status:
            raise RuntimeError("this answer has begun already")
        head = answer_head(status, headers, framing + _CLOSE if self._conn.is_last() else framing)
        self.status = status
        if status in BODILESS:
            self._bare = True
        return head

    def write(self, data: bytes) -> None:
        """One piece of a streamed answer, sent as one chunk; an empty one is nothing."""
        if self.finished or not self.status:
            raise RuntimeError("no answer is being streamed")
        if not data or self._bare:
            return
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise RuntimeError("the answer is longer than the length it declared")
        if self._chunked:
            data = b"%b%x\r\n%b\r\n" % (self._held, len(data), data)
        elif self._held:
            data = self._held + data
        self._held = b""
        self._conn.write(data)

    def flush(self) -> None:
        """Send the held head now, before there is a first piece."""
        held, self._held = self._held, b""
        if held:
            self._conn.write(held)

    def finish(self) -> None:
        """End a streamed answer; one that is short of its declared length is broken off instead."""
        if self.finished:
            return
        if self._left and not self._bare:
            self.abort()
            return
        self.finished = True
        last = self._held + (b"0\r\n\r\n" if self._chunked and not self._bare else b"")
        self._held = b""
        if last:
            self._conn.write(last)
        self._conn.finished(self)

    def go_on(self, work: Work) -> None:
        """Callbacks leave the rest of this answer to a task."""
        self._conn.start(work)

    def abort(self) -> None:
        """Break the connection, so that no client takes what it has for a whole answer."""
        self.finished = True
        self._conn.break_off()

    async def drain(self) -> None:
        """Wait while more than `write_high_bytes` wait to be sent. Ends at once when the client is gone."""
        await self._conn.drained()


class Connection(asyncio.Protocol):
    """One client. `phase` says what is being read; `_reply` is the answer in work, of which there is one at most."""

    _heads: Heads
    _transport: asyncio.Transport

    def __init__(self, server: Owner) -> None:
        self._server = server
        self._loop = server.loop
        self._input = b""
        self._request: Request | None = None
        self._missing_bytes = 0
        self._body = bytearray()
        self._chunks: ChunkedBody | None = None
        self._task: asyncio.Task[None] | None = None
        self._begun = False
        self._reply: Reply | None = None
        self._last = False
        self._handling = False
        self._reading = True
        self._unsent_bytes = 0
        self._linger_left_bytes = server.limits.max_linger_bytes
        self._drained: asyncio.Future[None] | None = None
        self.congested = False
        self.deadline = NEVER
        self.peer = ""
        self.phase: Phase = "idle"

    # -- the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of asyncio's
        transport.set_write_buffer_limits(high=self._server.limits.write_high_bytes)
        name = cast(object, transport.get_extra_info("peername"))
        self.peer = str(cast(Address, name)[0]) if isinstance(name, tuple) else "unix"
        self._heads = Heads(self._server.limits, self.peer)
        self._server.welcome(self)
        self._await("idle", self._server.limits.head_timeout_s)
        if self._server.closed:
            self.close()

    def data_received(self, data: bytes) -> None:
        if self.phase == "linger":
            self._linger_left_bytes -= len(data)
            if self._linger_left_bytes < 0:
                self.break_off()
            return
        self._input = self._input + data if self._input else data
        if self._reply is None and not self.congested:
            self._advance()
        elif self._reading and len(self._input) > self._server.limits.max_pipelined_bytes:
            self._reading = False
            self._transport.pause_reading()

    def eof_received(self) -> None:
        # A FIN from close() and one from shutdown(SHUT_WR) look alike until something is sent. An engine's seat is
        # worth more than half-closing clients, so EOF while an answer is owed means the client has gone.
        if self._reply is not None and not self._reply.finished:
            self.break_off()

    def connection_lost(self, exc: Exception | None) -> None:
        self.phase, self.deadline = "lost", NEVER
        self._input, self._request, self._chunks = b"", None, None
        self.resume_writing()
        if self._reply is not None:
            self._let_go(self._reply)
        self._server.farewell(self, self._task)

    def _let_go(self, reply: Reply) -> None:
        """The client has left: a task is cancelled once it has begun, and callbacks are told."""
        if self._task is not None:
            if self._begun and not reply.finished:
                self._task.cancel()
            return
        on_gone = reply.on_gone
        self._done_with(reply)
        if not reply.finished:
            reply.finished = True
            if on_gone is not None:
                on_gone()

    def pause_writing(self) -> None:
        self.congested = True
        self._watch_stall()
        if self._reply is not None and self._reply.on_pressure is not None:
            self._reply.on_pressure(True)

    def resume_writing(self) -> None:
        if not self.congested:
            return
        self.congested = False
        if self.phase == "busy":
            self.deadline = NEVER
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._reply is None:
            self._take_up()
        elif self._reply.on_pressure is not None:
            self._reply.on_pressure(False)

    # -- for the reply

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():  # a write that failed has closed it, before we are told
            self._transport.write(data)

    def is_last(self) -> bool:
        """Whether the connection ends with this answer."""
        return self._last or self._server.draining

    async def drained(self) -> None:
        while self.congested:
            if self._drained is None or self._drained.done():
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    def break_off(self) -> None:
        """End now, with a reset: to a client that reads until EOF a plain close would look like success."""
        if self.phase == "lost":
            return
        self.phase, self._input = "lost", b""
        sock = self._transport.get_extra_info("socket")
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

    # -- from bytes to requests

    def _advance(self) -> None:
        """Take requests off the input until one stays in work, answers wait to be read, or no whole one is there."""
        try:
            while (self._request is not None or self._take_head()) and self._take_body():
                self._dispatch()
                if self._reply is not None or self.congested:
                    return
        except Refusal as refusal:
            self._refuse(refusal)

    def _take_up(self) -> None:
        """Go on with what was sent ahead; and with reading, where that had become too much."""
        if self._input and not self.congested:
            self._advance()
        if (
            not self._reading
            and len(self._input) <= self._server.limits.max_pipelined_bytes
            and not self._transport.is_closing()
        ):
            self._reading = True
            self._transport.resume_reading()

    def _take_head(self) -> bool:
        """Whether a head is complete; it is cut off the input and becomes the request being read."""
        data = self._input
        again = self._heads.again(data)
        if again is not None:
            self._request, self._input = again
            self._missing_bytes = self._request.length
            return True
        end = data.find(b"\r\n\r\n") + 4
        limits = self._server.limits
        if end < 4:
            check_start(data, limits)
            if self.phase == "idle" and data:
                self._await("head", limits.head_timeout_s)
            return False
        self._request = request = self._heads.read(data[:end])
        self._input = data[end:]
        self._missing_bytes = request.length
        if request.chunked:
            self._chunks = ChunkedBody(limits, request.target)
        if request.expects_continue and (request.chunked or request.length > len(self._input)):
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _take_body(self) -> bool:
        """Whether the body of the request being read is complete."""
        data, request = self._input, self._request
        assert request is not None
        if len(data) == self._missing_bytes and not self._body and self._chunks is None:
            request.body, self._input = data, b""  # the common case: the whole body in one segment, never copied
            return True
        if self._chunks is not None:
            self._input = b""
            complete = self._chunks.feed(data)
        else:
            complete = self._take_counted(data, request)
        if not complete:
            self._await("body", self._server.limits.body_timeout_s)
        return complete

    def _take_counted(self, data: bytes, request: Request) -> bool:
        missing = self._missing_bytes
        self._body += data[:missing]
        self._input = data[missing:]
        self._missing_bytes = missing - len(data) + len(self._input)
        if self._missing_bytes:
            return False
        request.body = bytes(self._body)
        self._body = bytearray()
        return True

    def _dispatch(self) -> None:
        request = self._request
        assert request is not None
        self._request = None
        if self._chunks is not None:
            request.body = bytes(self._chunks.content)
            request.keep_alive = request.keep_alive and not self._chunks.excess
            self._chunks = None
        self.phase, self.deadline = "busy", NEVER
        self._last = not request.keep_alive
        self._reply = reply = Reply(self, request, request.method == "HEAD", request.http11)
        self._server.in_flight += 1
        self._handling = True
        try:
            work = self._server.handler(request, reply)
        except Exception:
            log.exception("the handler of %r failed", request)
            self._fail(reply)
            work = None
        self._handling = False
        if work is not None:
            self.start(work)
        elif reply.finished:
            self._served(reply)

    # -- from requests to answers

    def start(self, work: Work) -> None:
        """Run `work` as the task that answers the request at hand."""
        if self._reply is None:
            work.close()  # the client has left meanwhile
        else:
            self._begun = False
            self._task = self._loop.create_task(self._run(work, self._reply))

    async def _run(self, work: Work, reply: Reply) -> None:
        self._begun = True
        if self.phase == "lost" and self._task is not None:
            self._task.cancel()  # not before: work that never began would never end, whatever it holds
        try:
            await work
        except Exception:
            log.exception("the handler of %r failed", reply.request)
        finally:
            self._task = None
            if self.phase != "lost" and not reply.finished:
                self._fail(reply)
            self._served(reply)
            if self._input or not self._reading:
                self._take_up()

    def _fail(self, reply: Reply) -> None:
        """An answer was left open. What has begun is broken off: half a stream never looks complete."""
        if reply.started:
            reply.abort()
        else:
            headers, body = self._server.refuse(500, "internal_error", "The server failed.", reply.request.target)
            reply.send(500, headers, body)

    def finished(self, reply: Reply) -> None:
        """The answer is complete. If callbacks gave it nobody else will say so."""
        if self._task is None and not self._handling and self.phase == "busy":
            self._served(reply)
            if self._input or not self._reading:
                self._take_up()

    def _served(self, reply: Reply) -> None:
        """The request in work is done with: on to the next one."""
        self._done_with(reply)
        if self.phase == "lost":
            return
        if self._last or self._server.draining:
            self.close()
            return
        self.phase = "idle"
        self._watch(self._server.limits.keepalive_timeout_s)

    def _done_with(self, reply: Reply) -> None:
        self._reply = None
        self._server.in_flight -= 1
        reply.on_gone = None  # else the reply and whoever gave it would hold each other
        if reply.on_pressure is not None:
            reply.on_pressure = None

    def _refuse(self, refusal: Refusal) -> None:
        """Answer a request that will not be served, and end the connection once the client had a chance to read it."""
        self._request, self._chunks, self._input, self._body = None, None, b"", bytearray()
        headers, body = self._server.refuse(refusal.status, refusal.code, refusal.message, refusal.target)
        framing = b"content-length: %d\r\n%b" % (len(body), _CLOSE)
        self.write(answer_head(refusal.status, headers, framing) + body)
        self._linger()

    def _linger(self) -> None:
        # Closing with unread input makes the kernel send a reset, which can destroy the answer on its way to a client
        # that is still sending. So: no more from us, and what still comes is thrown away for a while.
        self._await("linger", self._server.limits.linger_timeout_s)
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        """End as soon as everything written has been sent."""
        self._input = b""
        self._await("closing", self._server.limits.stall_timeout_s)
        self._transport.close()

    # -- time

    def _await(self, phase: Phase, seconds: float) -> None:
        self.phase = phase
        self._watch(seconds)

    def _watch(self, seconds: float) -> None:
        self.deadline = deadline = self._loop.time() + seconds
        alarm = self._server.alarm
        if deadline < alarm.at:
            alarm.watch(deadline)

    def _watch_stall(self) -> None:
        self._unsent_bytes = self._transport.get_write_buffer_size()
        self._watch(self._server.limits.stall_timeout_s)

    def expire(self) -> None:
        """The deadline has passed."""
        self.deadline = NEVER
        if self.phase == "idle" and not self.congested:
            self.close()
        elif self.phase in ("head", "body"):
            target = self._request.target if self._request is not None else b""
            self._refuse(Refusal(408, "request_timeout", "The request did not arrive in time.", target))
        elif self.congested and self._transport.get_write_buffer_size() < self._unsent_bytes:
            self._watch_stall()  # slow, but reading
        else:
            self.break_off()
