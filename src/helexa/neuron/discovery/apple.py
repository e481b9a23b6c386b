"""Apple silicon: one Metal device that shares the host's memory."""

from __future__ import annotations

import platform
import subprocess
from typing import Final

from helexa.base.units import MIB
from helexa.neuron.discovery.gpu import Gpu, Gpus, whole

_KEYS: Final = ("hw.memsize", "machdep.cpu.brand_string", "kern.osproductversion")
_TIMEOUT_S: Final = 5.0
_METAL_SHARE: Final = 0.75
"""How much of the memory Metal lets one process wire by default (`recommendedMaxWorkingSetSize` on 36 GiB and more)."""


def probe() -> Gpus:
    """The Metal device of an Apple silicon Mac; nothing elsewhere. Never raises."""
    if platform.system() != "Darwin" or platform.machine() != "arm64":
        return Gpus()
    try:
        done = subprocess.run(["sysctl", *_KEYS], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return Gpus()
    return parse_sysctl(done.stdout)


def parse_sysctl(text: str) -> Gpus:
    """The output of `sysctl hw.memsize machdep.cpu.brand_string kern.osproductversion`."""
    facts = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    size = whole(facts.get("hw.memsize", ""))
    if not size:
        return Gpus()
    name = facts.get("machdep.cpu.brand_string", "Apple GPU").strip()
    gpu = Gpu(kind="metal", ordinal=0, name=name, total_mb=int(size * _METAL_SHARE) // MIB)
    return Gpus(found=(gpu,), driver_version=facts.get("kern.osproductversion"))
