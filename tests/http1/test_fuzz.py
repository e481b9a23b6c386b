"""Random requests and random damage: never a crash, never a hang, never two readings. The second reader is h11.

The transport is a list, so that thousands of conversations take seconds.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import h11
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helexa.http1.alarm import Alarm
from helexa.http1.client import Origin, UpstreamError, _Link
from helexa.http1.limits import Limits
from helexa.http1.server import Server
from tests.http1.wires import eventually

Seen = tuple[str, bytes, tuple[tuple[bytes, bytes], ...], bytes]
LIMITS = Limits(max_body_bytes=2000, max_header_bytes=4000, max_target_bytes=300, max_framing_bytes=500)
MANY = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass
class ListTransport:
    """A transport that keeps what is written."""

    written: bytearray = field(default_factory=bytearray)
    over: bool = False

    def write(self, data: bytes) -> None:
        assert not self.over
        self.written += data

    def abort(self) -> None:
        self.over = True

    def is_closing(self) -> bool:
        return self.over

    close = abort

    def set_write_buffer_limits(self, **_: Any) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, _name: str) -> Any:
        return Unplugged()

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Unplugged:
    def setsockopt(self, *_: Any) -> None: ...


def converse(segments: list[bytes]) -> tuple[list[Seen], bytes]:
    """What the server took for requests, and everything it said."""
    seen: list[Seen] = []

    async def handle(request: Any, reply: Any) -> None:
        seen.append((request.method, request.target, tuple(request.headers), request.body))
        reply.send(200, [], b"")

    async def talk() -> bytes:
        server = Server(handle, limits=LIMITS)
        server.loop = asyncio.get_running_loop()
        server.alarm = Alarm(server.loop, server._expire)
        conn, transport = server._accept(), ListTransport()
        conn.connection_made(transport)
        for segment in segments:
            if transport.over:
                break
            conn.data_received(segment)
            for _ in range(200):
                if conn._task is None:
                    break
                await asyncio.sleep(0)
            assert conn._task is None, "it hangs"
        conn.connection_lost(None)
        server.alarm.stop()
        return bytes(transport.written)

    return seen, asyncio.run(talk())


def reference(raw: bytes, count: int) -> list[Seen]:
    """The first `count` requests as h11 reads them."""
    reading, seen = h11.Connection(h11.SERVER), []
    reading.receive_data(raw)
    head, body = None, b""
    while len(seen) < count:
        event = reading.next_event()
        match event:
            case h11.Request():
                head, body = event, b""
            case h11.Data():
                body += bytes(event.data)
            case h11.EndOfMessage():
                assert head is not None
                seen.append((head.method.decode(), bytes(head.target), tuple(head.headers), body))
                reading.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                reading.send(h11.EndOfMessage())
                if len(seen) < count:
                    reading.start_next_cycle()
            case _:
                break
    return seen


def normal(seen: Seen) -> Seen:
    """h11 orders nothing and decides nothing that we drop; only absolute targets are rewritten by us."""
    method, target, headers, body = seen
    if target[:4].lower() == b"http":
        rest = target.split(b"://", 1)[1]
        cut = min((i for i in (rest.find(b"/"), rest.find(b"?"), rest.find(b"#")) if i >= 0), default=len(rest))
        target = rest[cut:] if rest[cut : cut + 1] == b"/" else b"/" + rest[cut:]
    return method, target, headers, body


TOKEN = st.text("abcXYZ019-_!~", min_size=1, max_size=12).map(lambda text: b"x-" + text.encode())
VALUE = st.binary(max_size=20).map(lambda raw: bytes(b for b in raw if b == 9 or 32 <= b != 127).strip())
TARGET = st.text("abc/%20?&=.~*", max_size=20).map(lambda text: b"/" + text.encode())
METHOD = st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH"])


@st.composite
def requests(draw: Any, *, chunked: bool) -> bytes:
    """One valid request."""
    headers = [(b"Host", b"x"), *draw(st.lists(st.tuples(TOKEN, VALUE), max_size=4))]
    body = draw(st.binary(max_size=60))
    if chunked:
        headers.append((b"Transfer-Encoding", b"chunked"))
        sizes = draw(st.lists(st.integers(1, 20), max_size=5))
        pieces = [body[sum(sizes[:i]) : sum(sizes[: i + 1])] for i in range(len(sizes))] + [body[sum(sizes) :]]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"
    elif body:
        headers.append((b"Content-Length", b"%d" % len(body)))
    head = b"%b %b HTTP/1.1\r\n" % (draw(METHOD), draw(TARGET))
    return head + b"".join(b"%b: %b\r\n" % header for header in draw(st.permutations(headers))) + b"\r\n" + body


@st.composite
def conversations(draw: Any, *, chunked: bool = False) -> bytes:
    """Several requests. `chunked`: any may be, not only the last, though what follows one at once is not served."""
    first = draw(st.lists(st.one_of(requests(chunked=False), requests(chunked=chunked)), max_size=3))
    return b"".join(first) + draw(requests(chunked=draw(st.booleans())))


@st.composite
def cuts(draw: Any, length: int) -> list[int]:
    return sorted(draw(st.lists(st.integers(0, length), max_size=12)))


def split(raw: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *at, len(raw)]
    return [raw[a:b] for a, b in pairwise(edges) if a < b]


@given(st.data())
@MANY
def test_requests_read_the_same_however_they_are_cut(data):
    raw = data.draw(conversations())
    whole = converse([raw])
    assert converse(split(raw, data.draw(cuts(len(raw))))) == whole
    assert converse([raw[i : i + 1] for i in range(len(raw))]) == whole
    assert whole[0] == reference(raw, len(whole[0]))
    assert len(whole[0]) >= 1


DAMAGE = [
    *(b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b",", b";", b"0", b"-", b"\x0b", b"\xff", b"\r\n\r\n"),
    *(b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n", b"transfer-encoding:\tchunked \r\n"),
    *(b"Connection: close\r\n", b"Connection: upgrade\r\nUpgrade: x\r\n", b"Host: y\r\n", b"Expect: 100-continue\r\n"),
    *(b"0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.0", b"HTTP/1.1", b"1\r\nx\r\n"),
]


@st.composite
def damaged(draw: Any) -> bytes:
    raw = draw(conversations(chunked=True))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(raw)))
        cut = draw(st.sampled_from([0, 0, 1, 2, 10]))
        raw = raw[:at] + draw(st.one_of(st.sampled_from(DAMAGE), st.binary(max_size=3))) + raw[at + cut :]
    return raw


@given(damaged(), st.data())
@settings(MANY, max_examples=500)
def test_damage_never_makes_two_readings(raw, data):
    seen, said = converse([raw])
    cut, _ = converse(split(raw, data.draw(cuts(len(raw)))))
    shorter = min(len(seen), len(cut))  # a chunked request with bytes behind it ends its connection, if they come along
    assert seen[:shorter] == cut[:shorter]
    longer = max(seen, cut, key=len)
    assert longer == [normal(one) for one in reference(raw, len(longer))]
    assert said.count(b"HTTP/1.1 ") >= len(seen)


@given(st.binary(max_size=300))
@MANY
def test_noise_is_refused(raw):
    seen, said = converse([raw])
    assert seen == []
    assert said == b"" or said.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))


ANSWER = (
    b"HTTP/1.1 100 Continue\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
)


def receive(segments: list[bytes]) -> tuple[int, bytes] | None:
    """The answer the client makes of these bytes and the connection's end; None where it is broken."""

    async def talk() -> tuple[int, bytes] | None:
        origin = Origin()
        origin._wake()
        transport = ListTransport()

        async def connect() -> Any:
            link = _Link(origin)
            link.connection_made(transport)
            return link

        origin._open = connect
        asking = asyncio.create_task(origin.request(b"GET", b"/"))
        await eventually(lambda: bool(transport.written))
        (link,) = origin._links
        for segment in segments:
            link.data_received(segment)
        link.eof_received()
        try:
            answer = await asyncio.wait_for(asking, 5)
            return answer.status, await asyncio.wait_for(answer.read(10_000), 5)
        except UpstreamError:
            return None
        finally:
            link.connection_lost(None)
            await origin.aclose()

    return asyncio.run(talk())


@given(st.data())
@MANY
def test_an_answer_reads_the_same_however_it_is_cut_and_whatever_follows(data):
    raw = ANSWER + data.draw(st.sampled_from([b"", ANSWER, *DAMAGE]))
    assert receive(split(raw, data.draw(cuts(len(raw))))) == (200, b"hello")


@given(st.integers(0, len(ANSWER) - 1))
@settings(MANY, max_examples=150)
def test_a_shortened_answer_is_always_broken(length):
    assert receive([ANSWER[:length]]) is None


@given(st.data())
@MANY
def test_a_damaged_answer_is_read_in_one_way_or_broken(data):
    at = data.draw(st.integers(0, len(ANSWER)))
    raw = ANSWER[:at] + data.draw(st.sampled_from(DAMAGE)) + ANSWER[at + data.draw(st.integers(0, 3)) :]
    assert receive([raw]) == receive(split(raw, data.draw(cuts(len(raw)))))
