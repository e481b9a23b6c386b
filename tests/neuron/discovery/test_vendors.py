"""What drivers say, recorded, and what is made of it. N/A is never 0."""

from __future__ import annotations

from pathlib import Path

import pytest

from helexa.neuron.discovery import amd, apple, cpu, nvidia
from helexa.neuron.discovery.cpu import Memory
from helexa.neuron.discovery.gpu import Gpu, whole

SMI = """\
0, NVIDIA GeForce RTX 5090, 32607, 1204, 3, 41, 12.0, GPU-6f0c9a52-1111, 580.159.03
1, NVIDIA GeForce RTX 3060, 12288, 11801, 98, 76, 8.6, GPU-0b7d2c11-2222, 580.159.03
"""
SMI_UNIFIED = "0, NVIDIA GB10, [N/A], [N/A], 0, 45, 12.1, GPU-aa, 580.95.05\n"
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.159\n"
MODULE = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Mon Jan  6 2026\nGCC version: gcc 14.2\n"
NO_DRIVER = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."


def test_nvidia_smi_rows_are_read() -> None:
    found = nvidia.parse_smi(SMI)
    assert found.driver_version == "580.159.03"
    assert found.found[1] == Gpu(
        kind="cuda", ordinal=1, name="NVIDIA GeForce RTX 3060", total_mb=12288, used_mb=11801, utilization_pct=98,
        temp_c=76, capability="8.6", uuid="GPU-0b7d2c11-2222",
    )  # fmt: skip


def test_memory_that_is_not_told_is_unknown_and_not_nothing() -> None:
    (gpu,) = nvidia.parse_smi(SMI_UNIFIED).found
    assert (gpu.total_mb, gpu.used_mb, gpu.temp_c) == (None, None, 45)


@pytest.mark.parametrize("text", ["", "No devices were found\n", "garbage, here\n", "x,y,z,a,b,c,d,e,f\n"])
def test_text_that_is_no_table_has_no_gpus(text: str) -> None:
    assert nvidia.parse_smi(text).found == ()


@pytest.mark.parametrize(
    ("message", "module", "expected"),
    [
        (MISMATCH, MODULE, "mismatch (kernel module 570.86.15, library 580.159): reboot"),
        ("Driver/library version mismatch", "", "version mismatch: reboot"),
        ("Insufficient Permissions", MODULE, "loaded but cannot be used: Insufficient Permissions"),
        (NO_DRIVER, MODULE, "loaded but cannot be used"),
    ],
)
def test_a_driver_that_cannot_be_used_says_why(message: str, module: str, expected: str) -> None:
    assert expected in (nvidia.classify(message, module) or "")


@pytest.mark.parametrize("message", ["", NO_DRIVER, "NVML Shared Library Not Found", "Driver Not Loaded"])
def test_a_host_without_the_driver_is_no_fault(message: str) -> None:
    assert nvidia.classify(message, "") is None


@pytest.mark.parametrize(("number", "expected"), [(13000, "13.0"), (12080, "12.8"), (None, None)])
def test_the_cuda_version_is_unpacked(number: int | None, expected: str | None) -> None:
    assert nvidia.cuda_version(number) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("24564", 24564), ("24564 MiB", 24564), ("36.6", 36), ("[N/A]", None), ("", None), ("inf", None)],
)  # fmt: skip
def test_a_drivers_number_is_read_or_unknown(text: str, expected: int | None) -> None:
    assert whole(text) == expected


class FakeNvml:
    """NVML as a module object: one part with its own memory, one that supports hardly anything."""

    class NVMLError(Exception):
        pass

    def __init__(self, fault: str = "") -> None:
        self.fault, self.open = fault, 0

    def nvmlInit(self) -> None:  # noqa: N802
        if self.fault:
            raise self.NVMLError(self.fault)
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: int) -> bytes:  # noqa: N802
        return b"NVIDIA H200"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> object:  # noqa: N802
        if handle:
            raise self.NVMLError("Not Supported")
        return type("Memory", (), {"total": 150_754_820_096, "used": 1 << 30})

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[object]:  # noqa: N802
        if handle:
            raise self.NVMLError("Not Supported")
        rows = {77: 3 << 30, 78: None}
        return [type("Process", (), {"pid": pid, "usedGpuMemory": used}) for pid, used in rows.items()]

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.1"

    def nvmlSystemGetCudaDriverVersion(self) -> int:  # noqa: N802
        return 13000

    def __getattr__(self, name: str) -> object:
        def unsupported(*_: object) -> object:
            raise self.NVMLError("Not Supported")

        return unsupported


