"""The server: listens, watches the clock for its connections, and ends in bounded time. See connection.py for HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from ssl import SSLContext

from helexa.http1.alarm import NEVER, Alarm
from helexa.http1.connection import Address, Connection, Handler, Owner, Refuser, Reply, Work
from helexa.http1.limits import Limits
from helexa.http1.message import Header, Request

__all__ = ["Address", "Handler", "Refuser", "Reply", "Request", "Server", "Work", "plain_refusal"]

log = logging.getLogger(__name__)


def plain_refusal(status: int, code: str, message: str, target: bytes) -> tuple[Sequence[Header], bytes]:
    """The body of a refusal in plain text: `(headers, body)` from status, code, message and request target."""
    return [(b"content-type", b"text/plain; charset=utf-8")], f"{status} {code}: {message}\n".encode()


class Server:
    """Listens, and runs `handler` for each request. `async` ends with `drain`."""

    def __init__(self, handler: Handler, *, limits: Limits | None = None, refuse: Refuser = plain_refusal) -> None:
        self.handler = handler
        self.limits = limits or Limits()
        self.refuse = refuse
        self.in_flight = 0
        self.draining = False
        self.closed = False
        self._listeners: list[asyncio.Server] = []
        self._connections: set[Connection] = set()
        self._leaving: set[asyncio.Task[None]] = set()  # handlers whose client is gone
        self._quiet: tuple[Callable[[], bool], asyncio.Future[None]] | None = None

    def __repr__(self) -> str:
        state = "draining" if self.draining else "serving"
        return f"<Server {state}: {len(self._connections)} connections, {self.in_flight} in flight>"

    async def listen(self, host: str, port: int, *, ssl: SSLContext | None = None) -> list[Address]:
        """Accept on `host:port` (0: any free port); the addresses it is bound to. Raises OSError."""
        self._wake()
        return self._listening(
            await self.loop.create_server(self._accept, host, port, ssl=ssl, backlog=self.limits.backlog)
        )

    async def listen_unix(self, path: str) -> None:
        """Accept on a unix socket at `path`."""
        self._wake()
        self._listening(await self.loop.create_unix_server(self._accept, path, backlog=self.limits.backlog))

    async def drain(self, timeout_s: float, turn_away: Handler | None = None) -> None:
        """Let running answers finish for `timeout_s`, then break them off. Ends in bounded time.

        As long as something runs, `turn_away` answers the requests that come; without it nobody is let in any more.
        """
        self.draining = True
        until = self.loop.time() + timeout_s
        if turn_away is not None:
            self.handler = turn_away
            await self._quiet_within(timeout_s, self._nothing_runs)
        self._close()
        if not await self._quiet_within(until - self.loop.time(), self._nobody_is_here):
            for conn in list(self._connections):
                conn.break_off()
            if not await self._quiet_within(self.limits.cleanup_timeout_s, self._nobody_is_here):
                log.error("%d handlers ignore their cancellation", self.in_flight)
        self.alarm.stop()

    def _close(self) -> None:
        """Stop accepting, and let go of who asks for nothing."""
        self.closed = True
        for listener in self._listeners:
            listener.close()
        for conn in list(self._connections):
            if conn.phase == "idle":
                conn.close()

    # -- for the connections

    def welcome(self, conn: Connection) -> None:
        self._connections.add(conn)

    def farewell(self, conn: Connection, task: asyncio.Task[None] | None) -> None:
        self._connections.discard(conn)
        if task is not None:
            self._leaving.add(task)
            task.add_done_callback(self._left)
        self._tell_quiet()

    def _left(self, task: asyncio.Task[None]) -> None:
        self._leaving.discard(task)
        self._tell_quiet()

    def _nothing_runs(self) -> bool:
        return not self.in_flight and not self._leaving

    def _nobody_is_here(self) -> bool:
        return not self._connections and not self._leaving

    def _tell_quiet(self) -> None:
        if self._quiet is not None:
            quiet, told = self._quiet
            if not told.done() and quiet():
                told.set_result(None)

    async def _quiet_within(self, seconds: float, quiet: Callable[[], bool]) -> bool:
        self._quiet = quiet, self.loop.create_future()
        self._tell_quiet()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._quiet[1], seconds)
        return quiet()

    def _wake(self) -> None:
        if not self._listeners:
            self.loop = asyncio.get_running_loop()
            self.alarm = Alarm(self.loop, self._expire)

    def _accept(self) -> Connection:
        return Connection(self)

    def _listening(self, listener: asyncio.Server) -> list[Address]:
        self._listeners.append(listener)
        return [sock.getsockname()[:2] for sock in listener.sockets]

    def _expire(self, now: float) -> float:
        """End what is overdue; the next deadline."""
        for conn in [conn for conn in self._connections if conn.deadline <= now]:
            conn.expire()
        return min((conn.deadline for conn in self._connections), default=NEVER)


_: type[Owner] = Server
