"""The model cache on disk: where it is, one writer at a time, whole files only, and what the page cache holds of it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from helexa.base.config import under_home
from helexa.base.resident import MappedFile
from helexa.neuron.core.plan import Warmth

BLOCK = 1 << 20
_SAMPLES = 64
_WARM_SHARE = 0.9


def cache_root(environ: Mapping[str, str], state_dir: str | None = None) -> Path:
    """`$HELEXA_CACHE`, else `<state_dir>/models`, else as a service `$STATE_DIRECTORY/models`, else
    `$XDG_CACHE_HOME/helexa`, else `~/.cache/helexa`."""
    if named := environ.get("HELEXA_CACHE"):
        return under_home(named)
    if folder := state_dir or service_folder(environ):
        return under_home(folder) / "models"
    base = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return under_home(base) / "helexa"


def service_folder(environ: Mapping[str, str]) -> str:
    """What systemd keeps for a service; one may have no home, or one that it cannot write to. Empty: not a service."""
    return environ.get("STATE_DIRECTORY", "").partition(":")[0]


def free_bytes(folder: Path) -> int | None:
    """What the disk under `folder` has left; the folder need not exist yet. None when nobody can tell."""
    for there in (folder, *folder.parents):
        try:
            return shutil.disk_usage(there).free
        except OSError:
            continue
    return None


class _FileLock:
    """An exclusive lock of a file, taken in a thread; one that was given up while it waited lets go when it is had."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = threading.Lock()
        self._fd: int | None = None
        self._over = False

    def acquire(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        fcntl.flock(fd, fcntl.LOCK_EX)
        with self._guard:
            self._fd = fd
        if self._over:
            self.release()

    def release(self) -> None:
        self._over = True
        with self._guard:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None


class Turnstile:
    """One at a time per name, in this process and among processes that share the cache."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._locks: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def alone(self, name: str) -> AsyncGenerator[None]:
        async with self._locks.setdefault(name, asyncio.Lock()):
            lock = _FileLock(self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.lock")
            try:
                await asyncio.to_thread(lock.acquire)
                yield
            finally:
                lock.release()


def sha256_of(path: Path, tell: Callable[[int], None] = lambda _: None) -> str:
    """The file's digest in hex; `tell` hears the bytes read so far."""
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            done += len(block)
            tell(done)
    return digest.hexdigest()


def warmth_of(paths: Iterable[Path]) -> Warmth:
    """Where the files are: in the page cache nearly whole ("memory"), on disk, or one is missing ("cold")."""
    shares: list[float] = []
    for path in paths:
        try:
            shares.append(resident_share(path))
        except OSError:
            return "cold"
    return "memory" if shares and min(shares) >= _WARM_SHARE else "disk"


def resident_share(path: Path) -> float:
    """How much of a file is in the page cache, 0..1, from samples of 1 MiB; 0 where the system does not tell.

    Raises OSError when the file cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        windows = max(1, -(-size // BLOCK))
        picked = sorted({at * windows // _SAMPLES for at in range(_SAMPLES)})
        seen = [_resident(fd, at * BLOCK, min(BLOCK, size - at * BLOCK)) for at in picked]
        return sum(seen) / len(seen)
    finally:
        os.close(fd)


def _resident(fd: int, offset: int, length: int) -> float:
    """The share of one window of a file that is in memory."""
    try:
        window = MappedFile(fd, offset, length)
    except OSError:  # an empty one
        return 0.0
    try:
        return window.resident_share()
    finally:
        window.close()


def size_of(folder: Path) -> tuple[int, int, float]:
    """Of all files under `folder`: bytes, how many, when one was last read. What goes away meanwhile is left out."""
    total, count, used_s = 0, 0, 0.0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            found = path.lstat()
            if stat.S_ISREG(found.st_mode):
                total, count, used_s = total + found.st_size, count + 1, max(used_s, found.st_atime)
    return total, count, used_s


def sweep(paths: Iterable[Path], before_s: float) -> int:
    """Remove files and folders that nobody has written to since `before_s`; returns their bytes."""
    freed = 0
    for path in list(paths):
        with contextlib.suppress(OSError):
            parts = (path, *path.rglob("*")) if path.is_dir() else (path,)
            if max(part.lstat().st_mtime for part in parts) >= before_s:
                continue
            freed += size_of(path)[0] if path.is_dir() else path.lstat().st_size
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return freed
