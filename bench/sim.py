"""Fleets that live through a made-up day: what each eviction strategy serves, how often it swaps, what one waits."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

from helexa.testing.sim.report import STRATEGIES, compare, table
from helexa.testing.sim.scenario import SCENARIOS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenarios", nargs="*", default=list(SCENARIOS), help=", ".join(SCENARIOS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hours", type=float, help="how long the day is; each scenario has its own")
    parser.add_argument("--strategy", nargs="*", choices=STRATEGIES, default=STRATEGIES)
    parser.add_argument("--quick", action="store_true", help="one hour of the small fleets")
    options = parser.parse_args()
    if options.quick:
        options.scenarios, options.hours = ["small", "talks"], 1.0
    for name in options.scenarios:
        scenario = replace(SCENARIOS[name], seed=options.seed)
        if options.hours:
            scenario = replace(scenario, lasts_s=options.hours * 3600)
        begun = time.monotonic()
        outcomes = compare(scenario, options.strategy)
        print(f"\n{name}: {scenario.nodes} nodes, {scenario.models} models, seed {scenario.seed}", end="")
        print(f", {scenario.lasts_s / 3600:g} h played in {time.monotonic() - begun:.0f} s")
        print(table(outcomes), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
