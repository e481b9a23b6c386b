"""What an image says of its size, and what is no image."""

from __future__ import annotations

import base64
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.neuron.core.pictures import BadPicture, pixels

PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 30, 20)
GIF = b"GIF89a" + struct.pack("<HH", 30, 20)
BMP = b"BM".ljust(14, b"\0") + struct.pack("<Iii", 40, 30, -20)
OLD_BMP = b"BM".ljust(14, b"\0") + struct.pack("<IHH", 12, 30, 20)
FRAME = b"\xff\xc2" + struct.pack(">HBHH", 17, 8, 20, 30)
JPEG = b"\xff\xd8\xff\xe1" + struct.pack(">H", 300) + bytes(298) + b"\xff\xff" + FRAME[1:]


def url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


@pytest.mark.parametrize("data", [PNG, GIF, BMP, OLD_BMP, JPEG])
def test_an_image_tells_its_size(data: bytes) -> None:
    assert pixels(url(data)) == 600


def test_lines_in_the_text_of_an_image_do_not_matter() -> None:
    assert pixels("data:image/png;base64," + base64.encodebytes(JPEG).decode()) == 600


@pytest.mark.parametrize(
    "bad",
    [
        "", "http://127.0.0.1/x.png", "file:///etc/passwd", "data:image/png,abc", "data:image/png;base64,",
        "data:image/png;base64,!!", url(b"not an image"), url(PNG[:18]), url(JPEG[:20]), url(b"\xff\xd8" + bytes(9)),
        url(b"RIFF....WEBPVP8 "),
    ],
)  # fmt: skip
def test_what_no_engine_reads_is_told_what_it_should_be(bad: str) -> None:
    with pytest.raises(BadPicture, match="must"):
        pixels(bad)


@given(start=st.sampled_from([PNG, GIF, BMP, JPEG[:2], FRAME]), rest=st.binary(max_size=60))
def test_any_bytes_have_a_size_or_are_refused(start: bytes, rest: bytes) -> None:
    with suppress(BadPicture):
        assert pixels(url(start[:10] + rest)) >= 0
