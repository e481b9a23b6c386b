"""The default models, loaded in the background once the port is bound: a slow start must not look like a dead host."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from helexa.base.clock import Clock
from helexa.base.errors import HelexaError, Unavailable, UpstreamFailed
from helexa.base.ids import canonical
from helexa.neuron.device.process import JobFailed, WorkerLost
from helexa.neuron.keeper import Keeper
from helexa.wire.control import Activation, FailedLoad, ModelSpec

log = logging.getLogger(__name__)

RETRY_S = (10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
"""Pauses after a source could not be reached, or a device took no loads: a link that comes up late must not leave a
host empty. For a link, a model counts as failed only after the last of them, and then too it is tried on. A load under
which its worker ended is given up after them: each of its tries costs the models beside it their worker."""


class Warmup:
    """Brings up the default models one after another; each is in exactly one list of `view` at any time."""

    def __init__(self, keeper: Keeper, specs: Sequence[ModelSpec], *, clock: Clock) -> None:
        self._keeper, self._clock = keeper, clock
        self._specs = {canonical(spec.model_id): spec for spec in specs}
        self._due = dict.fromkeys(self._specs, 0.0)
        self._tries = dict.fromkeys(self._specs, 0)
        self._turn = asyncio.Lock()
        self.over = asyncio.Event()
        self.view = Activation(state="pre_warming" if specs else "ready", pending=list(self._specs))

    async def run(self) -> None:
        """Return when every default model has loaded, or failed for good."""
        while self._due:
            if not self.view.pending:
                self._settled()
            model_id = min(self._due, key=lambda name: self._due[name])
            await self._clock.sleep(max(0.0, self._due[model_id] - self._clock.now()))
            async with self._turn:
                if model_id in self._due:
                    await self._one(model_id)
        self._settled()

    async def again(self) -> None:
        """The host has other devices than before, or a driver that works: what failed is tried once more."""
        for failed in tuple(self.view.failed):
            async with self._turn:
                if failed in self.view.failed:
                    await self._one(failed.model_id)

    def _settled(self) -> None:
        self.view.state = "ready"
        self.over.set()

    async def _one(self, model_id: str) -> None:
        view = self.view
        view.pending = [name for name in view.pending if name != model_id]
        view.failed = [each for each in view.failed if each.model_id != model_id]
        view.retrying = [each for each in view.retrying if each.model_id != model_id]
        view.in_progress = model_id
        self._due.pop(model_id, None)
        try:
            await self._keeper.load(self._specs[model_id]).wait()
            view.completed.append(model_id)
        except HelexaError as error:
            self._failed(model_id, error)
        finally:
            view.in_progress = None

    def _failed(self, model_id: str, error: HelexaError) -> None:
        kind = error.fields.get("kind", error.code)
        unreached = kind == "repo_fetch_failed" and error.fields.get("transient") is not False
        tries, again = self._tries[model_id], ""
        if unreached or isinstance(error, Unavailable) or (_crashed(error) and tries < len(RETRY_S)):
            pause_s = RETRY_S[min(tries, len(RETRY_S) - 1)]
            self._tries[model_id] = tries + 1
            self._due[model_id] = self._clock.now() + pause_s
            again = f"; tried again in {pause_s:g} s"
        log.error("default model %s: reason=%s detail=%s%s", model_id, kind, error.message, again)
        failed = FailedLoad(model_id=model_id, error=error.message)
        if unreached and tries < len(RETRY_S):
            self.view.pending.append(model_id)
            self.view.retrying.append(failed)
        else:
            self.view.failed.append(failed)


def _crashed(error: HelexaError) -> bool:
    """Whether the load's worker ended under it, met a fault of the device, or failed the canary prompt."""
    return isinstance(error, WorkerLost | UpstreamFailed) or (isinstance(error, JobFailed) and error.fault)
