"""Measurements: kept by their circumstances, bounded, and read off a load without counting anything twice."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from helexa.neuron.core.measured import (
    KEPT,
    Circumstances,
    Measurement,
    Measurements,
    circumstances,
    measured_mb,
    options_text,
)
from helexa.neuron.core.plan import LoadPlan, RemoteFile, Share

PLAN = LoadPlan(
    model_id="org/name", harness="llama", format="gguf", source=None, files=(RemoteFile(name="m.gguf", size_bytes=9),),
    shares=(Share(device=0, weights_mb=100, kv_mb=40, compute_mb=20, scratch_mb=8, copies_mb=(70, 90)),),
    context=2048, slots=4, warmth="disk", options={"ubatch": 64, "cache_type_k": "q8_0"}, engine="llama 1",
)  # fmt: skip
OF = circumstances(PLAN, "cpu")


def test_the_largest_of_the_last_three_counts() -> None:
    table = Measurements()
    for figure in (900, 500, 510, 490):
        table = table.noted(OF, 450, figure)
    assert table.needed_mb(OF) == 510


def test_the_last_time_counts_by_where_the_weights_were() -> None:
    table = Measurements().noted(OF, 450, 500, {"disk": 3.0}).noted(OF, 450, 500, {"memory": 0.5})
    table = table.noted(OF, 450, 500, {"disk": 2.0}).noted(OF, 450, 500)
    assert (table.load_s(OF, "disk"), table.load_s(OF, "memory"), table.load_s(OF, "cold")) == (2.0, 0.5, None)


def test_any_other_circumstance_is_another_measurement() -> None:
    table = Measurements().noted(OF, 450, 500)
    others = [
        circumstances(replace(PLAN, **change), "cpu")
        for change in (
            {"context": 4096},
            {"slots": 1},
            {"engine": "llama 2"},
            {"options": {}},
            {"model_id": "org/other"},
            {"files": (RemoteFile(name="m.gguf", size_bytes=10),)},
        )
    ]
    assert [table.needed_mb(other) for other in (*others, circumstances(PLAN, "cuda"))] == [None] * 7


def test_the_order_of_options_and_the_slots_among_them_do_not_matter() -> None:
    assert options_text({"b": 1, "a": {"y": 1, "x": 2}, "slots": 4}) == options_text({"a": {"x": 2, "y": 1}, "b": 1})


@given(st.integers(0, 2 * KEPT))
def test_there_are_never_more_than_so_many_and_the_oldest_go_first(count: int) -> None:
    table = Measurements.of(
        Measurement(of=msgspec.structs.replace(OF, model_id=str(at)), predicted_mb=1, measured_mb=(1,))
        for at in range(count)
    )
    assert [of.model_id for of in table.kept] == [str(at) for at in range(max(0, count - KEPT), count)]


def test_a_measurement_survives_its_file() -> None:
    table = Measurements().noted(OF, 450, 500).noted(msgspec.structs.replace(OF, context=1), 1, 2)
    written = msgspec.json.encode(list(table.kept.values()))
    assert Measurements.of(msgspec.json.decode(written, type=list[Measurement])) == table


def test_rows_without_a_sensible_figure_are_left_out() -> None:
    rows = [Measurement(of=OF, predicted_mb=1, measured_mb=figures) for figures in ((), (0,), (5, -1))]
    assert not Measurements.of(rows).kept


def test_mapped_weights_are_added_and_scratch_memory_that_is_not_touched_yet() -> None:
    assert measured_mb(PLAN.shares[0], 55, mapped=True) == 100 + 55 + 8


def test_a_copy_of_the_weights_in_another_layout_counts_once() -> None:
    assert measured_mb(PLAN.shares[0], 55 + 70, mapped=True) == 100 + 55 + 8
    assert measured_mb(PLAN.shares[0], 55 + 90, mapped=True) == 100 + 55 + 8


def test_weights_that_are_not_mapped_are_in_the_measurement_already() -> None:
    assert measured_mb(PLAN.shares[0], 155, mapped=False) == 163


SIZES = st.integers(0, 10**5)


@given(SIZES, SIZES, SIZES, SIZES, st.lists(SIZES, max_size=3), st.booleans())
def test_a_measurement_is_never_less_than_the_mapped_weights(
    weights: int, kv: int, compute: int, used: int, copies: list[int], mapped: bool
) -> None:
    share = Share(device=0, weights_mb=weights, kv_mb=kv, compute_mb=compute, copies_mb=tuple(copies))
    assert measured_mb(share, used, mapped=mapped) >= (weights if mapped else used)


def test_circumstances_are_plain_data() -> None:
    assert msgspec.json.decode(msgspec.json.encode(OF), type=Circumstances) == OF
