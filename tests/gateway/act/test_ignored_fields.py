"""What a neuron says of fields that its engine does not see to, the client hears."""

from __future__ import annotations

import msgspec
import pytest

from helexa.base.clock import SystemClock
from helexa.gateway.act.proxy import Proxy, Trip
from helexa.gateway.config import Gateway
from helexa.gateway.edge.passing import Passing
from helexa.gateway.meter import Journey
from helexa.http1.client import Origin
from helexa.http1.message import Request, lines_of
from helexa.http1.server import Reply
from tests.http1.wires import Served, Upstream, Wire

WHOLE = b'{"choices":[]}'
EVENTS = b"data: [DONE]\n\n"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_neurons_warning_reaches_the_client(stream: bool) -> None:
    asked = msgspec.json.encode({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "x"}]})
    said = EVENTS if stream else WHOLE

    async def script(wire: Wire, _: int) -> None:
        await wire.read_until(asked)
        head = b"HTTP/1.1 200 OK\r\nx-helexa-ignored: best_of\r\ncontent-length: %d\r\n\r\n"
        await wire.say(head % len(said) + said)

    async def handle(request: Request, reply: Reply) -> None:
        call = Passing(request, "/v1/chat/completions")
        trip = Trip(call, reply, Journey(0.0, "r", "d", call.endpoint, "m", stream), [])
        trip.journey.node, trip.body = "n1", request.body
        await proxy.pass_on(trip, lambda: None)

    async with Upstream(script) as upstream:
        origin = Origin(host="127.0.0.1", port=upstream.port)
        proxy = Proxy({"n1": (origin, lines_of([]))}, SystemClock(), Gateway)
        served = await Served.start(handle)
        try:
            async with await served.dial() as client:
                head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
                heard = await client.ask(head % len(asked) + asked)
        finally:
            await served.end()
            await origin.aclose()
    assert dict(heard.headers)[b"x-helexa-ignored"] == b"best_of"
