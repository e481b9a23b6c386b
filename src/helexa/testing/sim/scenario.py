"""What a simulated day holds, drawn from a seed before it begins, so that every strategy lives through the same day."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A fleet, its catalogue, its traffic and its misfortunes. Times are seconds, sizes MiB."""

    name: str
    nodes: int
    models: int
    memory_mib: tuple[int, ...] = (8_192, 12_288, 16_384, 24_576)
    """Memory of a device; each node draws one size for all of its devices."""
    devices: tuple[int, ...] = (1, 1, 2)
    model_mib: tuple[int, ...] = (1_200, 2_500, 4_500, 5_500, 8_000)
    lasts_s: float = 4 * 3600.0
    requests_per_s: float = 1.0
    zipf: float = 1.0
    """The n-th most popular model is asked for in proportion to n to the power of minus this."""
    talk: float = 1.0
    """Mean number of requests that a client makes of the model it chose; 1: each request stands alone."""
    thinks_s: float = 30.0
    """Mean time between two requests of one client."""
    drift_every_s: float = 900.0
    drift_share: float = 0.05
    """Every so often this share of the models trade their popularity."""
    serves_s: float = 4.0
    load_s_per_gib: float = 1.0
    slow_loads: float = 0.05
    """Share of loads that take five times as long."""
    failed_loads: float = 0.01
    deaths_per_node_hour: float = 0.05
    away_s: float = 120.0
    max_wait_s: float = 120.0
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    at: float
    model: str
    serves_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """A node that goes at `at` and is back, empty, at `back`."""

    at: float
    back: float
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Everything that happens whatever the planner does."""

    memory: dict[str, tuple[int, ...]]
    sizes: dict[str, int]
    requests: tuple[Request, ...]
    deaths: tuple[Death, ...]
    popularity: tuple[tuple[float, dict[str, float]], ...]
    """From when on each model was asked for how often, in requests per second: what no gateway ever knows."""


def draw(scenario: Scenario) -> Trace:
    """The trace of a scenario: the same for the same seed."""
    dice = random.Random(f"{scenario.seed}/{scenario.name}")
    memory = {f"node-{i:04}": _machine(scenario, dice) for i in range(scenario.nodes)}
    largest = max(max(devices) for devices in memory.values())
    kinds = [mib for mib in scenario.model_mib if mib <= largest]
    sizes = {f"model-{i:04}": int(dice.choice(kinds) * dice.uniform(0.8, 1.0)) for i in range(scenario.models)}
    requests, popularity = _requests(scenario, list(sizes), dice)
    return Trace(
        memory=memory,
        sizes=sizes,
        requests=tuple(requests),
        deaths=tuple(_deaths(scenario, list(memory), dice)),
        popularity=tuple(popularity),
    )


def _machine(scenario: Scenario, dice: random.Random) -> tuple[int, ...]:
    return (dice.choice(scenario.memory_mib),) * dice.choice(scenario.devices)


Popularity = list[tuple[float, dict[str, float]]]


def _requests(scenario: Scenario, models: list[str], dice: random.Random) -> tuple[list[Request], Popularity]:
    """Clients that come as a Poisson process, each for a model of Zipf popularity, which drifts."""
    weights = [(rank + 1) ** -scenario.zipf for rank in range(len(models))]
    steps = list(accumulate(weights))
    rates = [weight / steps[-1] * scenario.requests_per_s for weight in weights]
    dice.shuffle(models)
    requests: list[Request] = []
    popularity: Popularity = [(0.0, dict(zip(models, rates, strict=True)))]
    now = 0.0
    while (now := now + dice.expovariate(scenario.requests_per_s / scenario.talk)) < scenario.lasts_s:
        if now > popularity[-1][0] + scenario.drift_every_s:
            _drift(models, scenario.drift_share, dice)
            popularity.append((now, dict(zip(models, rates, strict=True))))
        model = models[bisect_right(steps, dice.random() * steps[-1])]
        requests += _talk(scenario, model, now, dice)
    return sorted(requests, key=lambda request: request.at), popularity


def _talk(scenario: Scenario, model: str, now: float, dice: random.Random) -> Iterator[Request]:
    """One client's requests: after each it goes on with the same chance, so that `talk` is their mean number."""
    while now < scenario.lasts_s:
        yield Request(at=now, model=model, serves_s=dice.expovariate(1 / scenario.serves_s))
        if scenario.talk <= 1 or dice.random() < 1 / scenario.talk:
            return
        now += dice.expovariate(1 / scenario.thinks_s)


def _drift(models: list[str], share: float, dice: random.Random) -> None:
    for _ in range(round(len(models) * share / 2)):
        one, other = dice.randrange(len(models)), dice.randrange(len(models))
        models[one], models[other] = models[other], models[one]


def _deaths(scenario: Scenario, nodes: list[str], dice: random.Random) -> list[Death]:
    rate = scenario.deaths_per_node_hour / 3600
    deaths: list[Death] = []
    for node in nodes if rate else ():
        now = dice.expovariate(rate)
        while now < scenario.lasts_s:
            back = now + scenario.away_s * dice.uniform(0.5, 2)
            deaths.append(Death(at=now, back=back, node=node))
            now = back + dice.expovariate(rate)
    return sorted(deaths, key=lambda death: death.at)


SMALL = Scenario(name="small", nodes=3, models=24, requests_per_s=0.4, zipf=1.1)
TALKS = replace(SMALL, name="talks", talk=8.0, requests_per_s=1.6)
MEDIUM = Scenario(name="medium", nodes=30, models=200, requests_per_s=4.0)
FORUM = replace(MEDIUM, name="forum", talk=8.0, requests_per_s=8.0)
LARGE = Scenario(
    name="large",
    nodes=1000,
    models=2000,
    memory_mib=(6_144, 8_192, 12_288),
    devices=(1,),
    model_mib=(3_000, 4_500, 5_500, 8_000, 11_000),
    requests_per_s=40.0,
    zipf=0.9,
    lasts_s=1200.0,
)
SCENARIOS = {scenario.name: scenario for scenario in (SMALL, TALKS, MEDIUM, FORUM, LARGE)}
