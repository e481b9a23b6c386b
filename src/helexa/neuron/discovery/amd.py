"""AMD GPUs, from what the amdgpu kernel driver writes under /sys; needs no library."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from helexa.base.units import MIB
from helexa.neuron.discovery.gpu import Gpu, Gpus, whole

_DRM: Final = Path("/sys/class/drm")
_MODULE_VERSION: Final = Path("/sys/module/amdgpu/version")
_VENDOR: Final = "0x1002"
_CARD = re.compile(r"card(\d+)")


def probe(drm: Path = _DRM) -> Gpus:
    """All AMD cards with memory of their own, numbered in the kernel's order. Never raises."""
    try:
        cards = sorted((c for c in drm.iterdir() if _CARD.fullmatch(c.name)), key=lambda c: int(c.name[4:]))
    except OSError:
        return Gpus()
    devices = [card / "device" for card in cards if _read(card / "device" / "vendor") == _VENDOR]
    with_memory = [device for device in devices if whole(_read(device / "mem_info_vram_total"))]
    found = tuple(_gpu(device, ordinal) for ordinal, device in enumerate(with_memory))
    return Gpus(found=found, driver_version=_read(_MODULE_VERSION) or None if found else None)


def _gpu(device: Path, ordinal: int) -> Gpu:
    return Gpu(
        kind="rocm",
        ordinal=ordinal,
        name=_read(device / "product_name") or f"AMD GPU {_read(device / 'device') or ordinal}",
        total_mb=_mib(_read(device / "mem_info_vram_total")),
        used_mb=_mib(_read(device / "mem_info_vram_used")),
        utilization_pct=whole(_read(device / "gpu_busy_percent")),
        temp_c=_degrees(device),
        uuid=_read(device / "unique_id"),
    )


def _degrees(device: Path) -> int | None:
    millidegrees = next((whole(_read(path)) for path in sorted(device.glob("hwmon/hwmon*/temp1_input"))), None)
    return None if millidegrees is None else millidegrees // 1000


def _mib(text: str) -> int | None:
    size = whole(text)
    return None if size is None else size // MIB


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
