"""One large file over HTTP: resumed where it broke off, hashed when it is whole, put in place by a rename."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import httpx2

from helexa.base.clock import Clock
from helexa.neuron.sources.disk import free_bytes, sha256_of

CHUNK: Final = 4 * 1024 * 1024
FRUITLESS_TRIES: Final = 4
"""Attempts in a row that may bring no byte before the download gives up."""
LEAST_FREE: Final = 128 * 1024 * 1024
_TIMEOUT: Final = httpx2.Timeout(30.0, connect=10.0)
_MOVED: Final = frozenset({401, 403, 404, 410})
_BUSY: Final = frozenset({408, 425, 429})
_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0


class DownloadFailed(Exception):
    """It did not come; `transient` says whether another try may help, `status` what the server answered, `after_s` when
    it wants to be asked again."""

    def __init__(self, cause: str, *, transient: bool, status: int | None = None, after_s: float = 0.0) -> None:
        self.cause, self.transient, self.status, self.after_s = cause, transient, status, after_s
        super().__init__(cause)


class WrongContent(DownloadFailed):
    """The file is whole and is not the one that was promised."""


class DiskFilling(Exception):
    """The disk ran low while the file was coming; what came is kept for the next try. Bytes."""

    def __init__(self, needed: int, free: int) -> None:
        self.needed, self.free = needed, free
        super().__init__(f"{needed} bytes still to come, {free} free")


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where the bytes are now: addresses of hubs are signed and expire, so it is asked for on every attempt."""

    url: str
    headers: dict[str, str] = field(default_factory=dict[str, str])


async def download(
    locate: Callable[[], Awaitable[Location]],
    target: Path,
    *,
    size: int,
    sha256: str | None,
    tell: Callable[[str, int], None],
    clock: Clock,
) -> None:
    """Bring `target` here. `tell` hears ("download", bytes so far) and ("verify", bytes read).

    What an earlier attempt left in `<target>.partial` is built upon. Raises DownloadFailed, WrongContent (the partial
    file is gone then), DiskFilling, or OSError.
    """
    partial = target.with_name(target.name + ".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    async with httpx2.AsyncClient(follow_redirects=True, timeout=_TIMEOUT) as client:
        await _until_whole(client, locate, partial, size, lambda done: tell("download", done), clock)
    if sha256 is not None:
        await _verify(partial, sha256, tell)
    os.replace(partial, target)


async def _verify(partial: Path, sha256: str, tell: Callable[[str, int], None]) -> None:
    loop = asyncio.get_running_loop()
    found = await asyncio.to_thread(
        sha256_of, partial, lambda done: loop.call_soon_threadsafe(tell, "verify", done) and None
    )
    if found != sha256:
        await asyncio.to_thread(partial.unlink, missing_ok=True)
        raise WrongContent(f"{partial.stem[:80]} hashes to {found}, not {sha256}", transient=True)


async def _until_whole(
    client: httpx2.AsyncClient,
    locate: Callable[[], Awaitable[Location]],
    partial: Path,
    size: int,
    tell: Callable[[int], None],
    clock: Clock,
) -> None:
    """Attempt after attempt, each from where the last one broke off; ever later while they bring nothing."""
    fruitless = 0
    with partial.open("ab") as file:
        if file.tell() > size:
            file.truncate(0)
        while (had := file.seek(0, os.SEEK_END)) < size:
            try:
                await _attempt(client, await locate(), file, size, tell)
                problem = DownloadFailed("the server ended the file early", transient=True)
            except httpx2.TransportError as error:
                problem = DownloadFailed(f"{type(error).__name__}: {error}", transient=True)
            except DownloadFailed as error:
                if not error.transient and error.status not in _MOVED:
                    raise
                problem = error
            fruitless = 0 if file.seek(0, os.SEEK_END) > had else fruitless + 1
            if fruitless >= FRUITLESS_TRIES:
                raise problem
            if fruitless and problem.transient:  # an address that expired is asked for anew at once
                await clock.sleep(min(max(problem.after_s, _PAUSE_S * 2**fruitless), _LONGEST_PAUSE_S))


async def _attempt(
    client: httpx2.AsyncClient, location: Location, file: IO[bytes], size: int, tell: Callable[[int], None]
) -> None:
    done = file.seek(0, os.SEEK_END)
    headers = {**location.headers, "Range": f"bytes={done}-", "Accept-Encoding": "identity"}
    async with client.stream("GET", location.url, headers=headers) as answer:
        if answer.status_code == 200 and done:
            file.truncate(0)
            done = 0
        _check(answer)
        tell(done)
        held = bytearray()
        try:
            async for piece in answer.aiter_raw():
                held += piece
                done += len(piece)
                if done > size:
                    held.clear()
                    file.truncate(0)
                    raise WrongContent(f"the server sends more than {size} bytes", transient=True)
                if len(held) >= CHUNK:
                    full, held = held, bytearray()
                    await asyncio.to_thread(_write, file, full, size - done)
                    tell(done)
        finally:
            _write(file, held, size - done)
        tell(done)


def _check(answer: httpx2.Response) -> None:
    status = answer.status_code
    if status not in {200, 206}:
        transient = status >= 500 or status in _BUSY
        after_s = seconds(answer.headers.get("retry-after", ""))
        raise DownloadFailed(f"the server answered {status}", transient=transient, status=status, after_s=after_s)


def seconds(retry_after: str) -> float:
    """A `Retry-After` in seconds; one that is a date or nonsense as 0: our own pause will do."""
    return float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0


def _write(file: IO[bytes], chunk: bytearray, to_come: int) -> None:
    """Append `chunk`, unless the disk is about to be full."""
    free = free_bytes(Path(file.name).parent)
    if free is not None and free < LEAST_FREE + len(chunk):
        raise DiskFilling(to_come + len(chunk), free)
    file.write(chunk)
    file.flush()
