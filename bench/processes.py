"""Processes of a benchmark: started on one core, measured through /proc, ended for certain."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
STOP_S = 3.0


class Process:
    """A command with its children, pinned to `cpu`, its output in `log`. Leaving the context ends all of it."""

    def __init__(self, command: list[str], *, cpu: int, log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | (env or {}),
                start_new_session=True,
                preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        self._signal(signal.SIGKILL)  # also children that outlived their parent: the group is theirs too
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def over(self) -> bool:
        return self._process.poll() is not None

    def tail(self, length: int = 600) -> str:
        return self.log.read_text(errors="replace")[-length:]

    def cpu_s(self) -> float:
        """User and system time of the whole tree so far."""
        return sum(_cpu_s(pid) for pid in tree(self._process.pid))

    def memory_mib(self) -> float:
        """Proportional set size of the tree: shared pages are counted once."""
        return sum(_pss_kib(pid) for pid in tree(self._process.pid)) / 1024


def tree(root: int) -> list[int]:
    """`root` and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue += children.get(pid, [])
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return []


def _cpu_s(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S if fields else 0.0


def _pss_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def machine_busy_s() -> float:
    """Core seconds in use on the whole machine so far, with what the host took away (steal)."""
    fields = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) / TICKS_PER_S for field in fields)
    return user + nice + system + irq + softirq + steal


def wait_until(ready: Callable[[], bool], within_s: float, every_s: float = 0.05) -> bool:
    """Whether `ready()` came true in time."""
    until = time.monotonic() + within_s
    while not ready():
        if time.monotonic() > until:
            return False
        time.sleep(every_s)
    return True
