"""Server-sent events on bytes: an incremental decoder and the encoder's few words.

The decoder follows the WHATWG rules (CR, LF and CRLF, a leading BOM, comments, several `data` lines, a field without
a colon) and may be fed chunks cut anywhere, inside a character or between CR and LF. It looks at bytes only, so a
character cut in two is whole again when its line is.
"""

from __future__ import annotations

from typing import NamedTuple

COMMENT = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

_BOM = b"\xef\xbb\xbf"


class Frame(NamedTuple):
    """One dispatched event; `event` is empty when the stream did not name it."""

    event: bytes
    data: bytes


class SseDecoder:
    """Feed it bytes, get the frames that became complete. An incomplete one at the end is dropped, by the rules."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # of the line still open; joined once, so a long line is not quadratic
        self._after_cr = False
        self._at_start = True
        self._event = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames completed by `chunk`."""
        if self._after_cr or b"\r" in chunk:
            chunk = self._plain_newlines(chunk)
        if b"\n" not in chunk:
            if chunk:
                self._pieces.append(chunk)
            return []
        lines = chunk.split(b"\n")
        if self._pieces:
            lines[0] = b"".join((*self._pieces, lines[0]))
            self._pieces.clear()
        if rest := lines.pop():
            self._pieces.append(rest)
        if self._at_start:
            lines[0] = lines[0].removeprefix(_BOM)
            self._at_start = False
        return self._frames(lines)

    def _plain_newlines(self, chunk: bytes) -> bytes:
        """CR and CRLF as LF. A CR ends its line at once; an LF that opens the next chunk then belongs to it."""
        if not chunk:
            return chunk
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _frames(self, lines: list[bytes]) -> list[Frame]:
        frames: list[Frame] = []
        for line in lines:
            if not line:
                self._dispatch(frames)
            elif line.startswith(b"data:"):
                self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            else:
                self._field(line)
        return frames

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"event":
            self._event = value.removeprefix(b" ")
        elif name == b"data":
            self._data.append(b"")

    def _dispatch(self, frames: list[Frame]) -> None:
        data = self._data
        if data:
            frames.append(Frame(self._event, data[0] if len(data) == 1 else b"\n".join(data)))
            self._data = []
        self._event = b""


def encode(data: bytes, event: bytes = b"") -> bytes:
    """One frame. `data` is JSON, which never holds a raw newline; other text is cut into lines."""
    if b"\n" in data or b"\r" in data:
        lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        data = b"\ndata: ".join(lines)
    return b"event: %b\ndata: %b\n\n" % (event, data) if event else b"data: %b\n\n" % data
