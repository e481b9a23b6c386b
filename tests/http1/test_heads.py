"""A head that is taken for what the one before it was is the head that a parser would have read."""

from __future__ import annotations

import asyncio
from functools import partial

from hypothesis import example, given, settings
from hypothesis import strategies as st

from helexa.http1.alarm import NEVER
from helexa.http1.client import Origin, _Link
from helexa.http1.limits import Limits
from helexa.http1.message import Heads, Refusal, Request, parse_head

LIMITS = Limits(max_body_bytes=10_000)
NAMES = st.sampled_from(
    ["Content-Length", "content-length", "Host", "X-A", "Connection", "Transfer-Encoding", "Expect"]
)
VALUES = st.sampled_from(
    ["1", "12", "007", "1 2", "-3", "99999", "9" * 30, "", "chunked", "close", "100-continue", "x"]
)
LINES = st.lists(
    st.tuples(NAMES, st.sampled_from([":", ": ", ":\t", " :"]), VALUES, st.sampled_from(["", " "])), max_size=4
)


def head_of(target: str, lines: list[tuple[str, str, str, str]]) -> bytes:
    fields = "".join("".join(parts) + "\r\n" for parts in lines)
    return f"POST {target} HTTP/1.1\r\nhost: x\r\n{fields}\r\n".encode()


HEADS = st.builds(head_of, st.sampled_from(["/", "/a?b=1"]), LINES)


def taken(reader: Heads, raw: bytes) -> Request:
    """As a connection takes a head, with something behind it."""
    again = reader.again(raw + b"\r\n\r\nmore")
    if again is None:
        return reader.read(raw)
    request, rest = again
    assert rest == b"\r\n\r\nmore"
    return request


def reading(read, raw: bytes) -> object:
    """All that is told of a head, or why it is refused."""
    try:
        request: Request = read(raw)
    except Refusal as refusal:
        return refusal.status, refusal.code, refusal.message, refusal.target
    told = {name: getattr(request, name) for name in Request.__slots__ if name != "_index"}
    return told, {name: request.header(name) for name, _ in request.headers}


@given(st.lists(HEADS, min_size=1, max_size=5))
def test_whatever_came_before_a_head_is_read_as_by_itself(heads: list[bytes]) -> None:
    reader = Heads(LIMITS, "1.2.3.4")
    for raw in heads:
        assert reading(partial(taken, reader), raw) == reading(lambda raw: parse_head(raw, LIMITS, "1.2.3.4"), raw)


@given(st.lists(st.text("0123456789abc, \t-+", max_size=6), min_size=2, max_size=6))
@example(["0", "00", "99999"])
def test_heads_that_differ_in_their_length_alone_are_told_apart(lengths: list[str]) -> None:
    reader = Heads(LIMITS, "")
    for length in ["5", *lengths]:
        raw = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nX-A: 5\r\n\r\n".encode()
        assert reading(partial(taken, reader), raw) == reading(lambda raw: parse_head(raw, LIMITS), raw)


def test_a_request_does_not_share_what_is_its_own_with_the_one_before() -> None:
    reader = Heads(LIMITS, "")
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
    first = reader.read(head % 5)
    first.body = b"12345"
    again = reader.again(head % 7 + b"1234567")
    assert again is not None
    second, rest = again
    assert rest == b"1234567"
    assert (second.body, second.length, second.header(b"content-length")) == (b"", 7, b"7")
    assert (first.length, first.header(b"content-length")) == (5, b"5")


def answers_of(frames: list[bytes], lengths: list[tuple[int, bytes, bytes]]) -> list[bytes]:
    """Answers under a few heads, of right and wrong lengths."""
    return [
        b"HTTP/1.1 " + frames[which % len(frames)] % (length or b"%d" % len(body)) + b"\r\n\r\n" + body
        for which, length, body in lengths
    ]


GOOD = [b"200 OK\r\nx-a: 1\r\ncontent-length: %b", b"503 Busy\r\nContent-Length: %b\r\ncontent-type: b"]
ODD = [
    b"200 OK\r\ncontent-length: %b\r\nconnection: close",
    b"200 OK\r\ncontent-length: %b\r\ntransfer-encoding: chunked",
    b"200 OK\r\nx-b: %b\r\ntransfer-encoding: chunked",
    b"204 No Content\r\ncontent-length: %b",
    b"100 Continue\r\ncontent-length: %b",
]
FRAMES = st.sampled_from(GOOD) | st.sampled_from([*GOOD, *ODD])
LENGTHS = st.tuples(
    st.integers(0, 1),
    st.just(b"") | st.sampled_from([b"0", b"2", b"02", b"+2", b"2, 2", b"9" * 20]),
    st.sampled_from([b"", b"ab", b"abc"]) | st.sampled_from([b"ab", b"2\r\nab\r\n0\r\n\r\n"]),
)
ANSWERS = st.builds(answers_of, st.lists(FRAMES, min_size=1, max_size=2), st.lists(LENGTHS, min_size=2, max_size=6))


class Wire:
    """A transport that goes nowhere."""

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        pass

    def abort(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


NAMES_TOLD = (b"content-type", b"x-a", b"x-b", b"content-length")


async def told(answers: list[bytes]) -> list[object]:
    """What the reader of each answer is told, up to the one that ends the connection."""
    origin = Origin()
    origin._wake()
    link = _Link(origin)
    link.connection_made(Wire())
    origin.keep(link)
    heard: list[object] = []
    for raw in answers:
        if link.lost:
            break
        whole = origin.ask(b"GET", b"/", [], b"", lambda _: None, 1_000_000, 60.0)
        assert whole is not None
        link.data_received(raw)
        headers = [whole.header(name) for name in NAMES_TOLD if whole.status]
        heard.append((whole.status, headers, whole.body, type(whole.error), link.lost))
        if not link.lost and link.silent_since != NEVER:
            break  # its end is still to come
    return heard


@settings(max_examples=300)
@given(ANSWERS)
def test_whatever_came_before_an_answer_is_read_as_by_itself(answers: list[bytes]) -> None:
    together = asyncio.run(told(answers))
    for raw, heard in zip(answers, together, strict=False):
        assert asyncio.run(told([raw])) == [heard]
