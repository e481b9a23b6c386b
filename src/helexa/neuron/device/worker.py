"""The worker process: one device, one thread that owns it for the process's life, jobs in, plain values out.

`python -m helexa.neuron.device.worker FD NAME` is started by the pool with its job channel as file descriptor FD. The
main thread is the device thread: everything that touches the device happens on it, in the order of the jobs. Two small
threads beside it read the channel and tell that the process lives. When the channel closes the daemon is gone, and the
process ends at once, whatever the device thread is doing: no orphan keeps a GPU.

What it imports is what a cold load waits for, so it stays at the standard library, msgspec and the engine.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import cast

from helexa.base.resident import give_back, part_large_from_small, share_one_heap
from helexa.neuron.device import jobs
from helexa.neuron.harness import BadOption, DeviceFault, Engine, Resident

HEARTBEAT_S = 2.0
MARK = "\x1e"
"""Begins the line that a worker writes to stderr before it reports a failure, so that the daemon knows when it has read
everything that the engine wrote about it."""


class Channel:
    """The worker's end of the job channel; any thread may send."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._stream = sock.makefile("rb")

    def send(self, message: jobs.Up) -> None:
        """Write one frame. Ends the process when the daemon is gone."""
        try:
            with self._lock:
                self._sock.sendall(jobs.frame(message))
        except OSError:
            os._exit(0)

    def receive(self) -> jobs.Down | None:
        """The next job, or None when the daemon has closed its end."""
        header = self._stream.read(jobs.HEADER_BYTES)
        if len(header) < jobs.HEADER_BYTES:
            return None
        return jobs.down.decode(self._stream.read(jobs.length(header)))


class Worker:
    """Executes jobs one after another and owns what they left loaded."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._inbox: queue.SimpleQueue[jobs.Down] = queue.SimpleQueue()
        self._engines: dict[str, Engine] = {}
        self._residents: dict[str, Resident] = {}

    def run(self) -> None:
        """Serve jobs until the daemon goes."""
        threading.Thread(target=self._listen, name="channel", daemon=True).start()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        self._channel.send(jobs.Hello(pid=os.getpid()))
        while True:
            job = self._inbox.get()
            self._channel.send(self.execute(job))

    def execute(self, job: jobs.Down) -> jobs.Reply:
        """Do one job; every failure becomes its reply."""
        try:
            return self._do(job)
        except Exception as error:  # noqa: BLE001 - the device thread outlives whatever one job throws
            return _broke(job.id, error)

    def _do(self, job: jobs.Down) -> jobs.Reply:
        match job:
            case jobs.Prepare():
                self._engine(job.engine)
                return jobs.Done(id=job.id)
            case jobs.Load():
                return self._load(job)
            case jobs.Unload():
                self._residents.pop(job.model_id).unload()
                give_back()
                return jobs.Done(id=job.id)
            case jobs.Memory():
                return self._memory(job)

    def _load(self, job: jobs.Load) -> jobs.Done:
        def report(stage: str, progress: float | None) -> None:
            self._channel.send(jobs.Progress(id=job.id, stage=stage, progress=progress))

        resident = self._engine(job.engine).load(job.order, report)
        self._residents[job.order.model_id] = resident
        return jobs.Done(id=job.id, facts=resident.facts)

    def _memory(self, job: jobs.Memory) -> jobs.Done:
        readings = [reading for engine in self._engines.values() if (reading := engine.memory()) is not None]
        used, free = readings[0] if readings else (None, None)
        return jobs.Done(id=job.id, used_mb=used, free_mb=free)

    def _engine(self, target: str) -> Engine:
        if target not in self._engines:
            module, _, name = target.partition(":")
            make = cast(Callable[[], Engine], getattr(importlib.import_module(module), name))
            self._engines[target] = make()
        return self._engines[target]

    def _listen(self) -> None:
        while (job := self._channel.receive()) is not None:
            self._inbox.put(job)
        os._exit(0)

    def _beat(self) -> None:
        while True:
            time.sleep(HEARTBEAT_S)
            self._channel.send(jobs.Heartbeat())


def _broke(job_id: int, error: Exception) -> jobs.Broke:
    fields = {"option": error.name, "known": list(error.known)} if isinstance(error, BadOption) else None
    print(f"{MARK}{job_id}", file=sys.stderr, flush=True)  # noqa: T201
    return jobs.Broke(id=job_id, causes=_causes(error), fault=isinstance(error, DeviceFault), fields=fields)


def _causes(error: BaseException) -> list[str]:
    """The whole chain: an inner cause that was dropped has hidden a healthy device behind a fault before."""
    causes: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(causes) < 8:
        text = str(seen)
        causes.append(text if isinstance(seen, BadOption | DeviceFault) and text else f"{type(seen).__name__}: {text}")
        seen = seen.__cause__ or seen.__context__
    return causes


def _die_with_parent() -> None:
    """Linux: have the kernel kill this process when the daemon dies, also while an engine holds the interpreter."""
    set_parent_death_signal = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def main() -> None:
    """Entry point; the one argument is the channel's file descriptor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is the daemon's to handle: it drains first
    if sys.platform == "linux":
        _die_with_parent()
        part_large_from_small()
        share_one_heap()
    Worker(Channel(socket.socket(fileno=int(sys.argv[1])))).run()


if __name__ == "__main__":
    main()
