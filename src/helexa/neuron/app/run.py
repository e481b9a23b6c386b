"""The daemon: signals, the event loop, and an end that always comes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable

from helexa.base import lifeline
from helexa.neuron.app.neuron import DRAIN_S, Neuron
from helexa.neuron.config import NeuronConfig

log = logging.getLogger(__name__)

HARD_END_S = DRAIN_S + 15.0
"""From the first signal to the process's end, whatever hangs: a supervisor's own limit is longer."""


async def run(config: NeuronConfig, *, ready: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain. `ready` is told the address once the port is bound."""
    stop = asyncio.Event()

    def end() -> None:
        """Begin the end, and set a limit on how long it takes."""
        if not stop.is_set():
            threading.Thread(target=_end_hard, name="deadman", daemon=True).start()
            stop.set()

    _on_signal(stop, end)
    lifeline.watch(os.environ, end)
    async with Neuron(config) as neuron:
        if ready is not None:
            ready(neuron.url)
        await stop.wait()
        log.info("shutting down: %r", neuron.keeper)


def main(config: NeuronConfig, *, ready: Callable[[str], None] | None = None) -> int:
    """Run to the end and return the exit code; on uvloop where there is one."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(run(config, ready=ready))
    return 0


def _on_signal(stop: asyncio.Event, end: Callable[[], None]) -> None:
    """The first signal drains, the second one ends at once."""

    def heard(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        end()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, heard, number)


def _end_hard() -> None:
    threading.Event().wait(HARD_END_S)
    print("neuron: the drain did not end in time", file=sys.stderr)  # noqa: T201
    os._exit(70)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
