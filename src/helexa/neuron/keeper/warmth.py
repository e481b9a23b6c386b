"""Weights on their way from disk to the host's page cache, ahead of the engine that will map them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from helexa.base.units import MIB
from helexa.neuron.discovery.cpu import memory


async def warm(files: Sequence[str]) -> None:
    """`read_ahead`, beside the event loop."""
    await asyncio.to_thread(read_ahead, files)


def read_ahead(files: Sequence[str], available_mb: int | None = None) -> int:
    """Have the kernel read `files` in the background, in order, while they fit the memory that is available (MiB; None:
    what the host has now). Returns the bytes asked for. Blocks for a moment."""
    if sys.platform != "linux":
        return 0
    room = (memory().available_mb if available_mb is None else available_mb) * MIB
    asked = 0
    for file in files:
        with contextlib.suppress(OSError):
            size = Path(file).stat().st_size
            if asked + size > room:
                break
            _will_need(file)
            asked += size
    return asked


def _will_need(file: str) -> None:
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(descriptor)
