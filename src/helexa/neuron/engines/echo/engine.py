"""The echo engine: loads as slowly as it is told to, reserves nothing, serves from a loop on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from helexa.http1.server import Server
from helexa.neuron.engines.echo import options as opts
from helexa.neuron.engines.echo.server import EchoModel, die
from helexa.neuron.harness import DeviceFault, Engine, Facts, LoadOrder, Report, Resident

T = TypeVar("T")

PROGRESS_STEPS = 20
CALL_TIMEOUT_S = 5.0
MAX_OUTPUT_TOKENS = 8192


class EchoResident:
    """A loaded echo."""

    def __init__(self, engine: EchoEngine, server: Server, facts: Facts, path: str) -> None:
        self._engine, self._server, self._facts, self._path = engine, server, facts, path

    @property
    def facts(self) -> Facts:
        return self._facts

    def unload(self) -> None:
        """Stop serving."""
        self._engine.call(self._server.drain(0.0))
        Path(self._path).unlink(missing_ok=True)


class EchoEngine:
    """See harness.Engine."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="echo", daemon=True).start()

    def load(self, order: LoadOrder, report: Report) -> Resident:
        """Take `load_s`, then serve. Raises BadOption; DeviceFault and RuntimeError when told to."""
        options = opts.parse(order.options)
        _pretend(options.load_s, report)
        failure = options.failure
        if failure is not None and failure.after < 0:
            _fail(failure.how)
        server = Server(EchoModel(order.model_id, options, order.context).handle)
        self.call(server.listen_unix(order.socket))
        facts = Facts(
            context_length=order.context,
            max_output_tokens=min(order.context, MAX_OUTPUT_TOKENS),
            capabilities=("text", "embeddings", *(("tools",) if options.tool_calls else ())),
            used_mb=options.memory_mb,
            tool_call=bool(options.tool_calls),
            pulse="/slots",
        )
        return EchoResident(self, server, facts, order.socket)

    def memory(self) -> tuple[int, int] | None:
        """Nothing is known of a device that is not used."""
        return None

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the serving loop and wait for it, from the device thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_TIMEOUT_S)


def _pretend(load_s: float, report: Report) -> None:
    for done in range(PROGRESS_STEPS if load_s > 0 else 0):
        report("load", done / PROGRESS_STEPS)
        time.sleep(load_s / PROGRESS_STEPS)


def _fail(how: str) -> None:
    if how == "fault":
        raise DeviceFault("the device met a fault, as asked")
    if how == "hang":
        threading.Event().wait()
    if how in ("crash", "freeze"):
        die(how)
    raise RuntimeError("the load failed, as asked")


_: type[Engine] = EchoEngine
