"""A file at an address, read in ranges: what looks into a wheel or a GGUF without downloading it."""

from __future__ import annotations

import io
import os
import ssl
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote, urlsplit

from helexa.neuron.sources.contract import HeadUnavailable

if TYPE_CHECKING:
    import httpx2

_TIMEOUT_S = 20.0
_BLOCK = 256 * 1024
_PARTIAL = 206


class RangedFile(io.RawIOBase):
    """A seekable, read-only file over HTTP range requests, a block at a time; blocking, so for use in a thread.

    Raises HeadUnavailable when the server does not do ranges or cannot be reached.
    """

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        import httpx2

        super().__init__()
        self._client: httpx2.Client = httpx2.Client(
            headers=headers or {}, follow_redirects=True, timeout=_TIMEOUT_S, verify=_trust()
        )
        self._url = url
        self._at = 0
        self._blocks: dict[int, bytes] = {}
        self._size = -1
        try:
            self._block(0)
        except BaseException:
            self._client.close()
            raise

    @property
    def size(self) -> int:
        return self._size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        index, inside = divmod(self._at, _BLOCK)
        if self._at >= self._size:
            return 0
        piece = self._block(index)[inside : inside + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            self._client.close()
        super().close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def _block(self, index: int) -> bytes:
        found = self._blocks.get(index)
        if found is None:
            found = self._blocks[index] = self._range(index * _BLOCK, (index + 1) * _BLOCK - 1)
        return found

    def _range(self, first: int, last: int) -> bytes:
        import httpx2

        try:
            with self._client.stream("GET", self._url, headers={"Range": f"bytes={first}-{last}"}) as answer:
                if answer.status_code != _PARTIAL:
                    raise HeadUnavailable(f"the server answered {answer.status_code} to a range")
                self._size = int(answer.headers.get("content-range", "").rpartition("/")[2])
                return answer.read()
        except (httpx2.HTTPError, ValueError, OSError) as error:
            raise HeadUnavailable(str(error) or type(error).__name__) from error


def open_ranged(url: str, headers: dict[str, str] | None = None) -> io.RawIOBase | io.BufferedReader:
    """The file at an http(s) or file address. Raises HeadUnavailable."""
    parts = urlsplit(url)
    if parts.scheme in {"http", "https"}:
        return RangedFile(url, headers)
    if parts.scheme == "file":
        try:
            return Path(unquote(parts.path)).open("rb")
        except OSError as error:
            raise HeadUnavailable(str(error)) from error
    raise HeadUnavailable(f"`{parts.scheme}` addresses cannot be read in ranges")


def _trust() -> ssl.SSLContext:
    """The certificates that pip was told to trust, or the system's."""
    named = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE")
    context = ssl.create_default_context()
    if named and Path(named).is_file():
        context.load_verify_locations(cafile=named)
    return context
