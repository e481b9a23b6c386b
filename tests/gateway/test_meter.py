"""What an answer cost is read off its end, and is what a reader of all of it would find."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.gateway.fleet.model import Fleet
from helexa.gateway.meter import MOST_OPEN, Books, Ended, Journey, Usage, usage_in
from helexa.gateway.metrics import Metrics

_KEYS = st.sampled_from(["usage", "timings", "id", "choices", "prompt_tokens", "completion_tokens", 'a "usage": {}'])
_LEAVES = st.one_of(st.none(), st.integers(0, 9), st.sampled_from(["", '"usage":{"prompt_tokens":7}', "usage"]))
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_KEYS, inner, max_size=4))
)


class _Whole(msgspec.Struct):
    usage: Usage | None = None


@given(st.dictionaries(_KEYS, _VALUES, max_size=5), st.sampled_from([None, (",", ":")]))
def test_usage_is_what_a_reader_of_the_whole_answer_finds(
    answer: dict[str, object], separators: tuple[str, str] | None
) -> None:
    answer.pop("timings", None)  # read where there is no usage: below
    document = json.dumps(answer, separators=separators).encode()
    try:
        expected = msgspec.json.decode(document, type=_Whole).usage
    except msgspec.DecodeError:
        expected = None
    assert usage_in(document) == expected


@pytest.mark.parametrize(
    "answer",
    [
        b'{"timings":{"prompt_n":3,"cache_n":2,"predicted_n":4},"usage":null}',
        b'{"usage":null,"timings":{"prompt_n":3,"cache_n":2,"predicted_n":4}}',
    ],
)
def test_where_no_usage_is_told_the_engines_own_count_is_taken(answer: bytes) -> None:
    found = usage_in(answer)
    assert found is not None
    assert (found.prompt_tokens, found.completion_tokens, found.cached) == (5, 4, 2)


@pytest.mark.parametrize("answer", [b"", b"{", b'"usage":', b'{"usage":{"prompt_tokens":1}', b"[" * 5000])
def test_an_answer_that_is_none_costs_nothing(answer: bytes) -> None:
    assert usage_in(answer) is None


def test_requests_that_have_ended_are_counted_and_told_together() -> None:
    metrics, told = Metrics(Fleet), list[Ended]()
    books = Books(metrics, told.extend)
    for status, error in ((200, None), (400, None), (200, "client_gone")):
        journey = Journey(1.0, "req_1", "d-1", "/v1/chat/completions", "m", False, model="m", node="n1")
        books.enter(journey, status, error, Usage(prompt_tokens=5, completion_tokens=2), 1.5)
    assert metrics.cell("m", "n1").requests == 0
    books.balance()
    books.balance()
    cell = metrics.cell("m", "n1")
    assert (cell.requests, cell.prompt_tokens, cell.errors) == (3, 15, {"http_400": 1, "client_gone": 1})
    assert [error for _, _, error, _, _ in told] == [None, "http_400", "client_gone"]


def test_books_do_not_grow_without_end() -> None:
    metrics = Metrics(Fleet)
    books = Books(metrics, lambda _: None)
    for _ in range(MOST_OPEN):
        books.enter(Journey(1.0, "r", "d", "/", "m", False, model="m", node="n1"), 200, None, None, 2.0)
    assert metrics.cell("m", "n1").requests == MOST_OPEN
