"""Who loads what where, agreed between gateways that know nothing of each other.

Each gateway decides on what it has heard; in the moment before a load is heard of, two may choose different nodes for
one model. So they ask the same neuron first, and the first that asks decides for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from helexa.wire.control import Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class Leases:
    """What was granted, `held[model_id] = (lease, when it ends)`. Every change is a new value."""

    held: Mapping[str, tuple[Lease, float]] = field(default_factory=dict[str, tuple[Lease, float]])

    def asked(self, lease: Lease, now: float) -> tuple[Leases, Lease]:
        """The lease that holds from now on: the one that is asked for, unless another gateway has one. Who has it may
        change its mind; one of 0 s is given up, though not for the neuron that its holder has chosen since."""
        held = {model: one for model, one in self.held.items() if now < one[1]}
        found, _ = held.get(lease.model_id, (lease, now))
        if found.holder != lease.holder or (not lease.seconds and found.on != lease.on):
            return replace(self, held=held), found
        return replace(self, held={**held, lease.model_id: (lease, now + lease.seconds)}), lease
