"""What a process holds of the host's memory, from the kernel's own books; and giving back what it does not need."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path
from typing import Final

from helexa.base.units import MIB

LARGE: Final = 4 * MIB
"""A model's buffers are larger, what a step allocates and frees again is smaller."""
KEPT: Final = 64 * MIB
"""Free memory at the heap's end that is kept for what comes next, until `give_back`."""


def anonymous_mb(pid: int | str = "self") -> int | None:
    """MiB that a process holds beside the pages of files: what would come free with it. None: gone, or not Linux."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
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


def give_back() -> None:
    """Have the allocator return what was freed to the system: what it keeps is missing from what the next load is
    measured to take."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
