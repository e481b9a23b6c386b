"""Raw wires: a client that sends exactly the bytes it is told to and reads answers with h11, and a scripted upstream.

Every wait is bounded by PATIENCE_S; nothing sleeps.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self

import h11

from helexa.http1.limits import Limits
from helexa.http1.server import Server, plain_refusal

PATIENCE_S = 30.0
RESET = struct.pack("ii", 1, 0)

Serve = Callable[..., Awaitable["Served"]]


async def within(wait: Awaitable[Any], seconds: float = PATIENCE_S) -> Any:
    """The result of `wait`, or TimeoutError."""
    return await asyncio.wait_for(wait, seconds)


async def eventually(true: Callable[[], bool]) -> None:
    """Let the loop turn until `true()`."""
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110 - what is waited for has no event, and must not have one for a test's sake
            await asyncio.sleep(0)


@dataclass
class Heard:
    """One answer as a client understood it."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    interim: list[int] = field(default_factory=list)
    whole: bool = True


class Wire:
    """A client's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._rest = b""

    @classmethod
    async def dial(cls, port: int, **options: Any) -> Self:
        return cls(*await within(asyncio.open_connection("127.0.0.1", port, **options)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.hang_up()

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await within(self.writer.drain())

    async def ask(self, data: bytes, method: str = "GET") -> Heard:
        await self.say(data)
        return await self.answer(method)

    async def answer(self, method: str = "GET") -> Heard:
        """The next answer, read by h11; `whole` is false where the connection ended inside it."""
        reading = h11.Connection(h11.CLIENT)
        reading.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        reading.send(h11.EndOfMessage())
        reading.receive_data(self._rest) if self._rest else None
        heard, body = Heard(0, {}, b""), bytearray()
        while True:
            try:
                event = reading.next_event()
            except h11.RemoteProtocolError:
                heard.whole = False
                return heard
            match event:
                case h11.NEED_DATA:
                    reading.receive_data(await self._read())
                case h11.InformationalResponse():
                    heard.interim.append(event.status_code)
                case h11.Response():
                    heard.status, heard.headers = event.status_code, dict(event.headers)
                case h11.Data():
                    body += event.data
                case h11.EndOfMessage():
                    self._rest, heard.body = reading.trailing_data[0], bytes(body)
                    return heard
                case _:
                    heard.whole = False
                    return heard

    async def read_until(self, mark: bytes) -> bytes:
        return await within(self.reader.readuntil(mark))

    async def closed(self) -> bool:
        """Whether the server ends the connection without another byte."""
        return not self._rest and await self._read() == b""

    async def _read(self) -> bytes:
        try:
            return await within(self.reader.read(65536))
        except ConnectionError:
            return b""

    def hang_up(self, *, reset: bool = False) -> None:
        if reset:
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.writer.transport.abort()


def reset(sock: socket.socket) -> None:
    """Close with a reset, now: on loopback the other side's next call on its socket finds it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


class Served:
    """A server under test."""

    def __init__(self, server: Server, port: int) -> None:
        self.server, self.port = server, port

    @classmethod
    async def start(cls, handler: Any, *, refuse: Any = None, ssl: Any = None, **limits: Any) -> Self:
        server = Server(handler, limits=Limits(**limits), refuse=refuse or plain_refusal)
        addresses = await server.listen("127.0.0.1", 0, ssl=ssl)
        return cls(server, addresses[0][1])

    async def dial(self, **options: Any) -> Wire:
        return await Wire.dial(self.port, **options)

    async def end(self) -> None:
        await within(self.server.drain(0.0))


class Upstream:
    """A scripted upstream: `script(wire)` runs for each connection, with the bytes of its own choosing."""

    def __init__(self, script: Callable[[Wire, int], Awaitable[None]]) -> None:
        self._script = script
        self.connections = 0
        self.requests: list[bytes] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._met, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        wire = Wire(reader, writer)
        try:
            await self._script(wire, self.connections)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            wire.hang_up()

    async def heard(self, wire: Wire) -> bytes:
        """The head of the next request on `wire`."""
        head = await wire.read_until(b"\r\n\r\n")
        self.requests.append(head)
        return head
