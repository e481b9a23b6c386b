"""The catalogue: what the fleet could serve, what it serves, and under which names.

`GET /v1/models` = (profiles x feasibility) + (whatever is loaded anywhere) + aliases. An infeasible model is listed
too, with the reason.
"""

from __future__ import annotations

import difflib
import fnmatch
from bisect import bisect
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from helexa.base.errors import UnknownModel
from helexa.base.words import counted, together
from helexa.gateway.config import Cost, ModelsFile, Profile
from helexa.gateway.fleet.model import Fleet, Place, Status

OWNER = "helexa"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a node could serve a model, totals only: the planner's judgement, as the catalogue needs it.

    `why` tells the reason when it cannot, or when its last load failed; it is asked only where that is shown.
    """

    node: str
    feasible: bool
    why: Callable[[], str]
    needed_mb: int = 0
    failed: bool = False


SHOWN = 16
"""How many nodes' reasons are told of one model."""
COMPARED = 400
"""A name that nobody has is compared with so many that begin like it: with 10,000 it took 100 ms, which all streams
waited."""
Judge = Callable[[str], list[Verdict]]
"""model id -> one verdict a node."""


class Names:
    """Aliases: exact first, then globs in the order of the file."""

    def __init__(self, file: ModelsFile) -> None:
        self._exact = {alias: target for alias, target in file.aliases.items() if not _is_glob(alias)}
        self._globs = [(alias, target) for alias, target in file.aliases.items() if _is_glob(alias)]

    def resolve(self, fleet: Fleet, asked: str) -> str:
        """The model id behind a name. Raises UnknownModel, which names the nearest ids."""
        if asked in fleet.places or asked in fleet.profiles:
            return asked
        target = self._exact.get(asked) or next(
            (t for glob, t in self._globs if fnmatch.fnmatchcase(asked, glob)), None
        )
        if target is not None and (target in fleet.profiles or target in fleet.places):
            return target
        raise UnknownModel(model=asked, hint=self._hint(fleet, asked, target))

    def _hint(self, fleet: Fleet, asked: str, target: str | None) -> str:
        if target is not None:
            return f"It is an alias of `{target}`, which does not exist either."
        models = {*fleet.profiles, *fleet.places}
        known = sorted(models | {alias for alias, meant in self._exact.items() if meant in models})
        at = max(0, bisect(known, asked) - COMPARED // 2)
        near = difflib.get_close_matches(asked, known[at : at + COMPARED], n=3, cutoff=0.4) or known[:5]
        return (
            f"Nearest: {', '.join(near)}." if near else "The catalogue is empty: no models.toml entry, nothing loaded."
        )

    def of(self, model: str) -> list[str]:
        return sorted(alias for alias, target in (*self._exact.items(), *self._globs) if target == model)

    def shown(self) -> dict[str, str]:
        """Aliases that are listed as entries of their own; a glob is no id that one could ask for."""
        return self._exact


def _is_glob(text: str) -> bool:
    return any(sign in text for sign in "*?[")


def listing(fleet: Fleet, names: Names, judge: Judge, created: int) -> list[dict[str, Any]]:
    """All entries, models by id and then aliases."""
    models = sorted({*fleet.profiles, *fleet.places})
    entries = {model: entry(fleet, names, judge, model, created) for model in models}
    for alias, target in sorted(names.shown().items()):
        if target in entries and alias not in entries:
            entries[alias] = {**entries[target], "id": alias, "alias_of": target, "aliases": []}
    return list(entries.values())


def entry(fleet: Fleet, names: Names, judge: Judge, model: str, created: int) -> dict[str, Any]:
    """One model as `/v1/models` shows it. What is not known is left out rather than guessed."""
    profile = fleet.profiles.get(model)
    places = [_as_reached(fleet, place) for place in fleet.places.get(model, {}).values()]
    verdicts = judge(model)
    needed = {verdict.node: verdict.needed_mb for verdict in verdicts}
    status = _status(places, verdicts)
    shown: dict[str, Any] = {
        "id": model,
        "object": "model",
        "created": created,
        "owned_by": OWNER,
        "loaded": any(place.status is Status.LOADED for place in places),
        "status": status,
        "feasible_on": [verdict.node for verdict in verdicts if verdict.feasible],
        "locations": [_location(place, needed.get(place.node)) for place in places],
        "capabilities": _capabilities(profile, places),
        "aliases": names.of(model),
    }
    return (
        shown
        | _reason(status, verdicts, places)
        | _loading(places)
        | _limits(profile, places)
        | _facts(fleet, profile, model)
    )


def _as_reached(fleet: Fleet, place: Place) -> Place:
    """What is on a node that does not answer may be there or not; nobody can use it."""
    node = fleet.nodes[place.node]
    if node.healthy:
        return place
    return replace(place, status=Status.UNREACHABLE, servable=False, reason=node.problem or "the node is unhealthy")


def _status(places: list[Place], verdicts: list[Verdict]) -> str:
    found = {place.status for place in places}
    if any(place.status is Status.LOADED and place.servable for place in places):
        return "loaded"
    if Status.LOADING in found:
        return "loading"
    if found & {Status.RECOVERING, Status.POISONED}:
        return "recovering"
    if any(verdict.failed for verdict in verdicts):
        return "failed"
    if verdicts and not any(verdict.feasible for verdict in verdicts):
        return "infeasible"
    return "cold"


def _location(place: Place, needed_mb: int | None) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "node": place.node,
        "status": str(place.status),
        "vram_estimate_mb": sum(place.shares.values()) or needed_mb or None,
    }
    more = {"harness": place.harness, "harness_reason": place.harness_reason, "pinned": place.pinned}
    return shown | {name: told for name, told in more.items() if told}


