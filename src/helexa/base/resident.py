"""What a process holds of the host's memory, from the kernel's own books; giving back what it does not need, and
keeping what it will need again."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from pathlib import Path
from typing import Any, Final

from helexa.base.units import MIB

LARGE: Final = 4 * MIB
"""A model's buffers are larger, what a step allocates and frees again is smaller."""
KEPT: Final = 64 * MIB
"""Free memory at the heap's end that is kept for what comes next, until `give_back`."""


def anonymous_mb(pid: int | str = "self") -> int | None:
    """MiB that a process holds beside the pages of files: what would come free with it. None: gone, or not Linux."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("RssAnon:"))
    except (OSError, StopIteration, ValueError):
        return None


def part_large_from_small() -> None:
    """Have glibc map every buffer of LARGE and more by itself, so that it goes back to the system once it is freed. By
    itself glibc raises that limit to the largest buffer that it has seen freed, and keeps the next ones in its heap."""
    threshold, trim = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of <malloc.h>
    with contextlib.suppress(OSError, AttributeError):  # another libc has no such call
        libc = ctypes.CDLL(None)
        libc.mallopt(threshold, LARGE)
        libc.mallopt(trim, KEPT)


def share_one_heap() -> None:
    """Have all threads allocate from one heap. By itself glibc deals several out by turns, and an engine starts threads
    anew with each load: what every heap keeps in pieces comes to megabytes after some hundred loads."""
    arenas = -8  # M_ARENA_MAX of <malloc.h>
    with contextlib.suppress(OSError, AttributeError):  # another libc has no such call
        ctypes.CDLL(None).mallopt(arenas, 1)


def give_back() -> None:
    """Have the allocator return what was freed to the system: what it keeps is missing from what the next load is
    measured to take."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class MappedFile:
    """A window of an open file (bytes), mapped for reading until `close`. Its pages are those of the page cache. Calls
    into libc, unlike those of `mmap.mmap`, leave the interpreter to others meanwhile. Raises OSError."""

    def __init__(self, descriptor: int, offset: int, length: int) -> None:
        self._libc: Any = ctypes.CDLL(None, use_errno=True)
        self._libc.mmap.restype = ctypes.c_void_p
        self._libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
        self._length = ctypes.c_size_t(length)
        address = self._libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, offset)
        if address == ctypes.c_void_p(-1).value:
            raise self._failure()
        self._address = ctypes.c_void_p(address)

    def resident_share(self) -> float:
        """How much of it is in memory, 0..1."""
        pages = -(-self._length.value // mmap.PAGESIZE)
        flags = (ctypes.c_ubyte * pages)()
        if self._libc.mincore(self._address, self._length, flags) != 0:
            raise self._failure()
        return sum(flag & 1 for flag in flags) / pages

    def lock(self) -> None:
        """Read it, and hold it in memory until `close`. RLIMIT_MEMLOCK may not allow so much."""
        if self._libc.mlock(self._address, self._length) != 0:
            raise self._failure()

    def close(self) -> None:
        self._libc.munmap(self._address, self._length)

    @staticmethod
    def _failure() -> OSError:
        number = ctypes.get_errno()
        return OSError(number, os.strerror(number))
