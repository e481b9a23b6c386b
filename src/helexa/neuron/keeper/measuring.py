"""What a load took and what an unload gave back, as measured; MiB. None wherever that cannot be told."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from helexa.neuron.core.measured import measured_mb
from helexa.neuron.core.plan import LoadPlan, Share
from helexa.neuron.harness import Facts
from helexa.neuron.keeper.host import Host

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a load took of its device; `mapped_mb` of it are pages of files, which go as soon as they are unmapped."""

    share: Share
    measured_mb: int
    mapped_mb: int


def taken(plan: LoadPlan, facts: Facts) -> Taken | None:
    """The measurement of a load on one device. A model without weights only says what it would take."""
    if facts.used_mb is None or len(plan.shares) != 1 or plan.weightless:
        return None
    (share,) = plan.shares
    return Taken(
        share=share,
        measured_mb=measured_mb(share, facts.used_mb, mapped=facts.mapped),
        mapped_mb=share.weights_mb if facts.mapped else 0,
    )


class Scales:
    """A device's worker, weighed when a model is about to leave it and once it has left."""

    def __init__(self, host: Host, device: int) -> None:
        self._host, self._device = host, device
        self._before: int | None = None

    async def begin(self) -> None:
        self._before = await asyncio.to_thread(self._host.holds_mb, self._device)

    async def freed_mb(self, model_id: str, had: Taken | None) -> int | None:
        """What came free. What should have and did not is told of here; the next look at the device counts it as
        foreign, so that nobody is promised it."""
        after = await asyncio.to_thread(self._host.holds_mb, self._device)
        if had is None or self._before is None or after is None:
            return None
        freed = max(0, self._before - after) + had.mapped_mb
        if freed < had.measured_mb // 2:
            log.warning("%s took %d MiB, and only %d came free", model_id, had.measured_mb, freed)
        return freed
