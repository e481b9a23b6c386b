"""What `cortex doctor` makes of the facts: one finding each, with the remedy. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from helexa.base.units import human_bytes

State = Literal["ok", "warn", "fail"]

LEAST_DISK = 10_000_000_000
MOST_SKEW_S = 5.0


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """`what` was looked at, how it is, and what to do about it."""

    what: str
    state: State
    detail: str
    remedy: str = ""


def disk(what: str, free: int | None, writable: bool) -> Finding:
    """The disk of the model cache; `free` in bytes."""
    if not writable:
        return Finding(what=what, state="fail", detail="cannot be written to", remedy="change its owner, or the path")
    if free is None:
        return Finding(what=what, state="warn", detail="nobody can tell what is free")
    low = free < LEAST_DISK
    remedy = "neuron models gc, neuron models rm MODEL, or another cache_dir" if low else ""
    return Finding(what=what, state="warn" if low else "ok", detail=f"{human_bytes(free)} free", remedy=remedy)


def state_folder(path: str, writable: bool) -> Finding:
    """Where a neuron keeps what it measured and the conversations of unloaded models. It serves without."""
    what = f"state folder {path}"
    if writable:
        return Finding(what=what, state="ok", detail="can be written to")
    detail = "cannot be written to: measurements and idle conversations are lost"
    return Finding(what=what, state="warn", detail=detail, remedy="change its owner, or `state_dir` in neuron.toml")


def port(what: str, number: int, *, ours: bool, taken: bool) -> Finding:
    """A port that we listen on, could listen on, or cannot because somebody else does."""
    if ours:
        return Finding(what=what, state="ok", detail=f"port {number} answers")
    if taken:
        remedy = f"stop the other program (ss -ltnp 'sport = :{number}'), or configure another port"
        return Finding(what=what, state="fail", detail=f"port {number} is used by another program", remedy=remedy)
    return Finding(what=what, state="ok", detail=f"port {number} is free; nothing of ours runs")


def clock(what: str, skew_s: float | None) -> list[Finding]:
    """How far another machine's clock is from ours, to the second."""
    if skew_s is None or abs(skew_s) <= MOST_SKEW_S:
        return []
    detail = f"its clock is {skew_s:+.0f} s from this machine's"
    return [Finding(what=what, state="warn", detail=detail, remedy="run an NTP client on both")]


def versions(what: str, theirs: str, ours: str) -> Finding:
    """A neuron and this command should be of one release."""
    if theirs == ours:
        return Finding(what=what, state="ok", detail=f"version {theirs}")
    detail = f"version {theirs or 'unknown'}, here {ours}"
    return Finding(what=what, state="warn", detail=detail, remedy="bring both to the same release")


def engines(what: str, discovery: Mapping[str, Any]) -> list[Finding]:
    """Whether a host can run anything real."""
    formats: Mapping[str, list[str]] = discovery.get("formats") or {}
    real = [name for name, read in formats.items() if "any" not in read]
    reason = discovery.get("cuda_unavailable_reason")
    found = [Finding(what=f"{what}: driver", state="fail", detail=reason, remedy="mend the driver")] if reason else []
    if real:
        return [*found, Finding(what=f"{what}: engines", state="ok", detail=", ".join(real))]
    remedy = 'pip install "helexa[llama]"'
    return [*found, Finding(what=f"{what}: engines", state="fail", detail="none for real models", remedy=remedy)]


def devices(what: str, discovery: Mapping[str, Any]) -> Finding:
    """Which devices models may use."""
    rows: list[dict[str, Any]] = discovery.get("devices") or []
    usable = [row for row in rows if row.get("vram_total_mb")]
    lost = [row["name"] for row in rows if not row.get("vram_total_mb")]
    names = ", ".join(f"{row['name']} ({row['vram_total_mb']} MiB)" for row in usable)
    if not usable or lost:
        detail = f"without memory: {', '.join(lost)}" if lost else "none"
        return Finding(what=what, state="fail", detail=detail, remedy="see `neuron discover`, and [[devices]]")
    return Finding(what=what, state="ok", detail=names)


def agreement(
    profiles: Iterable[Mapping[str, Any]], defaults: Iterable[Mapping[str, Any]], harnesses: set[str]
) -> list[Finding]:
    """Whether models.toml and neuron.toml say the same of a model, and every harness that is named is somewhere.

    A quantisation that only one of them names once had the other one's served, under the same name.
    """
    known = {str(profile["id"]): profile for profile in profiles}
    found = [finding for default in defaults for finding in _differences(default, known)]
    for name, profile in known.items():
        harness = profile.get("harness")
        if harness and harnesses and harness not in harnesses:
            detail = f"`{name}` wants the harness `{harness}`; the neurons have {', '.join(sorted(harnesses))}"
            remedy = "install it on a neuron, or leave `harness` out"
            found.append(Finding(what="models.toml", state="fail", detail=detail, remedy=remedy))
    return found or [Finding(what="models.toml and neuron.toml", state="ok", detail="agree")]


def _differences(default: Mapping[str, Any], profiles: Mapping[str, Mapping[str, Any]]) -> Iterable[Finding]:
    name = str(default["model_id"])
    profile = profiles.get(name)
    for key in ("quant", "context", "harness", "source", "tensor_parallel") if profile else ():
        one, other = default.get(key), (profile or {}).get(key)
        if one != other:
            detail = f"`{name}`: {key} is {one!r} in neuron.toml and {other!r} in models.toml"
            remedy = "say the same in both, or leave it out of neuron.toml and set preload = true in models.toml"
            yield Finding(what="models.toml and neuron.toml", state="fail", detail=detail, remedy=remedy)
