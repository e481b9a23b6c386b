"""Sizes and durations as people read them; reservations never smaller than what they hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.base.units import MIB, human_bytes, human_mib, human_seconds, mib


@given(st.integers(0, 2**60))
def test_whole_mib_hold_all_bytes_and_less_than_one_more(size: int) -> None:
    assert size <= mib(size) * MIB < size + MIB


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (98_362_432, "98.4 MB"), (5_200_000_000, "5.2 GB"), (7e15, "7000.0 TB")],
)
def test_files_are_shown_in_decimal_units(size: float, text: str) -> None:
    assert human_bytes(size) == text


@pytest.mark.parametrize(("size", "text"), [(0, "0 MiB"), (640, "640 MiB"), (1024, "1.0 GiB"), (24_000, "23.4 GiB")])
def test_memory_is_shown_in_binary_units(size: int, text: str) -> None:
    assert human_mib(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.314, "0.31 s"), (9.99, "9.99 s"), (12.4, "12 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations_are_as_long_as_they_need(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text
