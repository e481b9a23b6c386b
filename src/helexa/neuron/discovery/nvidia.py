"""NVIDIA GPUs, through NVML where `nvidia-ml-py` is installed, else through `nvidia-smi`."""

from __future__ import annotations

import csv
import importlib
import io
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from helexa.base.units import MIB
from helexa.neuron.discovery.gpu import Gpu, Gpus, whole

_QUERY: Final = (
    "index", "name", "memory.total", "memory.used", "utilization.gpu", "temperature.gpu", "compute_cap", "uuid",
    "driver_version",
)  # fmt: skip
_SMI_TIMEOUT_S: Final = 10.0
_KERNEL_MODULE: Final = Path("/proc/driver/nvidia/version")
_MISMATCH = re.compile(r"driver/library version mismatch|version mismatch", re.I)
_ABSENT = re.compile(r"library not found|driver not loaded|no devices were found|couldn't communicate", re.I)
_LIBRARY = re.compile(r"NVML library version:\s*([\d.]+)")
_MODULE = re.compile(r"Kernel Module\s+(?:for \S+\s+)?([\d.]+)")


def probe() -> Gpus:
    """What the driver says now; blocking, up to seconds when a GPU is being reset. Never raises."""
    nvml = _nvml()
    seen = _through_nvml(nvml) if nvml is not None else _through_smi()
    return replace(seen, found=visible(seen.found, os.environ.get("CUDA_VISIBLE_DEVICES")))


def visible(found: Sequence[Gpu], only: str | None) -> tuple[Gpu, ...]:
    """The GPUs that CUDA shows to a worker, with the ordinals that they have there. `only` is CUDA_VISIBLE_DEVICES:
    ordinals or beginnings of UUIDs, of which CUDA takes those before the first that is nobody's; None: no such limit.
    The driver knows nothing of it. A part of a GPU (MIG) is not told from the whole.
    """
    if only is None or "MIG-" in only:
        return tuple(found)
    shown: list[Gpu] = []
    for word in (word.strip() for word in only.split(",")):
        gpu = next((gpu for gpu in found if word and (str(gpu.ordinal) == word or gpu.uuid.startswith(word))), None)
        if gpu is None:
            break
        shown.append(replace(gpu, ordinal=len(shown)))
    return tuple(shown)


def _nvml() -> Any | None:
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        return None


def parse_smi(text: str) -> Gpus:
    """The rows of `nvidia-smi --query-gpu=... --format=csv,noheader,nounits`, in the order of the query."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text)) if row]
    gpus = tuple(_smi_row(row) for row in rows if len(row) == len(_QUERY) and row[0].isdigit())
    version = next((row[-1] for row in rows if len(row) == len(_QUERY)), None)
    return Gpus(found=gpus, driver_version=version)


def _smi_row(row: list[str]) -> Gpu:
    index, name, total, used, busy, heat, capability, uuid, _ = row
    return Gpu(
        kind="cuda",
        ordinal=int(index),
        name=name,
        total_mb=whole(total),
        used_mb=whole(used),
        utilization_pct=whole(busy),
        temp_c=whole(heat),
        capability=capability if capability[:1].isdigit() else "",
        uuid=uuid,
    )


def classify(message: str, module: str = "") -> str | None:
    """Why an NVIDIA driver that is there cannot be used; None when there simply is no NVIDIA driver.

    `message` is what NVML or nvidia-smi said, `module` the text of /proc/driver/nvidia/version. The mismatch after an
    update without a reboot is named, with the versions that are known: it once cost half an hour of looking elsewhere.
    """
    if _MISMATCH.search(message):
        loaded, library = _MODULE.search(module), _LIBRARY.search(message)
        known = [f"{what} {found[1]}" for what, found in (("kernel module", loaded), ("library", library)) if found]
        detail = f" ({', '.join(known)})" if known else ""
        return f"NVIDIA driver/library version mismatch{detail}: reboot, or reload the nvidia kernel modules"
    if not module and (not message or _ABSENT.search(message)):
        return None
    words = " ".join(message.split())[:300]
    return f"the NVIDIA driver is loaded but cannot be used: {words}" if module else None


def _module_text() -> str:
    try:
        return _KERNEL_MODULE.read_text(encoding="utf-8")
    except OSError:
        return ""


def _through_smi() -> Gpus:
    command = ["nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_TIMEOUT_S, check=False)
    except FileNotFoundError:
        return Gpus(unavailable_reason=classify("", ""))
    except (OSError, subprocess.TimeoutExpired) as error:
        return Gpus(unavailable_reason=classify(str(error), _module_text()))
    if done.returncode != 0:
        return Gpus(unavailable_reason=classify(done.stdout + done.stderr, _module_text()))
    return parse_smi(done.stdout)


def _through_nvml(nvml: Any) -> Gpus:
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return Gpus(unavailable_reason=classify(str(error), _module_text()))
    try:
        count = int(nvml.nvmlDeviceGetCount())
        gpus = tuple(_nvml_gpu(nvml, ordinal) for ordinal in range(count))
        return Gpus(
            found=tuple(gpu for gpu in gpus if gpu is not None),
            driver_version=_text(_asked(nvml, nvml.nvmlSystemGetDriverVersion)),
            cuda_version=cuda_version(_asked(nvml, nvml.nvmlSystemGetCudaDriverVersion)),
        )
    except nvml.NVMLError as error:
        return Gpus(unavailable_reason=classify(str(error), _module_text()))
    finally:
        nvml.nvmlShutdown()


def _nvml_gpu(nvml: Any, ordinal: int) -> Gpu | None:
    """One GPU; None for one that has fallen off the bus, which must not hide the others."""
    handle = _asked(nvml, nvml.nvmlDeviceGetHandleByIndex, ordinal)
    if handle is None:
        return None
    memory = _asked(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    rates = _asked(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
    major_minor = _asked(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle)
    return Gpu(
        kind="cuda",
        ordinal=ordinal,
        name=_text(_asked(nvml, nvml.nvmlDeviceGetName, handle)) or f"cuda {ordinal}",
        total_mb=int(memory.total) // MIB if memory is not None and memory.total else None,
        used_mb=int(memory.used) // MIB if memory is not None and memory.total else None,
        utilization_pct=int(rates.gpu) if rates is not None else None,
        temp_c=_asked(nvml, nvml.nvmlDeviceGetTemperature, handle, 0),
        capability="{}.{}".format(*major_minor) if major_minor is not None else "",
        uuid=_text(_asked(nvml, nvml.nvmlDeviceGetUUID, handle)) or "",
        processes=_processes(_asked(nvml, nvml.nvmlDeviceGetComputeRunningProcesses, handle)),
    )


def _processes(rows: Any | None) -> dict[int, int]:
    """MiB by process id; without those whose use the driver does not tell (containers, Windows)."""
    return {int(row.pid): int(row.usedGpuMemory) // MIB for row in rows or () if row.usedGpuMemory}


def _asked(nvml: Any, question: Any, *arguments: object) -> Any | None:
    """The answer, or None where this part does not support the question."""
    try:
        return question(*arguments)
    except nvml.NVMLError:
        return None


def _text(value: Any | None) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def cuda_version(number: int | None) -> str | None:
    """NVML's `13000` as `13.0`."""
    return None if number is None else f"{number // 1000}.{number % 1000 // 10}"
