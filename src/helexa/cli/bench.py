"""`cortex bench`: what a model gives through the whole chain, at one stream and at several."""

from __future__ import annotations

import statistics
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter, validators

from helexa.cli.link import AsJson, Endpoint
from helexa.cli.say import as_json, fail, table
from helexa.cli.talk import Score, first_model, stream

COLUMNS = ("STREAMS", "TOK/S", "TOK/S EACH", "TTFT MEDIAN", "TTFT WORST", "TOKENS", "PROMPT TOKENS")
MOST_STREAMS = 256
Positive = Annotated[int, Parameter(validator=validators.Number(gte=1))]


class Level(msgspec.Struct, frozen=True):
    """One number of streams at once. `tokens_per_s` is their sum from the first request to the last token."""

    streams: int
    tokens_per_s: float
    tokens_per_s_each: float | None
    ttft_median_s: float | None
    ttft_worst_s: float | None
    tokens: int
    prompt_tokens: int


def bench(
    model: Annotated[str | None, Parameter(help="A model id or alias; the first loaded model when not given.")] = None,
    *,
    streams: str = "1,4,8",
    max_tokens: Positive = 128,
    words: Positive = 30,
    endpoint: Endpoint = None,
    json: AsJson = False,
) -> None:
    """Measure a model through the whole chain: tokens per second and time to first token.

    A first request, which is not counted, loads the model. No two prompts start alike, so that no cache answers.

    Parameters
    ----------
    streams
        How many at once, one measurement each.
    max_tokens
        The length of an answer; a model may end earlier.
    words
        The length of a prompt.
    """
    levels = _levels(streams)
    chosen = model or first_model(endpoint)
    body = {"model": chosen, "max_tokens": max_tokens, "temperature": 0.0}
    _answer(endpoint, {**body, "max_tokens": 1}, words)
    found = [_level(endpoint, body, words, count) for count in levels]
    if json:
        as_json({"model": chosen, "max_tokens": max_tokens, "words": words, "levels": found})
    else:
        table(chosen, COLUMNS, [_row(level) for level in found])


def _levels(streams: str) -> Sequence[int]:
    parts = [part.strip() for part in streams.split(",")]
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= MOST_STREAMS for part in parts):
        fail(f"--streams takes a list like 1,4,8, each from 1 to {MOST_STREAMS}; not {streams!r}", status=2)
    return [int(part) for part in parts]


def _level(endpoint: str | None, body: dict[str, Any], words: int, count: int) -> Level:
    with ThreadPoolExecutor(count) as pool:
        asked = [pool.submit(_answer, endpoint, body, words) for _ in range(count)]
        return weighed([answer.result() for answer in asked])


def weighed(scores: Sequence[Score]) -> Level:
    """What several answers given at once come to."""
    tokens = sum(score.tokens for score in scores)
    took = max(score.last for score in scores) - min(score.began for score in scores)
    waits = [score.ttft_s for score in scores if score.ttft_s is not None]
    each = [score.tokens_per_s for score in scores if score.tokens_per_s is not None]
    return Level(
        streams=len(scores),
        tokens_per_s=tokens / took if took > 0 else 0.0,
        tokens_per_s_each=statistics.median(each) if each else None,
        ttft_median_s=statistics.median(waits) if waits else None,
        ttft_worst_s=max(waits, default=None),
        tokens=tokens,
        prompt_tokens=sum(int(score.usage.get("prompt_tokens", 0)) for score in scores),
    )


def _answer(endpoint: str | None, body: dict[str, Any], words: int) -> Score:
    """One answer, thrown away; what it cost."""
    prompt = f"{uuid.uuid4().hex} " + "Tell a long story. " * (words // 4 + 1)
    score = Score()
    for _ in stream(endpoint, {**body, "messages": [{"role": "user", "content": prompt}]}, score):
        pass
    return score


def _row(level: Level) -> list[str]:
    return [
        str(level.streams),
        f"{level.tokens_per_s:.1f}",
        _shown(level.tokens_per_s_each, "{:.1f}"),
        _shown(level.ttft_median_s, "{:.3f} s"),
        _shown(level.ttft_worst_s, "{:.3f} s"),
        str(level.tokens),
        str(level.prompt_tokens),
    ]


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
