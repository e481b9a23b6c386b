"""Where a model goes: the settings and the devices under which it fits, or the arithmetic of why it does not.

What the asker fixed is kept. What was left open is chosen: `slots` from 4 down to 1, the context per sequence the
trained one but at most 8192, halved down to 2048 while no device could hold more even when empty; a context of "max" is
the largest that one sequence can have. The choice looks at what a device could hold with this host's other models gone,
so that the same request is planned the same way whatever happens to be loaded; whether it fits now is asked after that.

A model that no device could hold alone is split by layers over several of one kind, as few as will do, where the engine
can: each carries layers in proportion to its room, at most one layer more, and scratch memory of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from helexa.base.units import human_mib
from helexa.neuron.core.footprint import CELL_PADDING, Footprint, ModelShape, Settings, footprint
from helexa.neuron.core.plan import DeviceState, Share

DEFAULT_CONTEXT: Final = 8192
LEAST_CONTEXT: Final = 2048
DEFAULT_SLOTS: Final = 4
SMALL_KV: Final = "q8_0"


_OPEN: Final = Settings(context=0, slots=0)
Measured = Callable[[Settings, str], int | None]
"""What a load under these settings on one device of this kind was measured to take (MiB), None when nobody knows."""
Room = Callable[[DeviceState], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was asked: None leaves it to us, `largest` asks for the largest context. `base` carries everything else (KV
    type, batch)."""

    context: int | None = None
    largest: bool = False
    slots: int | None = None
    base: Settings = _OPEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """The devices that take the model, what each carries, and the settings under which they do."""

    shares: tuple[Share, ...]
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSum:
    """One device's arithmetic, in MiB. It fits when `needed_mb` is at most `free_mb`."""

    device: int
    name: str
    needed_mb: int
    weights_mb: int
    kv_mb: int
    compute_mb: int
    correction_mb: int = 0
    total_mb: int
    reserved_mb: int
    foreign_mb: int
    free_mb: int

    @property
    def capacity_mb(self) -> int:
        """What this device could hold with this host's other models gone."""
        return max(0, self.total_mb - self.foreign_mb)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoesNotFit:
    """Nowhere now. `evictable`: it would, with this host's other models gone. `needed_mb` is the least over devices."""

    needed_mb: int
    per_device: tuple[DeviceSum, ...]
    suggestion: str
    evictable: bool
    settings: Settings


def _never(settings: Settings, kind: str) -> int | None:
    return None


def fit(
    shape: ModelShape,
    wish: Wish,
    devices: Sequence[DeviceState],
    *,
    measured: Measured = _never,
    splits: bool = False,
) -> Fitted | DoesNotFit:
    """Put `shape` on the device with the most free memory that holds it, or, where the engine `splits`, on several.
    `devices` must not be empty."""
    case = _Case(shape=shape, devices=tuple(devices), measured=measured, splits=splits)
    settings = case.settings(wish)
    placed = case.place(settings, _free)
    if placed is not None:
        return Fitted(shares=placed, settings=settings)
    cleared = case.place(settings, _capacity)
    sums = case.sums(settings, cleared)
    return DoesNotFit(
        needed_mb=sum(s.needed_mb for s in cleared) if cleared else min(each.needed_mb for each in sums),
        per_device=sums,
        suggestion=_make_room(sums, cleared) if cleared else _smaller(case, settings),
        evictable=cleared is not None,
        settings=settings,
    )


def _free(device: DeviceState) -> int:
    return device.free_mb


def _capacity(device: DeviceState) -> int:
    return max(0, device.total_mb - device.foreign_mb)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One model and the devices that it may go to."""

    shape: ModelShape
    devices: tuple[DeviceState, ...]
    measured: Measured
    splits: bool

    def need(self, settings: Settings, kind: str) -> Footprint:
        return footprint(self.shape, settings, kind).corrected(self.measured(settings, kind))

    def holds(self, settings: Settings) -> bool:
        """Whether there would be a place with this host's other models gone."""
        return self.place(settings, _capacity) is not None

    def settings(self, wish: Wish) -> Settings:
        """The first of the ladder that would have a place; the first or last of all when none would."""
        if wish.largest:
            return self._largest(wish)
        steps = tuple(_ladder(self.shape, wish))
        return next((step for step in steps if self.holds(step)), steps[0 if wish.context else -1])

    def _largest(self, wish: Wish) -> Settings:
        """The trained context, or the most whole cells of it that would have a place, by bisection."""
        one = replace(wish.base, context=self.shape.trained_context, slots=wish.slots or 1)
        if self.holds(one):
            return one
        low, high = 1, max(2, -(-self.shape.trained_context // CELL_PADDING))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.holds(replace(one, context=middle * CELL_PADDING)) else (low, middle)
        return replace(one, context=low * CELL_PADDING)

    def place(self, settings: Settings, room: Room) -> tuple[Share, ...] | None:
        """The device with the most room that holds it all, else as few of one kind as hold it together."""
        alone = [d for d in self.devices if self.need(settings, d.kind).needed_mb <= room(d)]
        if alone:
            best = max(alone, key=lambda d: (d.free_mb, room(d), -d.index))
            return (self._share(best, self.need(settings, best.kind)),)
        return next(self._together(settings, room), None) if self.splits else None

    def _together(self, settings: Settings, room: Room) -> Iterator[tuple[Share, ...]]:
        for kind in sorted({device.kind for device in self.devices} - {"cpu"}):
            here = sorted((d for d in self.devices if d.kind == kind), key=lambda d: (-room(d), d.index))
            for count in range(2, len(here) + 1):
                if (split := self._split(settings, here[:count], room)) is not None:
                    yield split

    def _split(self, settings: Settings, devices: Sequence[DeviceState], room: Room) -> tuple[Share, ...] | None:
        """Layers in proportion to the room that is left beside scratch memory and one layer."""
        need = footprint(self.shape, settings, devices[0].kind)
        layers = max(1, len(self.shape.layers))
        divisible = need.weights_mb + need.kv_mb
        rooms = [room(d) - need.compute_mb - -(-divisible // layers) - 1 for d in devices]
        if min(rooms) <= 0 or sum(rooms) < divisible:
            return None
        parts = [each / sum(rooms) + 1 / layers for each in rooms]
        return tuple(
            Share(device=d.index, weights_mb=int(need.weights_mb * part), kv_mb=int(need.kv_mb * part) + 1,
                  compute_mb=need.compute_mb)
            for d, part in zip(devices, parts, strict=True)
        )  # fmt: skip

    def _share(self, device: DeviceState, need: Footprint) -> Share:
        return Share(
            device=device.index,
            weights_mb=need.weights_mb,
            kv_mb=need.kv_mb,
            compute_mb=need.compute_mb,
            correction_mb=need.correction_mb,
            scratch_mb=need.scratch_mb,
            copies_mb=tuple(size >> 20 for size in self.shape.copies) if device.kind == "cpu" else (),
        )

    def sums(self, settings: Settings, placed: Sequence[Share] | None) -> tuple[DeviceSum, ...]:
        """The arithmetic of a split's devices, or of each device alone."""
        split = {share.device: share for share in placed or () if len(placed or ()) > 1}
        here = [d for d in self.devices if d.index in split] if split else self.devices
        return tuple(_sum(d, split.get(d.index) or self._share(d, self.need(settings, d.kind))) for d in here)


def _ladder(shape: ModelShape, wish: Wish) -> Iterator[Settings]:
    """From the most generous settings that the wish allows to the most modest."""
    for context in (wish.context,) if wish.context else _contexts(shape.trained_context):
        for slots in (wish.slots,) if wish.slots else (DEFAULT_SLOTS, 2, 1):
            yield replace(wish.base, context=context, slots=slots)


def _contexts(trained: int) -> Iterator[int]:
    context = min(trained, DEFAULT_CONTEXT)
    yield context
    while context // 2 >= LEAST_CONTEXT:
        context //= 2
        yield context


def _sum(device: DeviceState, share: Share) -> DeviceSum:
    return DeviceSum(
        device=device.index,
        name=device.name,
        needed_mb=share.needed_mb,
        weights_mb=share.weights_mb,
        kv_mb=share.kv_mb,
        compute_mb=share.compute_mb,
        correction_mb=share.correction_mb,
        total_mb=device.total_mb,
        reserved_mb=device.reserved_mb,
        foreign_mb=device.foreign_mb,
        free_mb=device.free_mb,
    )


def _make_room(sums: Sequence[DeviceSum], cleared: Sequence[Share]) -> str:
    """Which devices to clear: all of a split, or the one where the least must go."""
    if len(cleared) > 1:
        short = [s for s in sums if s.needed_mb > s.free_mb]
        return "; ".join(_clear(line) for line in short)
    return _clear(
        min((s for s in sums if s.needed_mb <= s.capacity_mb), key=lambda s: (s.needed_mb - s.free_mb, s.device))
    )


def _clear(line: DeviceSum) -> str:
    return f"unload {human_mib(line.needed_mb - line.free_mb)} of other models from device {line.device}"


def _smaller(case: _Case, settings: Settings) -> str:
    """The smallest single change under which there would be a place: fewer slots, a smaller KV type, less context."""
    for change, text in _changes(settings, case.shape.trained_context):
        if case.holds(change):
            return text
    least = footprint(case.shape, replace(settings, context=1, slots=1), case.devices[0].kind).needed_mb
    return f"use a smaller quantisation or model, or a device with more than {human_mib(least)}"


def _changes(settings: Settings, trained: int) -> Iterator[tuple[Settings, str]]:
    if settings.slots > 1:
        yield replace(settings, slots=1), "set options.slots = 1"
    if settings.type_k == "f16" and settings.type_v == "f16":
        small = replace(settings, type_k=SMALL_KV, type_v=SMALL_KV)
        yield small, f'set options.cache_type_k and cache_type_v = "{SMALL_KV}"'
    context = min(settings.context // 2, trained)
    while context >= 256:
        yield replace(settings, context=context), f"set context = {context}"
        context //= 2