def _reason(status: str, verdicts: list[Verdict], places: list[Place]) -> dict[str, Any]:
    told = [(place.node, place.reason) for place in places if not place.servable and place.reason]
    more = 0
    if status in ("infeasible", "failed"):
        against = [verdict for verdict in verdicts if not verdict.feasible or verdict.failed]
        told += [(verdict.node, verdict.why()) for verdict in against[:SHOWN]]
        more = max(0, len(against) - SHOWN)
    others = f"; and so on for {counted(more, 'more node')}" if more else ""
    return {"reason": together(told) + others} if told else {}


def _loading(places: list[Place]) -> dict[str, Any]:
    for place in places:
        if place.coming and place.loading is not None:
            return {"loading": place.loading.told()}
    return {}


def _limits(profile: Profile | None, places: list[Place]) -> dict[str, Any]:
    context = _tightest([profile.limit.context if profile else None, *(place.context for place in places)])
    if context is None and profile is not None and isinstance(profile.context, int):
        context = profile.context
    output = _tightest([profile.limit.output if profile else None, *(place.max_output for place in places)])
    shown: dict[str, Any] = {}
    if context:
        shown |= {"context_length": context, "max_model_len": context}
    if output:
        shown["max_output_tokens"] = output
    if context and output:
        shown["limit"] = {"context": context, "output": output}
    return shown


def _tightest(limits: list[int | None]) -> int | None:
    return min((limit for limit in limits if limit), default=None)


def _capabilities(profile: Profile | None, places: list[Place]) -> list[str]:
    found = {capability for place in places for capability in place.capabilities}
    return sorted(found or set(profile.capabilities if profile else ()) or {"text"})


def _facts(fleet: Fleet, profile: Profile | None, model: str) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    habit = fleet.habits.get(model)
    if habit is not None and habit.load_s is not None:
        shown["expected_load_s"] = round(habit.load_s, 2)
    if profile is not None and profile.cost != Cost():
        cost: dict[str, Any] = msgspec.to_builtins(profile.cost)
        shown["cost"] = {name: value for name, value in cost.items() if value is not None}
    return shown
