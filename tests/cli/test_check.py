"""`cortex config check`: the file where a user would name it."""

from __future__ import annotations

from pathlib import Path

import pytest

from helexa.cli import cortex

from .run import run

ROOT = Path(__file__).parents[2]
EXAMPLE = str(ROOT / "examples" / "cortex.toml")


@pytest.mark.parametrize("words", [[EXAMPLE], ["--config", EXAMPLE], ["-c", EXAMPLE, "--json"]])
def test_a_good_file_is_told_of_however_it_is_named(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cortex.main, "config", "check", *words) == 0
    assert "neurons" in capsys.readouterr().out


def test_the_two_files_of_the_readme_are_good_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (ROOT / "README.md").read_text().partition("```toml\n")[2].partition("```")[0].splitlines()
    second = lines[0].index("# models.toml")
    (tmp_path / "cortex.toml").write_text("\n".join(line[:second] for line in lines))
    (tmp_path / "models.toml").write_text("\n".join(line[second:] for line in lines))
    assert run(cortex.main, "config", "check", str(tmp_path / "cortex.toml")) == 0
    told = capsys.readouterr().out
    assert "1 neuron, " in told
    assert "1 model, 0 aliases" in told


def test_a_file_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cortex.main, "config", "check", "nosuch.toml") == 1
    assert "nosuch.toml: cannot be read" in capsys.readouterr().err


def test_where_there_is_no_file_by_default_it_is_said_how_to_name_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("helexa.gateway.config.DEFAULT_PATH", tmp_path / "cortex.toml")
    for words in (["config", "check"], ["serve"]):
        assert run(cortex.main, *words) == 1
        assert f"there is no {tmp_path}/cortex.toml; name yours with --config" in capsys.readouterr().err
