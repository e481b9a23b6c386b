"""One worker process as the daemon holds it: spawn, ask, listen, end. Policy (when to restart) is the pool's."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from helexa.base.errors import HelexaError
from helexa.neuron.device import jobs
from helexa.neuron.device.worker import MARK
from helexa.neuron.harness import Report

log = logging.getLogger(__name__)

KEPT_LINES = 40
LINE_LIMIT = 2000
MARK_WAIT_S = 1.0
EXIT_WAIT_S = 5.0


class WorkerLost(HelexaError):
    """The device worker {worker} ended while it was needed ({how})."""

    code = "worker_lost"
    status = 500

    def __init__(self, *, worker: str, how: str, lines: tuple[str, ...] = ()) -> None:
        super().__init__(worker=worker, how=how)
        self.lines = lines
        """The last lines that the worker wrote."""
        if lines:
            self.message = f"{self.message.removesuffix('.')}: {'; '.join(lines)}"
            self.args = (self.message,)


class JobFailed(HelexaError):
    """{cause}"""

    code = "load_failed"
    status = 400

    def __init__(self, broke: jobs.Broke, lines: tuple[str, ...] = ()) -> None:
        self.fault = broke.fault
        self.causes = (*broke.causes, *lines)
        super().__init__(": ".join(self.causes), cause=broke.causes[0], **(broke.fields or {}))


@dataclass(frozen=True, slots=True)
class _Asked:
    """A job that waits for its reply, and who hears of its progress."""

    job: jobs.Job
    reply: asyncio.Future[jobs.Reply]
    report: Report | None


class WorkerProcess:
    """A running worker. `ended` is set once it is gone, with `how` it went and the last lines it wrote."""

    def __init__(self, name: str, process: Process, channel: socket.socket) -> None:
        self.name = name
        self.pid = process.pid
        self.ended = asyncio.Event()
        self.how = ""
        self.last_heard_s = 0.0
        self._process = process
        self._channel = channel
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._marks: dict[int, asyncio.Event] = {}
        self._asked: dict[int, _Asked] = {}
        self._next_id = 1
        self._hello: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []
        self._writer: asyncio.StreamWriter | None = None

    @classmethod
    async def start(cls, name: str) -> Self:
        """Spawn a worker and return once it can take jobs. Raises WorkerLost when it dies before that."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await _spawn(name, theirs.fileno())
        except BaseException:
            ours.close()
            raise
        worker = cls(name, process, ours)
        try:
            await worker._open()
        except BaseException:  # it died, or we were cancelled: no process is left behind either way
            await worker.stop(grace_s=0)
            raise
        return worker

    async def _open(self) -> None:
        spawn = asyncio.get_running_loop().create_task
        output = spawn(self._read_output(), name=f"{self.name} output")
        self._tasks = [output, spawn(self._watch(output), name=f"{self.name} watch")]
        self._channel.setblocking(False)
        reader, self._writer = await asyncio.open_unix_connection(sock=self._channel)
        self._tasks.append(spawn(self._listen(reader), name=f"{self.name} channel"))
        await self._hello

    @property
    def lines(self) -> tuple[str, ...]:
        """The last lines that the worker wrote."""
        return tuple(self._lines)

    @property
    def job(self) -> jobs.Job | None:
        """What it is doing now; None while it waits for a job."""
        return next((asked.job for asked in self._asked.values()), None)

    async def ask(self, make: Callable[[int], jobs.Job], report: Report | None = None) -> jobs.Done:
        """Send the job that `make(id)` builds and await its one reply. `report` hears of its progress.

        Raises JobFailed with the whole chain of causes and what the engine wrote, or WorkerLost.
        """
        if self.ended.is_set() or self._writer is None:
            raise self._lost()
        job_id, self._next_id = self._next_id, self._next_id + 1
        asked = _Asked(make(job_id), asyncio.get_running_loop().create_future(), report)
        self._asked[job_id] = asked
        before = len(self._lines) and self._lines[-1]
        try:
            self._writer.write(jobs.frame(asked.job))
            reply = await asked.reply
        finally:
            del self._asked[job_id]
        if isinstance(reply, jobs.Broke):
            raise await self._failed(reply, str(before))
        return reply

    async def _failed(self, broke: jobs.Broke, last_line_before: str) -> JobFailed:
        """The error with the lines that the engine wrote during the job."""
        mark = self._marks.setdefault(broke.id, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(mark.wait(), MARK_WAIT_S)
        self._marks.pop(broke.id, None)
        lines = self.lines
        if last_line_before in lines:
            lines = lines[len(lines) - lines[::-1].index(last_line_before) :]
        return JobFailed(broke, lines[-8:])

    async def stop(self, grace_s: float = EXIT_WAIT_S) -> None:
        """Close the channel, which ends the worker; kill it when it has not gone after `grace_s`."""
        if self._writer is not None:
            self._writer.close()
        else:
            self._channel.close()
        try:
            await asyncio.wait_for(self.ended.wait(), grace_s)
        except TimeoutError:
            self.kill()
            await self.ended.wait()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._writer is not None:
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()

    def kill(self) -> None:
        """End it now."""
        if self.ended.is_set():
            return  # its number may be another process's by now
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ValueError):
            while True:
                size = jobs.length(await reader.readexactly(jobs.HEADER_BYTES))
                self._take(jobs.upward.decode(await reader.readexactly(size)))
        self.kill()  # a worker that no longer speaks is not kept; the watch task tells the rest

    def _take(self, message: jobs.Upward) -> None:
        self.last_heard_s = asyncio.get_running_loop().time()
        match message:
            case jobs.Hello():
                if not self._hello.done():
                    self._hello.set_result(None)
            case jobs.Heartbeat():
                pass  # that it came is all it says
            case jobs.Progress():
                if (asked := self._asked.get(message.id)) is not None and asked.report is not None:
                    asked.report(message.stage, message.progress)
            case jobs.Done() | jobs.Broke():
                if (asked := self._asked.get(message.id)) is not None and not asked.reply.done():
                    asked.reply.set_result(message)

    async def _read_output(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        while chunk := await self._process.stdout.read(65536):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                self._hear(line.decode(errors="replace").rstrip())
            rest = rest[-LINE_LIMIT:]
        self._hear(rest.decode(errors="replace").rstrip())

    def _hear(self, line: str) -> None:
        if line.startswith(MARK) and line[1:].isdigit():
            self._marks.setdefault(int(line[1:]), asyncio.Event()).set()
        elif line:
            log.debug("%s: %s", self.name, line)
            self._lines.append(line[:LINE_LIMIT])

    async def _watch(self, output: asyncio.Task[None]) -> None:
        code = await self._process.wait()
        await asyncio.wait((output,), timeout=MARK_WAIT_S)  # its last words, which tell why
        self.how = how(code)
        self.ended.set()
        if self._writer is not None:
            self._writer.close()
        if not self._hello.done():
            self._hello.set_exception(self._lost())
        for asked in self._asked.values():
            if not asked.reply.done():
                asked.reply.set_exception(self._lost())

    def _lost(self) -> WorkerLost:
        return WorkerLost(worker=self.name, how=self.how or "not running", lines=self.lines[-8:])


async def _spawn(name: str, channel: int) -> Process:
    """A clean process, not a fork of this one: a fork would carry our sockets and threads' locks along."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-m", "helexa.neuron.device.worker", str(channel), name),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        pass_fds=(channel,),
        start_new_session=True,
        env=os.environ | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"},  # as the driver counts; CUDA's own order is by speed
    )


def how(code: int) -> str:
    """An exit code in words: `exit code 3`, `killed by SIGKILL`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
