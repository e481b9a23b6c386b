"""Shells complete every word and option."""

from __future__ import annotations

from pathlib import Path

import pytest

from helexa.cli import cortex, neuron

from .run import run


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_words_of_both_programs_are_completed(shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # its start-up files get a line
    for program, words in ((cortex, cortex.COMMANDS), (neuron, neuron.COMMANDS)):
        script = tmp_path / program.app.name[0]
        assert run(program.main, "--install-completion", "--shell", shell, "--output", str(script)) == 0
        assert all(word in script.read_text() for word in (*words, "json"))
