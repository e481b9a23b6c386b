"""Xid events become faults of the right device, whatever the driver does."""

from __future__ import annotations

import ctypes
import queue
import threading
from dataclasses import dataclass
from typing import Any

from helexa.neuron.discovery.xids import XidWatch

PATIENCE_S = 30.0


@dataclass
class Event:
    device: Any
    eventData: int  # noqa: N815 - NVML's own name


class FakeNvml:
    """NVML as far as events go; `told` are the Xids to come, by GPU."""

    nvmlEventTypeXidCriticalError = 8  # noqa: N815

    class NVMLError(Exception):
        pass

    class NVMLError_Timeout(NVMLError):  # noqa: N801
        pass

    def __init__(self, told: list[tuple[int, int]], *, can_register: bool = True) -> None:
        self.told, self.can_register = told, can_register
        self.open, self.registered = 0, set[int]()
        self.news: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.closed = threading.Event()

    def nvmlInit(self) -> None:  # noqa: N802
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1
        self.closed.set()

    def nvmlEventSetCreate(self) -> object:  # noqa: N802
        return object()

    def nvmlEventSetFree(self, events: object) -> None:  # noqa: N802
        del events

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:  # noqa: N802
        return ctypes.c_void_p(int(uuid.removeprefix("GPU-")))

    def nvmlDeviceRegisterEvents(self, handle: Any, kinds: int, events: object) -> None:  # noqa: N802
        del kinds, events
        if not self.can_register:
            raise self.NVMLError("Not Supported")
        self.registered.add(handle.value)
        self.news.put(handle.value)

    def nvmlEventSetWait_v2(self, events: object, timeout_ms: int) -> Event:  # noqa: N802
        del events, timeout_ms
        if not self.told:
            raise self.NVMLError_Timeout
        gpu, xid = self.told.pop(0)
        return Event(ctypes.c_void_p(gpu), xid)


def test_a_fault_is_told_of_its_own_device_and_a_programs_error_is_not() -> None:
    heard: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
    nvml = FakeNvml([(7, 31), (9, 79), (5, 48), (7, 48)])
    watch = XidWatch(lambda device, fault: heard.put((device, fault)), nvml)
    watch.watch({"GPU-7": 0, "GPU-9": 1})
    told = [heard.get(timeout=PATIENCE_S) for _ in range(2)]
    watch.close()
    assert told == [(1, "Xid 79: the GPU has fallen off the bus"), (0, "Xid 48: double-bit ECC error")]
    assert nvml.closed.wait(PATIENCE_S)
    assert (heard.empty(), nvml.open, nvml.registered) == (True, 0, {7, 9})


def test_a_driver_without_events_ends_the_watch_and_closes_the_library() -> None:
    nvml = FakeNvml([(7, 79)], can_register=False)
    watch = XidWatch(lambda device, fault: None, nvml)
    watch.watch({"GPU-7": 0})
    assert nvml.closed.wait(PATIENCE_S)
    watch.close()
    assert nvml.open == 0


def test_a_host_without_gpus_starts_no_thread() -> None:
    watch = XidWatch(lambda device, fault: None, FakeNvml([]))
    watch.watch({})
    watch.close()
    assert "xids" not in [thread.name for thread in threading.enumerate()]


def test_a_gpu_that_comes_later_is_watched_from_then_on() -> None:
    heard: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
    nvml = FakeNvml([(7, 48)])
    watch = XidWatch(lambda device, fault: heard.put((device, fault)), nvml)
    watch.watch({"GPU-7": 0})
    assert heard.get(timeout=PATIENCE_S)[0] == 0
    watch.watch({"GPU-7": 0, "GPU-9": 1})
    assert [nvml.news.get(timeout=PATIENCE_S) for _ in range(3)] == [7, 7, 9]
    nvml.told.append((9, 79))
    assert heard.get(timeout=PATIENCE_S)[0] == 1
    watch.close()
    assert nvml.closed.wait(PATIENCE_S)
    assert (nvml.open, nvml.registered) == (0, {7, 9})
