"""The planner's laws, 20,000 courses of events long.

`LAWS_SEED=n` plays others than usual; `LAWS_CASES=n` plays fewer.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from .test_laws import Laws


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_laws_hold_in_twenty_thousand_courses_of_events(capsys: pytest.CaptureFixture[str]) -> None:
    number = int(os.environ.get("LAWS_SEED") or 1)
    cases = int(os.environ.get("LAWS_CASES") or 20_000)
    with capsys.disabled():
        print(f"\nlaws of the planner: {cases:,} cases, LAWS_SEED={number}")
    seeded = seed(number)(type("SeededLaws", (Laws,), {}))
    rules = settings(
        max_examples=cases,
        stateful_step_count=20,
        deadline=None,
        database=None,
        print_blob=True,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(seeded, settings=rules)
