"""A child that must not outlive its parent: the parent keeps the write end of a pipe open, the child watches the other.

When the parent dies, even by kill -9, the pipe closes and the child shuts down as if it had been told to.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping

VARIABLE = "HELEXA_LIFELINE_FD"


def watch(environ: Mapping[str, str], over: Callable[[], None]) -> None:
    """Call `over` when the parent's end closes. Does nothing when no lifeline was handed down."""
    text = environ.get(VARIABLE, "")
    if not text.isdigit():
        return
    descriptor = int(text)
    loop = asyncio.get_running_loop()

    def readable() -> None:
        with contextlib.suppress(BlockingIOError):
            if not os.read(descriptor, 1):
                loop.remove_reader(descriptor)
                over()

    try:
        os.set_blocking(descriptor, False)
        loop.add_reader(descriptor, readable)
    except OSError:  # a stale variable, inherited from an older ancestor: no lifeline of ours
        return
