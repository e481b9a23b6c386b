"""For every test: no state outside the run's own folder, and property tests that a busy machine does not fail and that
ask the same in every run; `--hypothesis-profile=search` has them draw anew."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("search", suppress_health_check=[HealthCheck.too_slow], deadline=None, derandomize=False)
settings.register_profile("helexa", settings.get_profile("search"), derandomize=True)
settings.load_profile("helexa")


@pytest.fixture(autouse=True, scope="session")
def _own_state(tmp_path_factory: pytest.TempPathFactory):
    """What is measured in a run must not change what the next one predicts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield
