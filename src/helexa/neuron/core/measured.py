"""What loads were measured to take, kept so that the same load is predicted right the next time. Pure; MiB, seconds.

A measurement holds for its circumstances only: the same weights, context, slots and options, in the same version of the
same engine, on the same kind of device. Of each the last few are kept and the largest counts, so that one that was
disturbed is forgotten after a while.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import msgspec

from helexa.neuron.core.plan import LoadPlan, Share, Warmth

KEPT: Final = 256
KEPT_EACH: Final = 3


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be the same for a measurement to hold. `weights` is the first file's name, `weight_bytes` the size of
    all; `options` is JSON with sorted keys."""

    model_id: str
    weights: str
    weight_bytes: int
    context: int
    slots: int
    options: str
    engine: str
    device_kind: str


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """What was predicted without knowing better, and what the last loads took, oldest first. `load_s`: how long the
    last load took, by where its weights were ("memory", "disk", "cold")."""

    of: Circumstances
    predicted_mb: int
    measured_mb: tuple[int, ...]
    load_s: dict[str, float] = {}

    @property
    def needed_mb(self) -> int:
        return max(self.measured_mb)


def circumstances(plan: LoadPlan, device_kind: str) -> Circumstances:
    """Under which circumstances `plan` loads its model on one device."""
    return Circumstances(
        model_id=plan.model_id,
        weights=plan.files[0].name if plan.files else "",
        weight_bytes=sum(file.size_bytes or 0 for file in plan.files),
        context=plan.context,
        slots=plan.slots,
        options=options_text(plan.options),
        engine=plan.engine,
        device_kind=device_kind,
    )


def options_text(options: Mapping[str, Any]) -> str:
    """Options as one text, whatever their order; `slots` stands by itself."""
    kept = {key: value for key, value in options.items() if key != "slots"}
    return msgspec.json.encode(kept, order="deterministic").decode()


@dataclass(frozen=True, slots=True)
class Measurements:
    """All that are kept, the latest last."""

    kept: Mapping[Circumstances, Measurement] = field(default_factory=dict[Circumstances, Measurement])

    @classmethod
    def of(cls, rows: Iterable[Measurement]) -> Self:
        """Those of a state file; rows without a sensible figure are left out."""
        sound = [row for row in rows if row.measured_mb and min(row.measured_mb) > 0]
        return cls({row.of: row for row in sound[-KEPT:]})

    def needed_mb(self, of: Circumstances) -> int | None:
        """What a load under these circumstances was measured to take; None when it never was."""
        found = self.kept.get(of)
        return found.needed_mb if found else None

    def load_s(self, of: Circumstances, warmth: Warmth) -> float | None:
        """How long the last such load took with its weights in the same place; None when there was none."""
        found = self.kept.get(of)
        return found.load_s.get(warmth) if found else None

    def noted(
        self, of: Circumstances, predicted_mb: int, measured_mb: int, load_s: Mapping[str, float] | None = None
    ) -> Measurements:
        """With one more measurement; `load_s` is its time by where the weights were, where that is known."""
        before = self.kept.get(of)
        earlier = before.measured_mb[-(KEPT_EACH - 1) :] if before else ()
        row = Measurement(
            of=of,
            predicted_mb=predicted_mb,
            measured_mb=(*earlier, max(1, measured_mb)),
            load_s={**(before.load_s if before else {}), **(load_s or {})},
        )
        rows = [*(each for key, each in self.kept.items() if key != of), row]
        return Measurements.of(rows)


def measured_mb(share: Share, used_mb: int, *, mapped: bool) -> int:
    """What a share takes, from what its load was measured to add (`used_mb`).

    `mapped`: the weights were mapped from their files and are not in `used_mb`, except where the engine copied some of
    them into its own layout. Such a copy takes the place of the file's pages, which nobody reads again, so it counts
    once: the size it may have (`share.copies_mb`) that explains the measurement best is taken off. Scratch memory is
    reserved and not touched yet, so it is added.
    """
    if not mapped:
        return used_mb + share.scratch_mb
    own_mb = used_mb + share.scratch_mb
    expected_mb = share.kv_mb + share.compute_mb
    copied_mb = min((0, *share.copies_mb), key=lambda copy: abs(own_mb - copy - expected_mb))
    return share.weights_mb + max(0, own_mb - copied_mb)
