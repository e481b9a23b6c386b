"""`cortex bench`: what it makes of the answers it had, and what it refuses."""

from __future__ import annotations

import pytest

from helexa.cli import cortex
from helexa.cli.bench import weighed
from helexa.cli.talk import Score

from .run import run


def answered(began: float, first: float | None, last: float, tokens: int) -> Score:
    score = Score()
    score.began, score.first, score.last = began, first, last
    score.usage = {"completion_tokens": tokens, "prompt_tokens": 10}
    return score


def test_streams_at_once_are_summed_over_the_time_that_they_took_together() -> None:
    level = weighed([answered(0.0, 1.0, 5.0, 41), answered(0.0, 3.0, 5.0, 9)])
    assert (level.streams, level.tokens, level.prompt_tokens) == (2, 50, 20)
    assert level.tokens_per_s == 10.0
    assert level.tokens_per_s_each == 7.0
    assert (level.ttft_median_s, level.ttft_worst_s) == (2.0, 3.0)


def test_answers_without_a_token_have_no_speed() -> None:
    level = weighed([answered(0.0, None, 0.0, 0)])
    assert (level.tokens_per_s, level.tokens_per_s_each, level.ttft_worst_s) == (0.0, None, None)


@pytest.mark.parametrize("streams", ["", "0", "1,,2", "many", "257", "-1", "1.5"])
def test_a_list_of_streams_that_is_none_is_refused(streams: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cortex.main, "bench", "any", f"--streams={streams}") == 2
    assert "1,4,8" in capsys.readouterr().err


def test_a_bench_without_a_gateway_says_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORTEX_URL", "http://127.0.0.1:9")
    assert run(cortex.main, "bench") == 1
    assert "cortex up" in capsys.readouterr().err
