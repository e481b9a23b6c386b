"""Which engine loads a model that names none, and why. Pure.

An engine may read a format and yet not this file: `Needs` says what it must be like. And an engine may be the better
one only for a crowd: `Needs` says from how many slots on (docs/decisions/0006-openvino-for-crowds.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from helexa.neuron.core.footprint import ModelShape
from helexa.neuron.core.harnesses import HarnessInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An engine that can load the model, and why it is this one's turn."""

    harness: HarnessInfo
    reason: str


def flaw(harness: HarnessInfo, shape: ModelShape, files: int, options: Iterable[str]) -> str | None:
    """Why `harness` cannot load this model with these options; None when it can, or nobody knows. `files`: how many."""
    if shape.architecture and not harness.knows(shape.architecture):
        return f"cannot run the architecture `{shape.architecture}`"
    needs, traits = harness.needs, shape.traits
    if needs is None or traits is None:
        return None
    if strange := sorted(traits.types - needs.types):
        return f"cannot read {', '.join(strange)}"
    if traits.tokenizer not in needs.tokenizers:
        return f"does not know the tokenizer `{traits.tokenizer}`"
    if traits.unusual:
        return f"cannot run {traits.unusual}"
    if files != 1:
        return "reads one file, without a projector"
    if foreign := sorted(set(options) - harness.options.keys()):
        return f"has no option `{foreign[0]}`"
    return None


def candidates(
    harnesses: Sequence[HarnessInfo],
    shape: ModelShape,
    *,
    kinds: Iterable[str],
    files: int,
    options: Iterable[str],
    slots: int | None,
) -> Iterator[Candidate]:
    """The engines that can load it, the best first. `kinds` are those of the devices, `slots` as asked for."""
    here, given = set(kinds), list(options)
    usual: list[HarnessInfo] = []
    crowds: list[HarnessInfo] = []
    passed: list[str] = []
    for each in harnesses:
        why = flaw(each, shape, files, given) or _unknown(each, shape) or _not_here(each, here)
        least = each.needs.from_slots if each.needs is not None else 0
        if why is None and least and (slots or 0) < least:
            why = f"pays from {least} slots on, {'none' if slots is None else slots} asked for"
        if why is not None:
            passed.append(f"{each.name} {why}")
        else:
            (crowds if least else usual).append(each)
    for each in crowds:
        yield Candidate(harness=each, reason=f"{slots} slots were asked for, and for a crowd {each.name} is the faster")
    for each in usual:
        yield Candidate(harness=each, reason="; ".join(passed))


def _unknown(harness: HarnessInfo, shape: ModelShape) -> str | None:
    return "needs to see the file first" if harness.needs is not None and shape.traits is None else None


def _not_here(harness: HarnessInfo, kinds: set[str]) -> str | None:
    if harness.needs is None:
        return None
    others = sorted(kinds - set(harness.device_kinds))
    return f"does not run on {', '.join(others)}" if others else None
