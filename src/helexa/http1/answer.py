"""One answer of an upstream, being received; and the tree of what can go wrong with it.

An `Answer` is awaited: its body goes to a sink, called by the protocol itself (`relay`: no task switch a piece), or is
taken whole (`read`) or piece by piece (`chunks`). A `Whole` is told of when it is complete, and no task waits for it.
An answer that is left before its end closes its connection, which is how the upstream learns that its client has gone;
a finished one gives its connection back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import ClassVar, Protocol, Self

import msgspec

from helexa.base.errors import HelexaError
from helexa.http1.alarm import NEVER


class UpstreamError(HelexaError):
    """The upstream {origin} could not answer."""

    code: ClassVar[str] = "upstream_error"
    status: ClassVar[int] = 502


class ConnectFailed(UpstreamError):
    """No connection to {origin}: {reason}"""

    code: ClassVar[str] = "upstream_unreachable"
    status: ClassVar[int] = 503


class OutOfDescriptors(ConnectFailed):
    """No more connections may be opened here: {reason}. Raise `ulimit -n`, or LimitNOFILE= of a systemd unit."""


class UpstreamTimeout(UpstreamError):
    """The upstream {origin} was silent for {after_s} s."""

    code: ClassVar[str] = "upstream_timeout"
    status: ClassVar[int] = 504


class UpstreamBroken(UpstreamError):
    """The answer of {origin} broke off: {reason}."""

    code: ClassVar[str] = "upstream_broken"

    def __init__(self, *, origin: str, reason: str, answered: bool, stale: bool = False) -> None:
        super().__init__(origin=origin, reason=reason, answered=answered)
        self.answered = answered  # whether anything of an answer had arrived
        self.stale = stale  # whether a kept connection turned out to be closed already: safe to ask again


class Source(Protocol):
    """What an answer needs of the connection it arrives on."""

    deadline: float
    paused: bool
    loop: asyncio.AbstractEventLoop
    high_bytes: int  # held for a reader who does not come, from which the upstream has to wait
    name: str

    def pause(self, on: bool) -> None: ...
    def watch(self, seconds: float | None) -> None: ...
    def fail(self, reason: str) -> None: ...


class Taker(Protocol):
    """Whom a connection tells of an answer: its head, its pieces, and once its end, or the error that ended it."""

    status: int  # 0: the head is not here yet

    def open(self, status: int, headers: dict[bytes, bytes]) -> None: ...
    def deliver(self, data: bytes) -> None: ...
    def end(self, error: Exception | None) -> None: ...


class Whole(msgspec.Struct, eq=False):
    """An answer of at most `max_bytes`, told of once: `done(whole)`. `error` says why there is none."""

    _link: Source | None
    _done: Callable[[Whole], None] | None
    _left_bytes: int
    _headers: dict[bytes, bytes] = {}
    _pieces: list[bytes] = []
    status: int = 0
    error: Exception | None = None

    @property
    def body(self) -> bytes:
        return b"".join(self._pieces)

    def header(self, name: bytes) -> bytes | None:
        """The value of the header `name` (lower-case); of a repeated one, the last."""
        return self._headers.get(name)

    def close(self) -> None:
        """Leave: the connection ends, and nobody is told."""
        self._done = None
        if self._link is not None:
            self._link.fail("it was left by its reader")

    # -- for the connection

    def open(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status, self._headers = status, headers

    def deliver(self, data: bytes) -> None:
        self._left_bytes -= len(data)
        if self._left_bytes >= 0:
            self._pieces.append(data)
        elif self._link is not None:
            self._link.fail("its body is too large")

    def end(self, error: Exception | None) -> None:
        self._link = None
        if error is not None:
            self.error = error
        if self._done is not None:
            self._done(self)


class Answer:
    """One answer, being received. Take its body with exactly one of `relay`, `read` and `chunks`; or `close` it."""

    def __init__(self, link: Source) -> None:
        self.status = 0  # 0: the head is not here yet
        self.headers: dict[bytes, bytes] = {}  # names in lower case; of a repeated one, the last
        self._link: Source | None = link
        self._loop, self._name, self._high_bytes = link.loop, link.name, link.high_bytes
        self._paused = False
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._sink: Callable[[bytes], None] | None = None
        self._waiter: asyncio.Future[None] | None = None  # at most one, and done is as good as gone
        self._idle_timeout_s: float | None = None
        self._ended = False
        self._error: Exception | None = None

    def header(self, name: bytes) -> bytes | None:
        """The value of the header `name` (lower-case); of a repeated one, the last."""
        return self.headers.get(name)

    async def relay(self, sink: Callable[[bytes], None], *, idle_timeout_s: float | None = None) -> None:
        """Hand the body to `sink` as it arrives; returns at its clean end.

        What `sink` raises ends the answer and is raised here. Raises UpstreamBroken, UpstreamTimeout.
        """
        try:
            for piece in self._take_held():
                sink(piece)
            self._sink = sink
            while not self._ended:
                await self._more(idle_timeout_s)
            if self._error is not None:
                raise self._take_error()
        except BaseException:
            self.close()
            raise
        finally:
            self._sink = None

    async def read(self, max_bytes: int, *, idle_timeout_s: float | None = None) -> bytes:
        """The whole body. Raises UpstreamBroken, also for a body over `max_bytes`; UpstreamTimeout."""
        if self._ended and self._error is None and self._held_bytes <= max_bytes:
            return b"".join(self._take_held())  # the usual case: it came with the head
        pieces: list[bytes] = []
        left = max_bytes

        def collect(piece: bytes) -> None:
            nonlocal left
            left -= len(piece)
            if left < 0:
                raise UpstreamBroken(origin=self._name, reason=f"its body is over {max_bytes} bytes", answered=True)
            pieces.append(piece)

        await self.relay(collect, idle_timeout_s=idle_timeout_s)
        return b"".join(pieces)

    async def chunks(self, *, idle_timeout_s: float | None = None) -> AsyncIterator[bytes]:
        """The body's pieces, as an async generator: for control calls, where a task switch per piece is no matter."""
        try:
            while self._held or not self._ended:
                for piece in self._take_held():
                    yield piece
                if not self._held and not self._ended:
                    await self._more(idle_timeout_s)
            if self._error is not None:
                raise self._take_error()
        finally:
            self.close()

    def pause(self, on: bool) -> None:
        """Stop (or go on) reading from the upstream: back-pressure."""
        self._paused = on
        if self._link is not None:
            self._link.pause(on)
            self._link.watch(None if on else self._idle_timeout_s)

    def close(self) -> None:
        """Leave. Before the end this closes the connection; after it, it does nothing."""
        if self._link is not None:
            self._link.fail("it was left by its reader")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Answer {self.status or 'awaited'}{', ended' if self._ended else ''}, {self._held_bytes} bytes held>"

    # -- between the answer and its connection

    async def headed(self, timeout_s: float | None) -> None:
        """Wait for the head."""
        try:
            await self._more(timeout_s)
        except BaseException:
            self.close()
            raise
        if not self.status and self._error is not None:
            raise self._take_error()
        self._idle_timeout_s = None
        if timeout_s is not None and self._link is not None:
            self._link.deadline = NEVER

    def open(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status, self.headers = status, headers
        self._wake()

    def deliver(self, data: bytes) -> None:
        """A piece of the body has arrived."""
        if self._sink is not None:
            try:
                self._sink(data)
            except Exception as error:  # noqa: BLE001 - raised again by relay(), whose caller's code this is
                self.close()
                self._error = error
                return
            return
        self._held.append(data)
        self._held_bytes += len(data)
        if self._link is not None and self._held_bytes > self._high_bytes:
            self._link.pause(True)
        self._wake()

    def end(self, error: Exception | None) -> None:
        """Nothing more will come."""
        self._link, self._ended, self._error = None, True, error
        self._wake()

    def _take_error(self) -> Exception:
        """What ended the answer. It is not kept: its traceback holds the reader's frames, and they this answer, so that
        all that was read would stay until cycles are looked for."""
        error, self._error = self._error, None
        assert error is not None
        return error

    def _take_held(self) -> list[bytes]:
        held = self._held
        if held:
            self._held, self._held_bytes = [], 0
        return held

    async def _more(self, timeout_s: float | None) -> None:
        """Wait until something is new: a head, a piece (where there is no sink), the end."""
        link = self._link
        assert link is not None
        self._waiter = waiter = self._loop.create_future()
        self._idle_timeout_s = timeout_s
        if link.paused != self._paused:
            link.pause(self._paused)
        link.watch(None if self._paused else timeout_s)
        await waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
