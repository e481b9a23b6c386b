"""Sizes and durations, and how a person reads them."""

from __future__ import annotations

MIB = 1024 * 1024


def mib(size_bytes: int) -> int:
    """Bytes as whole MiB, rounded up: a reservation is never smaller than what it holds."""
    return -(-size_bytes // MIB)


def human_bytes(size_bytes: float) -> str:
    """`98.4 MB`; decimal units, as files and downloads are shown."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def human_mib(size_mib: float) -> str:
    """`640 MiB` or `23.4 GiB`; binary units, as memory is shown."""
    return f"{size_mib:.0f} MiB" if size_mib < 1024 else f"{size_mib / 1024:.1f} GiB"


def human_seconds(seconds: float) -> str:
    """`0.31 s`, `12 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
