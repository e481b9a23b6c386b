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
LAST_S = 2.0
"""For threads that are still at something once all is unloaded and closed: they wait for a hub, or for a dead disk."""


async def run(config: NeuronConfig, *, ready: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain. `ready` is told the address once the port is bound."""
    stop = asyncio.Event()

    def end() -> None:
        """Begin the end, and set a limit on how long it takes."""
        if not stop.is_set():
            _deadman(HARD_END_S, 70, "the drain did not end in time")
            stop.set()

    _on_signal(stop, end)
    lifeline.watch(os.environ, end)
    async with Neuron(config) as neuron:
        if ready is not None:
            ready(neuron.url)
        await stop.wait()
        log.info("shutting down: %r", neuron.keeper)
    _deadman(LAST_S, 0, "a thread did not end in time; nothing is lost with it")


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


def _deadman(limit_s: float, status: int, why: str) -> None:
    """End the process after so long, unless it has ended by then."""

    def end() -> None:
        threading.Event().wait(limit_s)
        print(f"neuron: {why}", file=sys.stderr)  # noqa: T201
        os._exit(status)

    threading.Thread(target=end, name="deadman", daemon=True).start()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
