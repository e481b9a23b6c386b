"""What a process holds of the host's memory, from the kernel's own books."""

from __future__ import annotations

from pathlib import Path


def anonymous_mb(pid: int | str = "self") -> int | None:
    """MiB that a process holds beside the pages of files: what would come free with it. None: gone, or not Linux."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("RssAnon:"))
    except (OSError, StopIteration, ValueError):
        return None
