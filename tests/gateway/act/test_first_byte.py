"""Before the first byte of an answer another node may be tried; after it never again."""

from __future__ import annotations

import asyncio
import errno

import msgspec
import pytest

from helexa.base.clock import SystemClock
from helexa.base.errors import HelexaError, InvalidRequest, Unavailable, UpstreamFailed
from helexa.gateway.act.proxy import Overloaded, Proxy, Trip, TryAnother, unanswered
from helexa.gateway.config import Gateway
from helexa.gateway.edge.passing import Passing
from helexa.gateway.meter import Journey
from helexa.http1.client import Origin, OutOfDescriptors
from helexa.http1.message import Request, lines_of
from helexa.http1.server import Reply
from helexa.wire.envelopes import chat_event
from tests.http1.wires import Served, Upstream, Wire, within

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
ALIVE = b": keep-alive\n\n"
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
ASKED = msgspec.json.encode({"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]})


async def passed_on(piece: bytes) -> tuple[type[Exception], bytes]:
    """What the proxy makes of a stream that breaks after one piece, and what the client had of it."""
    ended: asyncio.Future[type[Exception]] = asyncio.get_running_loop().create_future()

    async def script(wire: Wire, _: int) -> None:
        await wire.read_until(ASKED)
        await wire.say(HEAD + b"%x\r\n%b\r\n" % (len(piece), piece))

    async def handle(request: Request, reply: Reply) -> None:
        call = Passing(request, "/v1/chat/completions")
        journey = Journey(0.0, "r", "d", call.endpoint, "m", True)
        journey.node = "n1"
        trip = Trip(call, reply, journey, [])
        trip.body = request.body
        try:
            await proxy.pass_on(trip, lambda: None)
        except (TryAnother, UpstreamFailed) as error:
            ended.set_result(type(error))
            reply.finish()

    async with Upstream(script) as upstream:
        origin = Origin(host="127.0.0.1", port=upstream.port)
        proxy = Proxy({"n1": (origin, lines_of([]))}, SystemClock(), Gateway)
        served = await Served.start(handle)
        try:
            async with await served.dial() as client:
                heard = await client.ask(
                    b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(ASKED), ASKED)
                )
                return await within(ended), heard.body
        finally:
            await served.end()
            await origin.aclose()


async def test_a_connection_that_could_not_even_be_opened_here_is_no_nodes_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def full(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", full)
    origin = Origin(host="127.0.0.1", port=9)
    with pytest.raises(OutOfDescriptors, match="ulimit -n") as failed:
        await origin.request(b"GET", b"/")
    journey = Journey(0.0, "r", "d", "/v1/chat/completions", "m", True)
    told = unanswered(journey, failed.value)
    assert isinstance(told, Overloaded)
    assert (told.status, told.retry_after) == (503, 1.0)


@pytest.mark.parametrize("piece", [ALIVE, ALIVE + ALIVE, b": pr"])
async def test_signs_of_life_are_no_answer_yet(piece: bytes) -> None:
    assert await passed_on(piece) == (TryAnother, piece)


BUSY = Unavailable(model="m", reason="it was unloaded meanwhile", state="unloading")


@pytest.mark.parametrize("alive", [b"", ALIVE])
@pytest.mark.parametrize("error", [BUSY, UpstreamFailed(node="m", reason="its worker ended")])
async def test_a_stream_that_begins_with_its_nodes_failure_is_no_answer_yet(alive: bytes, error: HelexaError) -> None:
    assert await passed_on(alive + chat_event(error)) == (TryAnother, b"")


async def test_an_error_that_every_node_would_give_is_the_answer() -> None:
    piece = chat_event(InvalidRequest(param="messages"))
    assert await passed_on(piece) == (UpstreamFailed, piece)


@pytest.mark.parametrize("piece", [EVENT, ALIVE + EVENT, EVENT + ALIVE])
async def test_an_event_is_an_answer_also_in_one_piece_with_a_sign_of_life(piece: bytes) -> None:
    assert await passed_on(piece) == (UpstreamFailed, piece)
