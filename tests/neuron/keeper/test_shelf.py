"""Where KV caches wait for their model: one folder a plan, and never more than the budget."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from helexa.base.units import MIB
from helexa.neuron.core.plan import LoadPlan, Share
from helexa.neuron.keeper.shelf import Shelf

PLAN = LoadPlan(
    model_id="m",
    harness="llama",
    format="gguf",
    source=None,
    files=(),
    shares=(Share(device=0, weights_mb=100, kv_mb=16),),
    context=1024,
    slots=2,
    warmth="memory",
)
FILES = ("/models/m.gguf",)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "kv", 10)


def test_a_plan_has_one_private_folder_whenever_it_is_executed(shelf: Shelf) -> None:
    folder, _ = shelf.place(PLAN, FILES)
    assert shelf.place(PLAN, FILES)[0] == folder
    assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "other", [replace(PLAN, context=2048), replace(PLAN, slots=1), replace(PLAN, options={"cache_type_k": "q8_0"})]
)
def test_a_cache_of_another_shape_is_never_taken_for_this_one(shelf: Shelf, other: LoadPlan) -> None:
    assert shelf.place(other, FILES)[0] != shelf.place(PLAN, FILES)[0]


def test_other_weights_have_another_folder(shelf: Shelf) -> None:
    assert shelf.place(PLAN, ("/models/n.gguf",))[0] != shelf.place(PLAN, FILES)[0]


def test_the_budget_in_tokens_is_that_in_bytes_over_what_a_token_takes(shelf: Shelf) -> None:
    assert shelf.place(PLAN, FILES)[1] == 10 * 2048 // 16


def test_a_model_without_a_cache_of_its_own_gets_no_folder(shelf: Shelf) -> None:
    assert shelf.place(replace(PLAN, shares=(Share(device=0, weights_mb=100),)), FILES) == ("", 0)


def test_what_was_written_the_longest_time_ago_goes_first(shelf: Shelf) -> None:
    folders = [Path(shelf.place(replace(PLAN, context=context), FILES)[0]) for context in (256, 512, 1024)]
    for age, folder in zip((30, 10, 20), folders, strict=True):
        (folder / "0.kv").write_bytes(bytes(4 * MIB))
        os.utime(folder / "0.kv", (1000 - age, 1000 - age))
    shelf.prune()
    assert [(folder / "0.kv").exists() for folder in folders] == [False, True, True]
    assert folders[0].is_dir()


def test_nothing_is_kept_once_it_was_cleared(shelf: Shelf) -> None:
    folder, _ = shelf.place(PLAN, FILES)
    (Path(folder) / "0.kv").write_bytes(b"x")
    shelf.clear()
    assert not Path(folder).exists()
