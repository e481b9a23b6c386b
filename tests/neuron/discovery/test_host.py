"""Which devices a host offers, in what order, with how much memory; and how they are."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from helexa.neuron.config import DeviceEntry, NeuronConfig
from helexa.neuron.discovery.cpu import Memory
from helexa.neuron.discovery.gpu import Gpu
from helexa.neuron.discovery.host import (
    HostDevice,
    Survey,
    chosen,
    discover,
    foreign_mb,
    held_on_gpu,
    host_devices,
    read_health,
    survey,
)

BIG = Gpu(kind="cuda", ordinal=0, name="RTX 5090", total_mb=32000, used_mb=2000, capability="12.0", temp_c=40)
SMALL = Gpu(kind="cuda", ordinal=1, name="RTX 3060", total_mb=12000, used_mb=12000, utilization_pct=99)
UNIFIED = Gpu(kind="cuda", ordinal=0, name="GB10")


def host(*gpus: Gpu, available: int = 8000) -> Survey:
    return Survey(
        hostname="benjy",
        os="Debian",
        kernel="6.12",
        memory=Memory(total_mb=10_000, available_mb=available),
        processors=8,
        cpu_name="EPYC",
        gpus=gpus,
        driver_version="580.1",
    )


def used(config: NeuronConfig, seen: Survey) -> tuple[HostDevice, ...]:
    return host_devices(chosen(config, seen), seen)


def entry(kind: str, index: int = 0, **more: object) -> DeviceEntry:
    return msgspec.convert({"kind": kind, "index": index, **more}, DeviceEntry)


def test_a_host_without_gpus_is_one_cpu_device_less_a_reserve() -> None:
    (device,) = used(NeuronConfig(), host())
    assert (device.index, device.kind, device.name, device.memory_mb, device.threads) == (0, "cpu", "EPYC", 9000, 8)
    assert device.worker_name == "cpu-dev-0"


def test_a_host_with_gpus_offers_all_of_them_and_no_cpu() -> None:
    found = used(NeuronConfig(), host(BIG, SMALL))
    assert [(d.index, d.kind, d.ordinal, d.memory_mb) for d in found] == [(0, "cuda", 0, 32000), (1, "cuda", 1, 12000)]


def test_configured_devices_are_exactly_these_in_their_order() -> None:
    config = NeuronConfig(devices=[entry("cpu", memory_mb=600), entry("cuda", 1, name="old one", memory_mb=8000)])
    cpu, gpu = used(config, host(BIG, SMALL))
    assert (cpu.index, cpu.worker_name, cpu.memory_mb) == (0, "cpu-dev-0", 600)
    assert (gpu.index, gpu.worker_name, gpu.name, gpu.memory_mb) == (1, "cuda-dev-1", "old one", 8000)
    assert (gpu.as_ref().index, gpu.as_device().index) == (1, 1)


def test_an_engine_hears_the_drivers_number_and_the_wire_the_hosts() -> None:
    (gpu,) = used(NeuronConfig(devices=[entry("cuda", 1)]), host(BIG, SMALL))
    assert (gpu.as_device().index, gpu.as_ref().index) == (0, 1)


def test_a_limit_above_the_devices_memory_is_no_more_memory() -> None:
    (gpu,) = used(NeuronConfig(devices=[entry("cuda", memory_mb=99_999)]), host(BIG))
    assert gpu.memory_mb == 32000


def test_no_cpu_device_has_more_memory_than_the_host() -> None:
    (cpu,) = used(NeuronConfig(devices=[entry("cpu", memory_mb=99_999)]), host())
    assert cpu.memory_mb == 10_000


def test_a_configured_device_that_is_not_there_shows_and_holds_nothing() -> None:
    (gpu,) = used(NeuronConfig(devices=[entry("cuda", 3)]), host(BIG))
    assert (gpu.name, gpu.memory_mb) == ("cuda 3 (not found)", 0)
    assert read_health([gpu], host(BIG))[0].vram_free_mb == 0


def test_several_cpu_entries_share_what_the_capped_ones_leave() -> None:
    config = NeuronConfig(devices=[entry("cpu", 0, memory_mb=1000), entry("cpu", 1), entry("cpu", 2, threads=1)])
    found = used(config, host())
    assert [(d.memory_mb, d.threads) for d in found] == [(1000, 2), (4000, 2), (4000, 1)]
    assert [d.worker_name for d in found] == ["cpu-dev-0", "cpu-dev-1", "cpu-dev-2"]


def test_a_number_of_cpu_devices_splits_the_host() -> None:
    assert [d.memory_mb for d in used(NeuronConfig(cpu_devices=3), host())] == [3000] * 3
    assert [d.kind for d in used(NeuronConfig(cpu_devices=1), host(BIG))] == ["cuda", "cpu"]


def test_memory_for_weights_of_unloaded_models_is_not_offered_to_loaded_ones() -> None:
    entries = chosen(NeuronConfig(cpu_devices=3), host())
    assert [d.memory_mb for d in host_devices(entries, host(), kept_mb=3000)] == [2000] * 3


def test_a_gpu_that_shares_the_hosts_memory_has_the_hosts_memory() -> None:
    (gpu,) = used(NeuronConfig(), host(UNIFIED))
    (health,) = read_health([gpu], host(UNIFIED))
    assert (gpu.memory_mb, health.vram_free_mb, health.vram_used_mb) == (9000, 8000, 1000)


def test_health_is_what_the_driver_says() -> None:
    big, small = read_health(used(NeuronConfig(), host(BIG, SMALL)), host(BIG, SMALL))
    assert (big.vram_used_mb, big.vram_free_mb, big.temp_c, big.utilization_pct) == (2000, 30000, 40, None)
    assert (small.vram_free_mb, small.utilization_pct, small.worker) == (0, 99, "cuda-dev-1")


def test_a_capped_device_never_shows_more_free_than_its_cap() -> None:
    config = NeuronConfig(devices=[entry("cuda", memory_mb=5000), entry("cpu", memory_mb=600)])
    assert [h.vram_free_mb for h in read_health(used(config, host(BIG)), host(BIG))] == [5000, 600]


def test_a_cpu_device_has_no_more_than_the_host_has_available() -> None:
    (health,) = read_health(used(NeuronConfig(), host(available=100)), host(available=100))
    assert (health.vram_free_mb, health.vram_used_mb) == (100, 8900)


def test_discovery_carries_it_all() -> None:
    seen = host(BIG)
    found = discover(used(NeuronConfig(), seen), seen, formats={"llama": ["gguf"]}, boot_id="b", disk_free_mb=7)
    assert msgspec.to_builtins(found)["devices"] == [
        {"index": 0, "name": "RTX 5090", "vram_total_mb": 32000, "compute_capability": "12.0", "kind": "cuda"}
    ]
    assert (found.harnesses, found.formats, found.driver_version) == (["llama"], {"llama": ["gguf"]}, "580.1")


def test_this_very_host_can_be_surveyed() -> None:
    seen = survey()
    devices = used(NeuronConfig(), seen)
    assert seen.memory.total_mb > 0
    assert devices
    assert len(read_health(devices, seen)) == len(devices)


MISMATCH = replace(host(), cuda_unavailable_reason="driver/library version mismatch")


def test_a_broken_driver_does_not_turn_a_gpu_host_into_a_cpu_host() -> None:
    assert used(NeuronConfig(), MISMATCH) == ()
    assert [d.kind for d in used(NeuronConfig(cpu_devices=1), MISMATCH)] == ["cpu"]


def test_a_device_that_went_away_keeps_its_number_and_has_no_memory() -> None:
    entries = chosen(NeuronConfig(), host(BIG, SMALL))
    assert [d.memory_mb for d in host_devices(entries, host(SMALL))] == [0, 12000]


def test_a_load_that_has_not_taken_its_memory_yet_hides_no_foreign_process() -> None:
    devices = used(NeuronConfig(), host(BIG))
    assert foreign_mb(devices, host(BIG), {0: 20_000}, {0: 500}) == {0: 1500}


def test_what_a_worker_keeps_beyond_its_models_promises_is_foreign() -> None:
    devices = used(NeuronConfig(), host(BIG))
    assert foreign_mb(devices, host(BIG), {0: 0}, {0: 1800}) == {0: 2000}


def test_where_nobody_tells_what_a_worker_holds_the_promise_counts() -> None:
    devices = used(NeuronConfig(), host(BIG))
    assert foreign_mb(devices, host(BIG), {0: 1200}, {0: None}) == {0: 800}


def test_what_is_missing_of_the_hosts_memory_is_shared_by_its_cpu_devices() -> None:
    seen = host(available=4000)
    devices = used(NeuronConfig(cpu_devices=2), seen)
    assert sum(d.memory_mb for d in devices) == 9000
    assert foreign_mb(devices, seen, {0: 3000, 1: 0}, {0: 1000, 1: 10}) == {0: 2000, 1: 2000}
    roomy = host(available=9500)
    assert foreign_mb(devices, roomy, {0: 0, 1: 0}, {}) == {0: 0, 1: 0}


def test_a_process_on_a_gpu_is_known_by_its_id() -> None:
    seen = host(replace(BIG, processes={77: 1500}))
    (device,) = used(NeuronConfig(), seen)
    assert (held_on_gpu(device, seen, 77), held_on_gpu(device, seen, 78)) == (1500, None)


def test_a_gpu_that_comes_later_gets_the_next_number_and_the_others_keep_theirs() -> None:
    before = chosen(NeuronConfig(), host())
    entries = chosen(NeuronConfig(), host(BIG, SMALL), before)
    assert [(d.index, d.worker_name) for d in host_devices(entries, host(BIG, SMALL))] == [
        (0, "cpu-dev-0"),
        (1, "cuda-dev-0"),
        (2, "cuda-dev-1"),
    ]
    assert chosen(NeuronConfig(), host(), entries) == entries
    assert chosen(NeuronConfig(), host(SMALL), entries) == entries


def test_a_driver_that_comes_back_brings_its_gpus() -> None:
    assert [each.kind for each in chosen(NeuronConfig(), host(BIG), chosen(NeuronConfig(), MISMATCH))] == ["cuda"]


def test_configured_devices_stay_exactly_these() -> None:
    config = NeuronConfig(devices=[entry("cuda", 1)])
    assert chosen(config, host(BIG, SMALL), chosen(config, host())) == tuple(config.devices)


def test_a_device_is_missing_only_when_its_driver_works() -> None:
    entries = chosen(NeuronConfig(), host(BIG))
    assert [device.missing for device in host_devices(entries, host())] == [True]
    assert [device.missing for device in host_devices(entries, MISMATCH)] == [False]
    assert [device.missing for device in host_devices(entries, host(BIG))] == [False]
