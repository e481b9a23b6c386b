"""What a model is worth keeping, how it has been used, and the order of all that are somewhere: `Fleet.ranking`."""

from __future__ import annotations

import math
from bisect import bisect_left, insort

from msgspec.structs import replace

from helexa.gateway.fleet.model import Fleet, Habit

RATE_WINDOW_S = 600.0
"""Time constant of a model's request rate: what happened this long ago counts 1/e."""
GUESSED_LOAD_S_PER_GIB = 2.0
"""Restoring a model that was never timed: seconds for each GiB it holds."""
GUESSED_MIB = 4096
SWAP_S = 20.0
"""What a swap costs beside the load itself, in seconds: queues, cold caches, the chance that it fails."""
DEFAULT_RANK = 100


def worth(fleet: Fleet, model: str) -> tuple[float, float, str]:
    """The eviction strategy's order of models, the least worth keeping first.

    Kept in the habit. It changes only when the model is asked for or timed, never by itself, so it can stand in a
    sorted index: all rates decay alike, so the order of two rates is the order of ln(rate) + at / window at any time.
    """
    habit = fleet.habits.get(model)
    if habit is not None and habit.worth is not None:
        return habit.worth
    last = habit.at if habit else -math.inf
    if fleet.eviction.strategy == "lru":
        return last, 0.0, model
    if fleet.eviction.strategy == "priority":
        profile = fleet.profiles.get(model)
        return float(profile.residency_priority if profile else DEFAULT_RANK), last, model
    if habit is None or habit.rate <= 0:
        return -math.inf, restore_s(fleet, model), model
    lost_per_mib = restore_s(fleet, model) * habit.rate / max(1, _mib(fleet, model))
    return math.log(lost_per_mib) + habit.at / RATE_WINDOW_S, 0.0, model


def _mib(fleet: Fleet, model: str) -> int:
    """What it holds where it is, else what its profile says."""
    for place in fleet.places.get(model, {}).values():
        return sum(place.shares.values())
    profile = fleet.profiles.get(model)
    return profile.vram_mb if profile and profile.vram_mb is not None else GUESSED_MIB


def restore_s(fleet: Fleet, model: str) -> float:
    """Seconds to bring the model back, measured or guessed from its size, and what else a swap costs."""
    habit, profile = fleet.habits.get(model), fleet.profiles.get(model)
    if habit is not None and habit.load_s is not None:
        return SWAP_S + habit.load_s
    mib = profile.vram_mb if profile and profile.vram_mb is not None else GUESSED_MIB
    return SWAP_S + GUESSED_LOAD_S_PER_GIB * mib / 1024


def with_habit(fleet: Fleet, model: str, habit: Habit) -> Fleet:
    """A changed habit, and the model's new rank among those that are somewhere."""
    return with_habits(fleet, {model: habit})


def with_habits(fleet: Fleet, changed: dict[str, Habit]) -> Fleet:
    """Several at once: the habits and the ranking are copied only once."""
    before = [worth(fleet, model) for model in changed if model in fleet.places]
    habits = {**fleet.habits, **changed}
    known = replace(fleet, habits=habits)
    for model, habit in changed.items():
        habits[model] = replace(habit, worth=habit.worth or worth(known, model))
    ranking = fleet.ranking.copy() if before else fleet.ranking
    for old in before:
        del ranking[bisect_left(ranking, old)]
        insort(ranking, worth(known, old[-1]))
    return replace(fleet, habits=habits, ranking=ranking)


def touched(habit: Habit, now: float, times: int = 1) -> Habit:
    """More requests: r <- r·e^(-dt/W) + n/W, so that a steady stream of r per second tends to r."""
    return Habit(rate=rate_now(habit, now) + times / RATE_WINDOW_S, at=now, load_s=habit.load_s)


def rate_now(habit: Habit, now: float) -> float:
    return habit.rate * math.exp(min(0.0, habit.at - now) / RATE_WINDOW_S)


def ranked(fleet: Fleet) -> Fleet:
    """All of the ranking anew: what decides a model's worth has changed."""
    habits = {model: replace(habit, worth=worth(fleet, model)) for model, habit in fleet.habits.items()}
    fleet = replace(fleet, habits=habits)
    return replace(fleet, ranking=sorted(worth(fleet, model) for model in fleet.places))
