"""The host as a whole: which devices there are, which of them are used, and how they are.

`survey` asks the drivers and may take seconds: call it in a thread, at start and every few seconds after. All else is
arithmetic on what it returned.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from helexa.neuron.config import DeviceEntry, NeuronConfig
from helexa.neuron.core.plan import DeviceState
from helexa.neuron.discovery import amd, apple, cpu, nvidia
from helexa.neuron.discovery.cpu import Memory
from helexa.neuron.discovery.gpu import Gpu
from helexa.neuron.harness import DeviceRef
from helexa.wire.control import Device, DeviceHealth, Discovery


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """One look at the host."""

    hostname: str
    os: str
    kernel: str
    memory: Memory
    processors: int
    cpu_name: str
    gpus: tuple[Gpu, ...] = ()
    driver_version: str | None = None
    cuda_version: str | None = None
    cuda_unavailable_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDevice:
    """A device that this neuron uses.

    `index` is its number on this host, the one on the wire: its place in `[[devices]]`, or in the order found.
    `ordinal` is its number among those of its kind, the one a driver understands. `memory_mb` is what models may use.
    `missing`: a driver that works does not know it.
    """

    index: int
    kind: str
    ordinal: int
    name: str
    memory_mb: int
    physical_mb: int
    capability: str = ""
    threads: int | None = None
    uuid: str = ""
    missing: bool = False

    @property
    def worker_name(self) -> str:
        return f"{self.kind}-dev-{self.ordinal}"

    def as_device(self) -> Device:
        return Device(
            index=self.index,
            name=self.name,
            vram_total_mb=self.memory_mb,
            compute_capability=self.capability,
            kind=self.kind,
        )

    def as_ref(self) -> DeviceRef:
        """What an engine is told: the driver's number, not the host's."""
        return DeviceRef(kind=self.kind, index=self.ordinal, memory_mb=self.memory_mb, threads=self.threads)

    def as_state(self, *, reserved_mb: int = 0, foreign_mb: int = 0) -> DeviceState:
        return DeviceState(
            index=self.index,
            kind=self.kind,
            name=self.name,
            total_mb=self.memory_mb,
            reserved_mb=reserved_mb,
            foreign_mb=foreign_mb,
        )


def survey() -> Survey:
    """Ask the drivers and the kernel. Blocking; never raises."""
    cuda, rocm, metal = nvidia.probe(), amd.probe(), apple.probe()
    name = platform.uname()
    return Survey(
        hostname=name.node,
        os=_os_name(),
        kernel=name.release,
        memory=cpu.memory(),
        processors=cpu.processors(),
        cpu_name=cpu.cpu_name(),
        gpus=(*cuda.found, *rocm.found, *metal.found),
        driver_version=cuda.driver_version or rocm.driver_version or metal.driver_version,
        cuda_version=cuda.cuda_version,
        cuda_unavailable_reason=cuda.unavailable_reason,
    )


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()


def chosen(config: NeuronConfig, seen: Survey, before: Sequence[DeviceEntry] = ()) -> tuple[DeviceEntry, ...]:
    """Which devices to use. `[[devices]]` given: exactly these, in that order. None given: every GPU, then
    `cpu_devices` CPU devices, one on a host without GPUs. A host whose driver is broken is not one: nobody wants
    a GPU's models on its CPU. Those chosen `before` keep their numbers, and GPUs that came since get the next ones."""
    found = config.devices or _found(config, seen)
    return (*before, *(each for each in found if each.kind != "cpu" and each not in before)) if before else tuple(found)


