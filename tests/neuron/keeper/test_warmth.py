"""Weights are read ahead of their load, while memory allows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helexa.base.units import MIB
from helexa.neuron.keeper.warmth import read_ahead
from helexa.neuron.sources.disk import warmth_of
from tests.neuron.helpers import until


def weights(folder: Path, name: str, mib: int = 8) -> Path:
    """A file on disk that is not in the page cache."""
    path = folder / name
    with path.open("wb") as file:
        file.write(os.urandom(mib * MIB))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if warmth_of([path]) != "disk":
        pytest.skip("this file system keeps its files in memory")
    return path


async def test_what_is_read_ahead_is_in_memory_soon_after(tmp_path: Path) -> None:
    path = weights(tmp_path, "a")
    assert read_ahead([str(path)]) == 8 * MIB
    await until(lambda: warmth_of([path]) == "memory")


def test_no_more_is_read_than_fits(tmp_path: Path) -> None:
    first, second = weights(tmp_path, "a"), weights(tmp_path, "b")
    assert read_ahead([str(first), str(second)], available_mb=12) == 8 * MIB
    assert warmth_of([second]) == "disk"


def test_a_file_that_is_gone_is_no_reason_to_fail(tmp_path: Path) -> None:
    assert read_ahead([str(tmp_path / "none")]) == 0