def test_nvml_is_asked_and_closed_and_what_it_does_not_support_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml()
    monkeypatch.setattr(nvidia, "_nvml", lambda: fake)
    found = nvidia.probe()
    assert (found.driver_version, found.cuda_version, fake.open) == ("580.1", "13.0", 0)
    assert [(gpu.name, gpu.total_mb, gpu.used_mb, gpu.temp_c) for gpu in found.found] == [
        ("NVIDIA H200", 143771, 1024, None),
        ("NVIDIA H200", None, None, None),
    ]


def test_a_gpu_that_fell_off_the_bus_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    class OneLost(FakeNvml):
        def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
            if index == 0:
                raise self.NVMLError("GPU is lost")
            return index

    monkeypatch.setattr(nvidia, "_nvml", OneLost)
    found = nvidia.probe()
    assert ([gpu.ordinal for gpu in found.found], found.unavailable_reason) == ([1], None)


@pytest.mark.parametrize(
    ("only", "uuids"),
    [
        (None, ["GPU-aa", "GPU-bb", "GPU-cc"]),
        ("", []),
        ("-1", []),
        ("2,0", ["GPU-cc", "GPU-aa"]),
        ("GPU-b", ["GPU-bb"]),
        ("1,7,0", ["GPU-bb"]),
        ("MIG-1234", ["GPU-aa", "GPU-bb", "GPU-cc"]),
    ],
)
def test_gpus_are_those_that_cuda_shows_and_counted_as_it_counts(only: str | None, uuids: list[str]) -> None:
    gpus = [nvidia.Gpu(kind="cuda", ordinal=at, name="", uuid=f"GPU-{2 * name}") for at, name in enumerate("abc")]
    shown = nvidia.visible(gpus, only)
    assert [gpu.uuid for gpu in shown] == uuids
    assert [gpu.ordinal for gpu in shown] == list(range(len(uuids)))


def test_processes_are_known_by_what_they_use_where_the_driver_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "_nvml", FakeNvml)
    assert [dict(gpu.processes) for gpu in nvidia.probe().found] == [{77: 3072}, {}]


def test_an_nvml_that_does_not_match_its_driver_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "_nvml", lambda: FakeNvml("Driver/library version mismatch"))
    assert "reboot" in (nvidia.probe().unavailable_reason or "")


def test_the_real_library_on_a_host_without_the_driver_is_no_fault() -> None:
    pytest.importorskip("pynvml")
    if not Path("/proc/driver/nvidia").exists():
        assert nvidia.probe().unavailable_reason is None


def test_the_real_librarys_mismatch_is_told_with_the_version_that_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = pytest.importorskip("pynvml")

    def mismatch() -> None:
        raise nvml.NVMLError(nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)

    monkeypatch.setattr(nvml, "nvmlInit", mismatch)
    monkeypatch.setattr(nvidia, "_module_text", lambda: "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.1  Tue\n")
    reason = nvidia.probe().unavailable_reason or ""
    assert "mismatch (kernel module 570.1): reboot" in reason


