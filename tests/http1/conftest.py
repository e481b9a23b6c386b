"""Both loops, and servers that are gone after the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
import uvloop

from helexa.http1.client import Origin
from tests.http1.wires import Serve, Served, Wire


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Transports differ in when they write, close and report; the room promises the same on both."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest_asyncio.fixture
async def serve() -> AsyncIterator[Serve]:
    """`await serve(handler, limit=value...)` starts a server; it has ended when the test has."""
    started: list[Served] = []

    async def start(handler, *, refuse=None, ssl=None, **limits) -> Served:
        served = await Served.start(handler, refuse=refuse, ssl=ssl, **limits)
        started.append(served)
        return served

    yield start
    for served in started:
        await served.end()


@pytest_asyncio.fixture
async def origin_of() -> AsyncIterator[Callable[..., Origin]]:
    """`origin_of(port)` is a client of it, closed after the test."""
    origins: list[Origin] = []

    def make(port: int, **options) -> Origin:
        origins.append(Origin(host="127.0.0.1", port=port, **options))
        return origins[-1]

    yield make
    for origin in origins:
        await origin.aclose()


@pytest.fixture
def echo():
    """A handler that answers with what it understood."""

    async def handle(request, reply) -> None:
        line = f"{request.method} {request.target.decode()} ".encode()
        reply.send(200, [(b"content-type", b"text/plain")], line + request.body)

    return handle


__all__ = ["Wire"]
