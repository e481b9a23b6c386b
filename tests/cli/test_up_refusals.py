"""What `cortex up` refuses before it starts anything."""

from __future__ import annotations

import fcntl
import socket
from pathlib import Path

import pytest

from helexa.cli import cortex
from helexa.testing.fleet import free_port

from .run import run


def test_a_port_that_is_given_twice_is_refused_with_the_options_to_choose_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    port = free_port()
    assert run(cortex.main, "up", "--port", str(port), "--neuron-port", str(port + 1)) == 1
    told = capsys.readouterr().err
    assert f"metrics {port + 1}" in told
    assert "--metrics-port" in told


def test_a_port_that_somebody_listens_on_is_refused_with_the_option_to_choose_another(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ours = [free_port(), free_port()]
        words = ["--port", str(ours[0]), "--metrics-port", str(ours[1]), "--neuron-port", str(port)]
        assert run(cortex.main, "up", *words) == 1
    assert f"port {port} (for the neuron) is in use" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["0", "-1", "65536"])
def test_a_number_that_is_no_port_is_refused(capsys: pytest.CaptureFixture[str], port: str) -> None:
    assert run(cortex.main, "up", "--port", port, "--metrics-port", str(free_port())) == 1
    assert f"{port} (for the gateway) is no port" in capsys.readouterr().err


def up_with(folder: Path, *words: str) -> int:
    ports = [word for name in ("port", "metrics-port", "neuron-port") for word in (f"--{name}", str(free_port()))]
    return run(cortex.main, "up", *ports, "--state-dir", str(folder), *words)


def test_a_folder_is_no_model_and_it_is_said_what_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert up_with(tmp_path / "state", "--model", str(tmp_path)) == 1
    assert "name the .gguf file in it" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["hf:", ":q4", "a\nb"])
def test_what_is_no_model_id_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str) -> None:
    assert up_with(tmp_path, "--model", model) == 1
    assert "is not a model id" in capsys.readouterr().err


def test_a_folder_that_another_run_keeps_its_files_in_is_left_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert up_with(tmp_path) == 1
    assert "--state-dir" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_folder_that_cannot_be_made_is_named_with_the_option_to_choose_another(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    assert up_with(tmp_path / "file" / "state") == 1
    told = capsys.readouterr().err
    assert f"{tmp_path}/file" in told
    assert "--state-dir" in told


def test_a_folder_that_takes_no_files_is_named_with_the_option_to_choose_another(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "cortex.toml").mkdir()
    assert up_with(tmp_path) == 1
    assert f"cannot write into {tmp_path}: Is a directory. Choose another folder with --state-dir" in (
        capsys.readouterr().err
    )
