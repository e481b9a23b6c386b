"""Load jobs: what an asker holds on to while the keeper works, and may ask about later."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from helexa.base.errors import HelexaError

KEPT_JOBS = 256


@dataclass(slots=True, kw_only=True)
class LoadJob:
    """One load, owned by the keeper: it goes on whoever stops waiting. `error` is set when it failed."""

    id: str
    model_id: str
    error: HelexaError | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def state(self) -> str:
        """running, loaded or failed."""
        if not self.done.is_set():
            return "running"
        return "loaded" if self.error is None else "failed"

    def finish(self, error: HelexaError | None = None) -> None:
        """Tell everybody who waits; the first word stands."""
        if not self.done.is_set():
            self.error = error
            self.done.set()

    async def wait(self) -> None:
        """Return when the model is loaded. Raises what kept it from it."""
        await self.done.wait()
        if self.error is not None:
            raise self.error


class Jobs:
    """The jobs of this neuron's life, the oldest finished ones forgotten."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, LoadJob] = OrderedDict()

    def add(self, job: LoadJob) -> LoadJob:
        """Remember a job."""
        self._jobs[job.id] = job
        finished = [key for key, old in self._jobs.items() if old.done.is_set()]
        for key in finished[: max(0, len(self._jobs) - KEPT_JOBS)]:
            del self._jobs[key]
        return job

    def get(self, job_id: str) -> LoadJob | None:
        """The job with this id, if it is still known."""
        return self._jobs.get(job_id)

    def running(self) -> list[LoadJob]:
        """Jobs that have not ended."""
        return [job for job in self._jobs.values() if not job.done.is_set()]
