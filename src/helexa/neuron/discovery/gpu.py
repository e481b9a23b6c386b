"""A GPU as its driver describes it, whatever the vendor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One reading. `ordinal` is its number among those of its kind; MiB, percent, degrees Celsius; None where the
    driver does not say, which is never the same as 0: a part that shares the host's memory has `total_mb` None."""

    kind: str
    ordinal: int
    name: str
    total_mb: int | None = None
    used_mb: int | None = None
    utilization_pct: int | None = None
    temp_c: int | None = None
    capability: str = ""
    uuid: str = ""
    processes: Mapping[int, int] = field(default_factory=dict[int, int])


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpus:
    """All of one vendor, and why its driver cannot be used when it is there and cannot."""

    found: tuple[Gpu, ...] = ()
    driver_version: str | None = None
    cuda_version: str | None = None
    unavailable_reason: str | None = None


def whole(text: str) -> int | None:
    """A driver's number: `24564`, `24564 MiB`, `36.5`; None for `[N/A]`, `[Not Supported]` and the like."""
    digits = text.strip().partition(" ")[0]
    try:
        return int(float(digits))
    except (ValueError, OverflowError):
        return None
