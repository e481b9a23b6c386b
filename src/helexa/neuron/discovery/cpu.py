"""The host's memory and processors as far as this process may use them: cgroup limits and affinity count."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from helexa.base.units import MIB
from helexa.neuron.discovery.gpu import whole

_LEAST_RESERVE_MB: Final = 512
_MOST_RESERVE_MB: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Host memory in MiB, the narrowest cgroup limit applied: all of it, and what could be had now."""

    total_mb: int
    available_mb: int

    @property
    def usable_mb(self) -> int:
        """What models may take of it: all but a tenth (512 MiB to 4 GiB, half at most), which the system needs."""
        reserve = min(max(self.total_mb // 10, _LEAST_RESERVE_MB), _MOST_RESERVE_MB, self.total_mb // 2)
        return self.total_mb - reserve


def memory(root: Path = Path("/")) -> Memory:
    """The memory of the host under `root`; where there is no /proc, what sysconf says."""
    try:
        host = parse_meminfo((root / "proc/meminfo").read_text(encoding="utf-8"))
    except OSError:
        host = _sysconf_memory()
    for limit, used in cgroup_limits(root):
        if limit < host.total_mb:
            host = Memory(total_mb=limit, available_mb=max(0, min(host.available_mb, limit - used)))
    return host


def parse_meminfo(text: str) -> Memory:
    """/proc/meminfo. A kernel without MemAvailable (before 3.14) is taken at MemFree and the caches."""
    facts = {key: (whole(value) or 0) // 1024 for key, _, value in (line.partition(":") for line in text.splitlines())}
    rough = facts.get("MemFree", 0) + facts.get("Buffers", 0) + facts.get("Cached", 0)
    return Memory(total_mb=facts.get("MemTotal", 0), available_mb=facts.get("MemAvailable", rough))


def cgroup_limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, used) in MiB of every cgroup of this process that has a memory limit, v2 and v1, innermost first.

    `used` leaves out file pages that the kernel would give back.
    """
    for folder in _cgroup_folders(root, "memory"):
        for limit_file, used_file in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit = whole(_read(folder / limit_file))
            if limit is not None:
                used = (whole(_read(folder / used_file)) or 0) - _reclaimable(folder)
                yield limit // MIB, max(0, used) // MIB


def _reclaimable(folder: Path) -> int:
    facts = dict(line.split(" ", 1) for line in _read(folder / "memory.stat").splitlines() if " " in line)
    return whole(facts.get("inactive_file") or facts.get("total_inactive_file") or "") or 0


def _cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """This process's cgroup and those around it, v2 and the v1 hierarchy of `controller`. In a container the path may
    name what is not mounted here; the root of the mount is looked at in any case."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / controllers
        inner = PurePosixPath(path.lstrip("/"))
        yield from (top / each for each in (inner, *inner.parents) if ".." not in each.parts)


def processors(root: Path = Path("/")) -> int:
    """How many processors this process may keep busy: its affinity, cut by a cgroup's CPU quota, at least 1."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:
        count = os.cpu_count() or 1
    for folder in _cgroup_folders(root, "cpu"):
        quota, period = _cpu_quota(folder)
        if quota and quota > 0 and period:
            count = min(count, -(-quota // period))
    return max(1, count)


def _cpu_quota(folder: Path) -> tuple[int | None, int | None]:
    """Microseconds of processor time in each period of so many; no number, or -1, where there is no limit."""
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    return whole(quota), whole(period)


def cpu_name(root: Path = Path("/")) -> str:
    """The processor's own name, or the machine's kind."""
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"model name", "Model", "Hardware"} and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "cpu"


def _sysconf_memory() -> Memory:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MIB
    except (ValueError, OSError):
        total = 0
    return Memory(total_mb=total, available_mb=total // 2)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
