"""A head that is taken for what the one before it was is the head that a parser would have read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

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
        assert reading(reader.read, raw) == reading(lambda raw: parse_head(raw, LIMITS, "1.2.3.4"), raw)


@given(st.lists(st.text("0123456789abc, \t-+", max_size=6), min_size=2, max_size=6))
def test_heads_that_differ_in_their_length_alone_are_told_apart(lengths: list[str]) -> None:
    reader = Heads(LIMITS, "")
    for length in ["5", *lengths]:
        raw = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nX-A: 5\r\n\r\n".encode()
        assert reading(reader.read, raw) == reading(lambda raw: parse_head(raw, LIMITS), raw)


def test_a_request_does_not_share_what_is_its_own_with_the_one_before() -> None:
    reader = Heads(LIMITS, "")
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
    first = reader.read(head % 5)
    first.body = b"12345"
    second = reader.read(head % 7)
    assert (second.body, second.length, second.header(b"content-length")) == (b"", 7, b"7")
    assert (first.length, first.header(b"content-length")) == (5, b"5")
