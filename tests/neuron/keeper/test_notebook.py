"""The file of measurements: whole or absent, and never a reason not to start."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from helexa.neuron.core.measured import Circumstances
from helexa.neuron.keeper import Notebook

OF = Circumstances(
    model_id="m", weights="m.gguf", weight_bytes=1, context=512, slots=1, options="{}", engine="llama 1",
    device_kind="cpu",
)  # fmt: skip


def test_what_was_noted_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "not" / "there" / "measured.json"
    Notebook(path).note(OF, 100, 120)
    assert Notebook(path).measurements().needed_mb(OF) == 120
    assert [each.name for each in path.parent.iterdir()] == ["measured.json"]


def test_without_a_path_it_lasts_for_the_run() -> None:
    notebook = Notebook()
    notebook.note(OF, 100, 120)
    assert notebook.measurements().needed_mb(OF) == 120


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'[{"of":{}}]', b"[]"])
def test_a_file_that_cannot_be_read_is_an_empty_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "measured.json"
    path.write_bytes(content)
    notebook = Notebook(path)
    assert not notebook.measurements().kept
    notebook.note(OF, 1, 2)
    assert Notebook(path).measurements().needed_mb(OF) == 2


def test_a_disk_that_takes_nothing_loses_the_file_and_not_the_measurement(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_bytes(b"a file where a folder should be")
    notebook = Notebook(tmp_path / "state" / "measured.json")
    notebook.note(OF, 1, 2)
    assert notebook.measurements().needed_mb(OF) == 2
    assert "lost with this run" in caplog.text


def test_the_file_is_json_that_a_person_can_read(tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    Notebook(path).note(OF, 100, 120)
    (row,) = msgspec.json.decode(path.read_bytes())
    assert (row["of"]["model_id"], row["predicted_mb"], row["measured_mb"]) == ("m", 100, [120])