def test_a_part_of_which_the_real_library_knows_only_the_name_has_unknown_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nvml = pytest.importorskip("pynvml")

    def unsupported(_handle: object) -> None:
        raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)

    answers = {"nvmlInit": None, "nvmlShutdown": None, "nvmlDeviceGetCount": 1, "nvmlDeviceGetName": "NVIDIA GB10"}
    for name, answer in (answers | {"nvmlDeviceGetHandleByIndex": object()}).items():
        monkeypatch.setattr(nvml, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(nvml, "nvmlDeviceGetMemoryInfo", unsupported)
    (gpu,) = nvidia.probe().found  # whatever else is asked raises, as it does before the library is there
    assert (gpu.name, gpu.total_mb, gpu.used_mb, gpu.utilization_pct) == ("NVIDIA GB10", None, None, None)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_amd_cards_are_read_from_sysfs_and_others_left_out(tmp_path: Path) -> None:
    drm = write(
        tmp_path,
        {
            "card0/device/vendor": "0x8086\n",
            "card1/device/vendor": "0x1002\n",
            "card1/device/mem_info_vram_total": "25753026560\n",
            "card1/device/mem_info_vram_used": "1073741824\n",
            "card1/device/gpu_busy_percent": "7\n",
            "card1/device/product_name": "Radeon RX 7900 XTX\n",
            "card1/device/hwmon/hwmon3/temp1_input": "52000\n",
            "card1-DP-1/status": "connected\n",
            "card2/device/vendor": "0x1002\n",
            "card2/device/mem_info_vram_total": "0\n",
        },
    )
    (gpu,) = amd.probe(drm).found
    assert (gpu.kind, gpu.ordinal, gpu.name) == ("rocm", 0, "Radeon RX 7900 XTX")
    assert (gpu.total_mb, gpu.used_mb, gpu.utilization_pct, gpu.temp_c) == (24560, 1024, 7, 52)


def test_a_host_without_sysfs_has_no_amd_cards(tmp_path: Path) -> None:
    assert amd.probe(tmp_path / "absent").found == ()


def test_apple_silicon_offers_three_quarters_of_its_memory() -> None:
    found = apple.parse_sysctl(
        "hw.memsize: 38654705664\nmachdep.cpu.brand_string: Apple M4 Max\nkern.osproductversion: 26.1\n"
    )
    assert found.found[0] == Gpu(kind="metal", ordinal=0, name="Apple M4 Max", total_mb=27648)
    assert apple.parse_sysctl("").found == ()


MEMINFO = "MemTotal:       16384000 kB\nMemFree:         1024000 kB\nMemAvailable:    8192000 kB\nCached: 100 kB\n"


def test_host_memory_is_what_is_available_and_not_what_is_free(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/meminfo": MEMINFO})
    assert cpu.memory(root) == Memory(total_mb=16000, available_mb=8000)


def test_an_old_kernel_counts_its_caches() -> None:
    old = "MemTotal: 4096000 kB\nMemFree: 1024000 kB\nBuffers: 102400 kB\nCached: 512000 kB\n"
    assert cpu.parse_meminfo(old) == Memory(total_mb=4000, available_mb=1600)


MIB = 1024 * 1024


@pytest.mark.parametrize(
    "files",
    [
        {
            "proc/self/cgroup": "0::/pod/me\n",
            "sys/fs/cgroup/pod/me/memory.max": "max\n",
            "sys/fs/cgroup/pod/memory.max": str(2048 * MIB),
            "sys/fs/cgroup/pod/memory.current": str(1536 * MIB),
            "sys/fs/cgroup/pod/memory.stat": f"anon 5\ninactive_file {512 * MIB}\n",
        },
        {
            "proc/self/cgroup": "4:memory:/docker/abc\n2:cpu,cpuacct:/x\n",
            "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": str(2048 * MIB),
            "sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes": str(1536 * MIB),
            "sys/fs/cgroup/memory/docker/abc/memory.stat": f"total_inactive_file {512 * MIB}\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
        {
            "proc/self/cgroup": "0::/../../elsewhere\n",
            "sys/fs/cgroup/memory.max": str(2048 * MIB),
            "sys/fs/cgroup/memory.current": str(1024 * MIB),
        },
    ],
)
def test_a_cgroups_limit_is_the_hosts_memory(tmp_path: Path, files: dict[str, str]) -> None:
    root = write(tmp_path, {"proc/meminfo": MEMINFO, **files})
    assert cpu.memory(root) == Memory(total_mb=2048, available_mb=1024)


@pytest.mark.parametrize(
    "quota",
    [
        {"proc/self/cgroup": "0::/me\n", "sys/fs/cgroup/me/cpu.max": "50000 100000\n"},
        {
            "proc/self/cgroup": "3:cpu,cpuacct:/me\n0::/\n",
            "sys/fs/cgroup/cpu,cpuacct/me/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
    ],
    ids=["v2", "v1"],
)
def test_a_cpu_quota_limits_the_processors(tmp_path: Path, quota: dict[str, str]) -> None:
    assert cpu.processors(write(tmp_path, quota)) == 1
    assert cpu.processors(tmp_path / "absent") >= 1


@pytest.mark.parametrize(("total", "usable"), [(24000, 21600), (1000, 500), (2000, 1488), (200_000, 195_904), (0, 0)])
def test_the_system_keeps_a_part_of_the_memory(total: int, usable: int) -> None:
    assert Memory(total_mb=total, available_mb=total).usable_mb == usable


def test_the_processor_has_a_name(tmp_path: Path) -> None:
    assert cpu.cpu_name(write(tmp_path, {"proc/cpuinfo": "model name\t: AMD EPYC 9755\n"})) == "AMD EPYC 9755"
    assert cpu.cpu_name(tmp_path / "absent")
