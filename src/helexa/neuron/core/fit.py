"""Where a model goes: the settings and the device under which it fits, or the arithmetic of why it does not.

What the asker fixed is kept. What was left open is chosen: `slots` from 4 down to 1, the context per sequence the
trained one but at most 8192, halved down to 2048 while no device could hold more even when empty. The choice looks at
what a device could hold with this host's other models gone, so that the same request is planned the same way whatever
happens to be loaded; whether it fits now is asked after that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from helexa.base.units import human_mib
from helexa.neuron.core.footprint import Footprint, ModelShape, Settings, footprint
from helexa.neuron.core.plan import DeviceState, Share

DEFAULT_CONTEXT: Final = 8192
LEAST_CONTEXT: Final = 2048
DEFAULT_SLOTS: Final = 4
SMALL_KV: Final = "q8_0"


_OPEN: Final = Settings(context=0, slots=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was asked: None leaves it to us. `base` carries everything else (KV type, batch)."""

    context: int | None = None
    slots: int | None = None
    base: Settings = _OPEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """The device that takes the model, what it carries, and the settings under which it does."""

    share: Share
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


def fit(shape: ModelShape, wish: Wish, devices: Sequence[DeviceState]) -> Fitted | DoesNotFit:
    """Put `shape` on the device with the most free memory that holds it. `devices` must not be empty."""
    settings = _settings(shape, wish, devices)
    sums = tuple(_sum(device, footprint(shape, settings, device.kind)) for device in devices)
    best = max(
        (each for each in sums if each.needed_mb <= each.free_mb), key=lambda s: (s.free_mb, -s.device), default=None
    )
    if best is not None:
        return Fitted(share=_share(best), settings=settings)
    evictable = any(each.needed_mb <= each.capacity_mb for each in sums)
    return DoesNotFit(
        needed_mb=min(each.needed_mb for each in sums),
        per_device=sums,
        suggestion=_make_room(sums) if evictable else _smaller(shape, settings, wish, devices),
        evictable=evictable,
        settings=settings,
    )


def _settings(shape: ModelShape, wish: Wish, devices: Sequence[DeviceState]) -> Settings:
    """The first of `_ladder` that some device could hold when empty; the first of all when none could."""
    steps = tuple(_ladder(shape, wish))
    return next((step for step in steps if _holds(shape, step, devices)), steps[0 if wish.context else -1])


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


def _holds(shape: ModelShape, settings: Settings, devices: Iterable[DeviceState]) -> bool:
    return any(footprint(shape, settings, d.kind).needed_mb <= d.total_mb - d.foreign_mb for d in devices)


def _sum(device: DeviceState, need: Footprint) -> DeviceSum:
    return DeviceSum(
        device=device.index,
        name=device.name,
        needed_mb=need.needed_mb,
        weights_mb=need.weights_mb,
        kv_mb=need.kv_mb,
        compute_mb=need.compute_mb,
        total_mb=device.total_mb,
        reserved_mb=device.reserved_mb,
        foreign_mb=device.foreign_mb,
        free_mb=device.free_mb,
    )


def _share(line: DeviceSum) -> Share:
    return Share(device=line.device, weights_mb=line.weights_mb, kv_mb=line.kv_mb, compute_mb=line.compute_mb)


def _make_room(sums: Sequence[DeviceSum]) -> str:
    """Which device to clear: the one where the least must go."""
    line = min((s for s in sums if s.needed_mb <= s.capacity_mb), key=lambda s: (s.needed_mb - s.free_mb, s.device))
    return f"unload {human_mib(line.needed_mb - line.free_mb)} of other models from device {line.device}"


def _smaller(shape: ModelShape, settings: Settings, wish: Wish, devices: Sequence[DeviceState]) -> str:
    """The smallest single change under which a device would hold it: fewer slots, a smaller KV type, less context."""
    for change, text in _changes(settings):
        if _holds(shape, change, devices):
            return text
    least = footprint(shape, replace(settings, context=1, slots=1), devices[0].kind).needed_mb
    return f"use a smaller quantisation or model, or a device with more than {human_mib(least)}"


def _changes(settings: Settings) -> Iterator[tuple[Settings, str]]:
    if settings.slots > 1:
        yield replace(settings, slots=1), "set options.slots = 1"
    if settings.type_k == "f16" and settings.type_v == "f16":
        small = replace(settings, type_k=SMALL_KV, type_v=SMALL_KV)
        yield small, f'set options.cache_type_k and cache_type_v = "{SMALL_KV}"'
    context = settings.context // 2
    while context >= 256:
        yield replace(settings, context=context), f"set context = {context}"
        context //= 2
