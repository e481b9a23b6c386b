"""One trace under several strategies, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from helexa.testing.sim.play import Simulation, Strategy, Tally
from helexa.testing.sim.scenario import Scenario, draw

STRATEGIES: tuple[Strategy, ...] = ("lru", "priority", "cost", "informed", "belady")
_HEAD = (
    "strategy",
    "asked",
    "served",
    "refused",
    "gave up",
    "broken",
    "cold",
    "loads/h",
    "swaps/h",
    "of belady",
    "wait p50",
    "p99",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A strategy's day."""

    strategy: Strategy
    scenario: Scenario
    tally: Tally

    @property
    def swaps_per_hour(self) -> float:
        return self.tally.swaps * 3600 / self.scenario.lasts_s

    @property
    def loads_per_hour(self) -> float:
        return self.tally.loads * 3600 / self.scenario.lasts_s

    def wait_s(self, share: float) -> float:
        """The wait that this share of the served requests did not exceed."""
        waits = sorted(self.tally.waits_s)
        return waits[min(len(waits) - 1, int(share * len(waits)))] if waits else 0.0


def compare(scenario: Scenario, strategies: Sequence[Strategy] = STRATEGIES) -> dict[Strategy, Outcome]:
    """The same trace under each of the strategies."""
    trace = draw(scenario)
    return {
        strategy: Outcome(strategy=strategy, scenario=scenario, tally=Simulation(scenario, trace, strategy).run())
        for strategy in strategies
    }


def table(outcomes: dict[Strategy, Outcome]) -> str:
    """Plain columns. `of belady` is the ratio of swaps."""
    best = outcomes["belady"].tally.swaps if "belady" in outcomes else 0
    rows = [_HEAD, *(_row(outcome, best) for outcome in outcomes.values())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _row(outcome: Outcome, best: int) -> tuple[str, ...]:
    tally = outcome.tally
    return (
        outcome.strategy,
        f"{tally.asked:,}",
        f"{tally.served / max(1, tally.asked):.2%}",
        f"{sum(tally.refused.values())}",
        f"{tally.gave_up}",
        f"{tally.broken}",
        f"{tally.cold / max(1, tally.asked):.1%}",
        f"{outcome.loads_per_hour:,.0f}",
        f"{outcome.swaps_per_hour:,.0f}",
        f"{tally.swaps / best:.2f}" if best else "-",
        f"{outcome.wait_s(0.5):.1f} s",
        f"{outcome.wait_s(0.99):.1f} s",
    )
