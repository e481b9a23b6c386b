"""Who holds which memory: reservations made before a load begins, so that two loads at once cannot both win.

Pure: every change is a new Ledger. All figures are MiB.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from helexa.neuron.core.plan import DeviceState, Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """What one device would have to carry, beside what it has."""

    device: int
    needed_mb: int
    free_mb: int
    total_mb: int
    reserved_mb: int
    foreign_mb: int

    @property
    def missing_mb(self) -> int:
        return max(0, self.needed_mb - self.free_mb)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """It does not fit now. `evictable`: it would, were every other model here unloaded."""

    wants: tuple[Want, ...]
    evictable: bool

    @property
    def needed_mb(self) -> int:
        return sum(want.needed_mb for want in self.wants)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Devices as found, and what each model holds on them: `holds[model_id][device] = MiB`."""

    found: tuple[DeviceState, ...]
    holds: Mapping[str, Mapping[int, int]] = field(default_factory=dict[str, Mapping[int, int]])

    def __repr__(self) -> str:
        return "Ledger(" + "; ".join(f"{d.index}: {d.free_mb} of {d.total_mb} MiB free" for d in self.devices()) + ")"

    def held_mb(self, device: int) -> int:
        """What helexa's models hold on a device."""
        return sum(hold.get(device, 0) for hold in self.holds.values())

    def of(self, model_id: str) -> int:
        """What a model holds on all devices together; 0 for one that is not here."""
        return sum(self.holds.get(model_id, {}).values())

    def devices(self) -> tuple[DeviceState, ...]:
        """The devices with their reservations filled in."""
        return tuple(replace(device, reserved_mb=self.held_mb(device.index)) for device in self.found)

    def emptied(self) -> tuple[DeviceState, ...]:
        """The devices as they would be without any model of ours."""
        return tuple(replace(device, reserved_mb=0) for device in self.found)

    def reserve(self, model_id: str, shares: Iterable[Share]) -> Ledger | Shortfall:
        """Promise memory to a model; a promise it had before is replaced. A Shortfall changes nothing."""
        shares = tuple(shares)
        rest = self.release(model_id)
        wants = tuple(_want(share, rest) for share in shares)
        if any(want.missing_mb for want in wants):
            evictable = all(want.needed_mb <= want.total_mb - want.foreign_mb for want in wants)
            return Shortfall(wants=wants, evictable=evictable)
        return replace(self, holds={**rest.holds, model_id: {share.device: share.needed_mb for share in shares}})

    def measured(self, model_id: str, device: int, used_mb: int) -> Ledger:
        """Correct a promise by what was measured. Only upwards: memory that is mapped but not yet touched will be."""
        hold = self.holds.get(model_id)
        if hold is None or used_mb <= hold.get(device, 0):
            return self
        return replace(self, holds={**self.holds, model_id: {**hold, device: used_mb}})

    def release(self, model_id: str) -> Ledger:
        """Take back everything that a model held."""
        return replace(self, holds={name: hold for name, hold in self.holds.items() if name != model_id})

    def refreshed(self, found: Iterable[DeviceState]) -> Ledger:
        """The same promises over a newer look at the devices."""
        return replace(self, found=tuple(found))


def _want(share: Share, ledger: Ledger) -> Want:
    state = next((device for device in ledger.devices() if device.index == share.device), None)
    if state is None:
        return Want(
            device=share.device, needed_mb=max(1, share.needed_mb), free_mb=0, total_mb=0, reserved_mb=0, foreign_mb=0
        )
    return Want(
        device=share.device,
        needed_mb=share.needed_mb,
        free_mb=state.free_mb,
        total_mb=state.total_mb,
        reserved_mb=state.reserved_mb,
        foreign_mb=state.foreign_mb,
    )
