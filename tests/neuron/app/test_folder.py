"""Sockets have a private place, and a killed daemon's is cleared up by the next one."""

from __future__ import annotations

import fcntl
import pwd
import stat
from pathlib import Path
from typing import Any

import pytest

from helexa.base.errors import ConfigError
from helexa.neuron.app.folder import PREFIX, private_folder, socket_folder, state_folder
from helexa.neuron.sources.disk import cache_root


def test_the_folder_is_private_and_goes_with_its_owner(tmp_path: Path) -> None:
    with socket_folder({"XDG_RUNTIME_DIR": str(tmp_path)}) as folder:
        assert folder.parent == tmp_path
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(tmp_path.iterdir()) == []


def test_an_abandoned_folder_is_removed_and_a_living_one_is_not(tmp_path: Path) -> None:
    abandoned = tmp_path / f"{PREFIX}dead"
    abandoned.mkdir()
    (abandoned / "lock").touch()
    starting = tmp_path / f"{PREFIX}starting"
    starting.mkdir()
    with (
        socket_folder({"XDG_RUNTIME_DIR": str(tmp_path)}) as living,
        socket_folder({"XDG_RUNTIME_DIR": str(tmp_path)}) as second,
    ):
        assert living.exists()
        assert second.exists()
        assert starting.exists()
        assert not abandoned.exists()


def test_a_folder_with_too_long_a_path_for_sockets_is_refused_at_start(tmp_path: Path) -> None:
    """Every load failed in it, and none could say why."""
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    with pytest.raises(ConfigError, match="TMPDIR to a shorter folder"), socket_folder({"XDG_RUNTIME_DIR": str(deep)}):
        pass
    assert list(deep.iterdir()) == []


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service without $HOME once could not download anything, and nobody was told why."""

    def nobody(_: int) -> None:
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for folder in (lambda: state_folder({}, None), lambda: cache_root({})):
        with pytest.raises(ConfigError, match="set HOME, or state_dir"):
            folder()
    assert state_folder({}, "/var/lib/neuron") == Path("/var/lib/neuron")
    assert cache_root({"STATE_DIRECTORY": "/var/lib/neuron"}) == Path("/var/lib/neuron/models")


def test_a_daemon_that_starts_at_the_same_moment_leaves_the_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = fcntl.flock

    def late(file: Any, how: int) -> None:
        monkeypatch.undo()
        with private_folder(tmp_path):
            locked(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with private_folder(tmp_path) as folder:
        assert folder.exists()