def host_devices(entries: Sequence[DeviceEntry], seen: Survey, *, kept_mb: int = 0) -> tuple[HostDevice, ...]:
    """The chosen devices as they are now. One that is not there has no memory, so that it shows and nothing is placed
    on it. CPU devices without a `memory_mb` of their own share what the others, and `kept_mb` for weights of unloaded
    models, leave of the usable memory."""
    cpus = [entry for entry in entries if entry.kind == "cpu"]
    capped = sum(entry.memory_mb or 0 for entry in cpus)
    open_cpus = sum(1 for entry in cpus if entry.memory_mb is None)
    share = max(0, seen.memory.usable_mb - capped - kept_mb) // max(1, open_cpus)
    threads = max(1, seen.processors // max(1, len(cpus)))
    return tuple(
        _cpu_device(at, entry, seen, share, threads) if entry.kind == "cpu" else _gpu_device(at, entry, seen)
        for at, entry in enumerate(entries)
    )


def _found(config: NeuronConfig, seen: Survey) -> list[DeviceEntry]:
    gpus = [DeviceEntry(kind=gpu.kind, index=gpu.ordinal) for gpu in seen.gpus]  # pyright: ignore[reportArgumentType]
    count = config.cpu_devices if config.cpu_devices is not None else 0 if gpus or seen.cuda_unavailable_reason else 1
    return [*gpus, *(DeviceEntry(kind="cpu", index=at) for at in range(count))]


def _cpu_device(at: int, entry: DeviceEntry, seen: Survey, share: int, threads: int) -> HostDevice:
    memory = share if entry.memory_mb is None else min(entry.memory_mb, seen.memory.total_mb)
    return HostDevice(
        index=at,
        kind="cpu",
        ordinal=entry.index,
        name=entry.name or seen.cpu_name,
        memory_mb=memory,
        physical_mb=seen.memory.total_mb,
        threads=entry.threads or threads,
    )


def _gpu_device(at: int, entry: DeviceEntry, seen: Survey) -> HostDevice:
    gpu = _reading(seen, entry.kind, entry.index)
    if gpu is None:
        return HostDevice(
            index=at,
            kind=entry.kind,
            ordinal=entry.index,
            name=entry.name or f"{entry.kind} {entry.index} (not found)",
            memory_mb=0,
            physical_mb=0,
            missing=entry.kind != "cuda" or seen.cuda_unavailable_reason is None,
        )
    physical = gpu.total_mb if gpu.total_mb is not None else seen.memory.usable_mb
    return HostDevice(
        index=at,
        kind=entry.kind,
        ordinal=entry.index,
        name=entry.name or gpu.name,
        memory_mb=min(physical, entry.memory_mb) if entry.memory_mb is not None else physical,
        physical_mb=physical,
        capability=gpu.capability,
        threads=entry.threads,
        uuid=gpu.uuid,
    )


def _reading(seen: Survey, kind: str, ordinal: int) -> Gpu | None:
    return next((gpu for gpu in seen.gpus if gpu.kind == kind and gpu.ordinal == ordinal), None)


def read_health(devices: Sequence[HostDevice], seen: Survey) -> list[DeviceHealth]:
    """Memory, load and heat of each device, from a survey.

    `vram_used_mb` counts every process; `vram_free_mb` is what the driver has free, `memory_mb` at most: what our own
    models are promised beyond that only the ledger knows. A CPU device, and a GPU that shares the host's memory, go by
    what the host has available.
    """
    return [_health(device, _reading(seen, device.kind, device.ordinal), seen.memory) for device in devices]


def _health(device: HostDevice, gpu: Gpu | None, memory: Memory) -> DeviceHealth:
    if gpu is not None and gpu.total_mb is not None and gpu.used_mb is not None:
        free, used = gpu.total_mb - gpu.used_mb, gpu.used_mb
        free = min(free, device.memory_mb)
    elif device.physical_mb == 0:
        free = used = 0
    else:
        free = min(device.memory_mb, memory.available_mb)
        used = device.memory_mb - free
    return DeviceHealth(
        index=device.index,
        vram_used_mb=max(0, used),
        vram_free_mb=max(0, free),
        utilization_pct=gpu.utilization_pct if gpu else None,
        temp_c=gpu.temp_c if gpu else None,
        worker=device.worker_name,
    )


def foreign_mb(
    devices: Sequence[HostDevice], seen: Survey, reserved: Mapping[int, int], held: Mapping[int, int | None]
) -> dict[int, int]:
    """What other processes have of each device, in MiB by index.

    Ours is what our worker holds of it, but not more than its models were promised: what a load was promised and has
    not taken yet hides nobody, and what stayed behind after an unload is as good as foreign. Where nobody can tell what
    the worker holds, the promise counts. CPU devices share the host's memory, and so what is missing of it.
    """

    def ours_mb(device: HostDevice) -> int:
        promised, has = reserved.get(device.index, 0), held.get(device.index)
        return promised if has is None else min(promised, has)

    used = {health.index: health.vram_used_mb for health in read_health(devices, seen)}
    foreign = {device.index: max(0, used[device.index] - ours_mb(device)) for device in devices}
    cpus = [device for device in devices if device.kind == "cpu"]
    whole = sum(device.memory_mb for device in cpus)
    missing = max(0, whole - seen.memory.available_mb - sum(ours_mb(device) for device in cpus))
    return foreign | {device.index: missing * device.memory_mb // max(1, whole) for device in cpus}


def held_on_gpu(device: HostDevice, seen: Survey, pid: int) -> int | None:
    """What a process holds of a GPU (MiB), None where the driver does not tell."""
    gpu = _reading(seen, device.kind, device.ordinal)
    return None if gpu is None else gpu.processes.get(pid)


def discover(
    devices: Sequence[HostDevice],
    seen: Survey,
    *,
    formats: Mapping[str, Sequence[str]],
    boot_id: str = "",
    neuron_version: str = "",
    max_prompt_tokens: int = 0,
    disk_free_mb: int | None = None,
) -> Discovery:
    """The body of `GET /discovery`. `formats` are the installed harnesses and what each reads."""
    return Discovery(
        hostname=seen.hostname,
        os=seen.os,
        kernel=seen.kernel,
        cuda_version=seen.cuda_version,
        driver_version=seen.driver_version,
        devices=[device.as_device() for device in devices],
        harnesses=list(formats),
        boot_id=boot_id,
        neuron_version=neuron_version,
        max_prompt_tokens=max_prompt_tokens,
        disk_free_mb=disk_free_mb,
        cuda_unavailable_reason=seen.cuda_unavailable_reason,
        formats={name: list(read) for name, read in formats.items()},
    )
