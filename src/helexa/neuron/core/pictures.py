"""How large an image becomes once it is unpacked, told by its first bytes. Pure.

An engine unpacks what it is given: a picture of one colour in 700 KB can be a gigabyte of pixels. And it would fetch
what is only named, from wherever its host can reach.
"""

from __future__ import annotations

import binascii
import struct
from typing import Final

MOST_PIXELS: Final = 128 * 1024 * 1024
"""Of all images of a request, three bytes each."""
HEAD_CHARACTERS: Final = 1024 * 1024
"""In so much of its text an image has to tell its size; a JPEG may have profiles and previews before it."""

_JPEG_SIZES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE: Final = frozenset((0x01, 0xFF, *range(0xD0, 0xD9)))


class BadPicture(ValueError):
    """Says what it should be."""


def pixels(url: str) -> int:
    """Pixels of the image in a data URL. Raises BadPicture for what is not one, or none that engines read."""
    kind, comma, data = url.partition(",")
    if not kind.startswith("data:") or not comma:
        raise BadPicture("must be a data: URL that holds the image; this server fetches nothing")
    if not kind.endswith(";base64"):
        raise BadPicture("must hold the image in base64")
    text = "".join(data[:HEAD_CHARACTERS].split())
    try:
        head = binascii.a2b_base64(text[: len(text) // 4 * 4])
        size = _size(head)
    except (binascii.Error, ValueError, struct.error, IndexError):
        size = None
    if size is None:
        raise BadPicture("must be a PNG, JPEG, GIF or BMP image")
    return size[0] * size[1]


def _size(head: bytes) -> tuple[int, int] | None:
    """Width and height; None for a format that is not known. Raises struct.error, IndexError when cut short."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return struct.unpack_from(">II", head, 16)
    if head.startswith((b"GIF87a", b"GIF89a")):
        return struct.unpack_from("<HH", head, 6)
    if head.startswith(b"BM"):
        width, height = struct.unpack_from("<HH" if head[14] == 12 else "<ii", head, 18)
        return abs(width), abs(height)
    return _jpeg_size(head) if head.startswith(b"\xff\xd8") else None


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    """From the frame's own segment, wherever it stands among the others."""
    at = 2
    while head[at] == 0xFF:
        marker = head[at + 1]
        if marker in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", head, at + 5)
            return width, height
        at += 1 if marker == 0xFF else 2 if marker in _JPEG_BARE else 2 + struct.unpack_from(">H", head, at + 2)[0]
    return None
