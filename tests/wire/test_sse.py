"""The decoder against a line-by-line reading of the WHATWG rules, and the encoder against the decoder."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from helexa.wire import sse
from helexa.wire.sse import Frame, SseDecoder

from .scripts import chunkings

_ALPHABET = [
    b"data",
    b"event",
    b"id",
    b":",
    b": ",
    b" ",
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"x",
    b"\xef\xbb\xbf",
    b"\xc3",
]
_LINES = st.sampled_from(
    [b"data: x", b"data:y", b"data", b"data:", b"event: e", b"event", b": c", b"id: 1", b"", b"\xc3"]
)
_ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
_BOM = st.sampled_from([b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf"])
# Lines as engines write them, the same with a bad piece anywhere, and noise.
STREAMS = st.one_of(
    st.tuples(_BOM, st.lists(st.tuples(_LINES, _ENDS).map(b"".join), max_size=12).map(b"".join)).map(b"".join),
    st.lists(st.sampled_from(_ALPHABET), max_size=40).map(b"".join),
    st.binary(max_size=60),
)


def reference(stream: bytes) -> list[Frame]:
    """One byte at a time, as the standard is worded."""
    stream = stream.removeprefix(b"\xef\xbb\xbf")
    lines, line, position = [], b"", 0
    while position < len(stream):
        byte = stream[position : position + 1]
        if byte in (b"\r", b"\n"):
            lines.append(line)
            line = b""
            if stream[position : position + 2] == b"\r\n":
                position += 1
        else:
            line += byte
        position += 1
    frames, data, event = [], b"", b""
    for line in lines:
        if line == b"":
            if data:
                frames.append(Frame(event, data[:-1]))
            data = event = b""
            continue
        name, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if name == b"data":
            data += value + b"\n"
        elif name == b"event":
            event = value
    return frames


def _fed(chunks: list[bytes]) -> list[Frame]:
    decoder = SseDecoder()
    return [frame for piece in chunks for frame in decoder.feed(piece)]


@given(st.data(), STREAMS)
def test_any_bytes_in_any_chunks_decode_as_the_standard_says(data: st.DataObject, stream: bytes) -> None:
    assert _fed(data.draw(chunkings(stream))) == reference(stream)


@given(STREAMS)
def test_one_byte_at_a_time_decodes_as_the_standard_says(stream: bytes) -> None:
    assert _fed([stream[n : n + 1] for n in range(len(stream))]) == reference(stream)


@given(st.binary(max_size=40), st.sampled_from([b"", b"error", b"response.created"]))
def test_what_is_encoded_is_decoded_again(data: bytes, event: bytes) -> None:
    plain = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert _fed([sse.encode(data, event)]) == [Frame(event, plain)]


def test_a_carriage_return_ends_its_line_before_the_next_chunk_is_there() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: a\r\r") == [Frame(b"", b"a")]
    assert decoder.feed(b"") == []
    assert decoder.feed(b"\ndata: b\r\n\r\n") == [Frame(b"", b"b")]


def test_comments_are_not_events() -> None:
    assert _fed([sse.COMMENT, b": x\n", b"data: a\n\n"]) == [Frame(b"", b"a")]


def test_a_long_line_in_small_chunks_takes_linear_time() -> None:
    decoder = SseDecoder()
    started = time.process_time()
    for _ in range(200_000):
        decoder.feed(b"0123456789")
    assert len(decoder.feed(b"\ndata:\n\n")) == 1
    assert time.process_time() - started < 5


def test_a_byte_order_mark_is_skipped_at_the_start_only() -> None:
    assert _fed([b"\xef\xbb", b"\xbfdata: a\n\n", b"\xef\xbb\xbfdata: b\n\n"]) == [Frame(b"", b"a")]
