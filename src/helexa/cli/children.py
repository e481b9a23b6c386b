"""Child processes that are kept alive: started, restarted when they die, and never left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from helexa.base import lifeline

BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.5, 10.0
STEADY_S = 30.0
"""A child that ran this long is not crash-looping: its next restart is immediate again."""
STOP_S = 15.0


class Child:
    """One supervised process. Its output goes to `log`; `died` hears the exit status and the last lines."""

    def __init__(self, name: str, command: Sequence[str], log: Path, died: Callable[[Child, int], None]) -> None:
        self.name = name
        self.log = log
        self._command = [sys.executable, "-m", *command]
        self._died = died
        self._over = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name=f"keep {name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def last_lines(self, count: int = 15) -> str:
        with contextlib.suppress(OSError), self.log.open(encoding="utf-8", errors="replace") as lines:
            return "".join(deque(lines, maxlen=count)).rstrip()
        return ""

    def stop(self) -> None:
        """SIGTERM, a bounded wait, then SIGKILL; the supervision ends first."""
        self._over.set()
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _keep(self) -> None:
        pause = 0.0
        while not self._over.wait(pause):
            began = time.monotonic()
            status = self._run()
            if self._over.is_set():
                return
            self._died(self, status)
            steady = time.monotonic() - began >= STEADY_S
            pause = BACKOFF_FIRST_S if steady or not pause else min(BACKOFF_MAX_S, pause * 2)

    def _run(self) -> int:
        """One life of the child. It holds the read end of a pipe whose write end only we hold: our death ends it."""
        read, write = os.pipe()
        try:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(read,),
                    start_new_session=True,  # a Ctrl-C in the terminal is ours to pass on, in order
                    env={**os.environ, lifeline.VARIABLE: str(read)},
                )
            os.close(read)
            read = -1
            if self._over.is_set():  # stop() came between the check and the start
                self._process.terminate()
            return self._process.wait()
        finally:
            os.close(write)
            if read >= 0:
                os.close(read)
