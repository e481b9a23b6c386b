"""NVIDIA's own reports of faults: Xid events, through NVML, as they happen. None where there is no NVML."""

from __future__ import annotations

import ctypes
import importlib
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from helexa.neuron.core import faults

log = logging.getLogger(__name__)

LOOK_MS = 1000
"""How long one wait for an event lasts: so long may the end of the watch take."""


class XidWatch:
    """A thread that waits for faults of GPUs. `hear` is called on that thread, with the device's number and what
    happened."""

    def __init__(self, hear: Callable[[int, str], None], nvml: Any | None = None) -> None:
        self._hear = hear
        self._nvml: Any = nvml or _nvml()
        self._gpus: Mapping[str, int] = {}
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, gpus: Mapping[str, int]) -> None:
        """From now on watch these: their UUIDs with their device numbers. No thread while there are none."""
        self._gpus = dict(gpus)
        if self._nvml is not None and gpus and not (self._thread and self._thread.is_alive()):
            self._thread = threading.Thread(target=self._run, name="xids", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End; returns within two looks."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(2 * LOOK_MS / 1000)

    def _run(self) -> None:
        nvml = self._nvml
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            log.info("no Xid events: %s", error)
            return
        try:
            while self._gpus and not self._over.is_set():
                self._watch(nvml, self._gpus)
        except nvml.NVMLError as error:
            log.warning("no Xid events from here on: %s", error)
        finally:
            nvml.nvmlShutdown()

    def _watch(self, nvml: Any, gpus: Mapping[str, int]) -> None:
        """Wait for events of these, until others are to be watched."""
        events = nvml.nvmlEventSetCreate()
        try:
            devices: dict[int | None, int] = {}
            for uuid, device in gpus.items():
                handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
                nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, events)
                devices[_address(handle)] = device
            while self._gpus is gpus and not self._over.is_set():
                self._wait(nvml, events, devices)
        finally:
            nvml.nvmlEventSetFree(events)

    def _wait(self, nvml: Any, events: Any, devices: Mapping[int | None, int]) -> None:
        try:
            event = nvml.nvmlEventSetWait_v2(events, LOOK_MS)
        except nvml.NVMLError_Timeout:
            return
        xid, device = int(event.eventData), devices.get(_address(event.device))
        fault = faults.of_xid(xid)
        if fault is None or device is None:
            log.warning("Xid %d on device %s, which a program caused", xid, device)
        else:
            self._hear(device, fault)


def _address(handle: Any) -> int | None:
    """What makes two handles the same GPU: a lost one cannot be asked for its name any more."""
    return ctypes.cast(handle, ctypes.c_void_p).value


def _nvml() -> Any | None:
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        return None
