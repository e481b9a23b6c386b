"""`neuron discover | preflight | pull | models`: without a daemon, against a hub on loopback."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cyclopts import App

from helexa.cli import say
from helexa.cli.neuron import main
from helexa.testing.hub import MockHub
from tests.neuron.core.gguf_files import tiny_llama

from .run import run

BIG = tiny_llama() + b"\0" * 3_000_000


@pytest.fixture
def hub():
    with MockHub() as hub:
        hub.add("org/name", {"m-Q4_K_M.gguf": tiny_llama() + b"\0" * 100_000, "m-Q8_0.gguf": tiny_llama()})
        hub.add("org/big", {"big.gguf": BIG})
        yield hub


@pytest.fixture
def config(hub: MockHub, tmp_path: Path) -> str:
    path = tmp_path / "neuron.toml"
    path.write_text(
        f'state_dir = "{tmp_path}/state"\n[[devices]]\nkind = "cpu"\nmemory_mb = 500\n'
        f'[sources.lab]\nendpoint = "{hub.url}"\ncache_dir = "{tmp_path}/cache"\n'
        f'[sources.hf]\ncache_dir = "{tmp_path}/none"\n'
    )
    return str(path)


def test_discover_shows_devices_and_engines(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(main, "discover", "--config", config) == 0
    told = capsys.readouterr().out
    assert "cpu" in told
    assert "500 MiB" in told
    assert "echo (any)" in told


def test_discover_as_json_is_what_a_neuron_publishes(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(main, "discover", "--config", config, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["discovery"]["devices"][0]["vram_total_mb"] == 500
    assert found["devices"][0]["vram_free_mb"] <= 500


def test_preflight_prints_the_plan(config: str, capsys: pytest.CaptureFixture[str], hub: MockHub) -> None:
    assert (
        run(main, "preflight", "lab:org/name", "-q", "q4-k-m", "--context", "max", "-o", "slots=2", "-c", config) == 0
    )
    told = capsys.readouterr().out
    assert "m-Q4_K_M.gguf" in told
    assert "to be downloaded" in told
    assert "of 2 sequences" in told
    assert not hub.requests("GET", "/lab:*")


def test_preflight_as_json_is_the_plan_of_the_wire(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(main, "preflight", "lab:org/name", "-c", config, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["plan"]["files"], found["plan"]["warmth"]) == (True, ["m-Q4_K_M.gguf"], "cold")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("lab:org/name", "-q", "q9"), "quant_not_found"),
        (("lab:org/none",), "repo_fetch_failed"),
        (("lab:org/name", "--tp", "2"), "tp_requires_safetensors"),
        (("lab:org/name", "--device", "7"), "device_not_found"),
        (("lab:org/name", "-o", "slots"), "is not KEY=VALUE"),
        (("lab:org/name", "--context", "much"), "a number of tokens or `max`"),
    ],
)
def test_a_refusal_is_told_and_exits_with_1(
    config: str, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    assert run(main, "preflight", *words, "-c", config) == 1
    assert told in capsys.readouterr().err


def test_a_refusal_as_json_has_its_kind(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(main, "preflight", "lab:org/name", "-q", "q9", "-c", config, "--json") == 1
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "quant_not_found"


def test_pull_fetches_and_then_has_nothing_to_fetch(
    config: str, capsys: pytest.CaptureFixture[str], hub: MockHub
) -> None:
    assert run(main, "pull", "lab:org/name", "-c", config) == 0
    told = capsys.readouterr()
    assert Path(told.out.strip()).read_bytes().startswith(b"GGUF")
    assert "download 100%" in told.err
    asked = len(hub.requests("GET", "/blobs/*"))
    assert run(main, "pull", "lab:org/name", "-c", config, "--json") == 0
    assert json.loads(capsys.readouterr().out)["downloaded_bytes"] == 0
    assert len(hub.requests("GET", "/blobs/*")) == asked


def test_a_pull_goes_on_from_where_its_connection_broke(
    config: str, capsys: pytest.CaptureFixture[str], hub: MockHub
) -> None:
    hub.cut(1_000_000, times=1000)
    assert run(main, "pull", "lab:org/big", "-c", config) == 0
    assert Path(capsys.readouterr().out.strip()).read_bytes() == BIG
    starts = [int(each.range[6:].split("-")[0]) for each in hub.requests("GET", "/blobs/*") if each.range.endswith("-")]
    assert starts == [0, 1_000_000, 2_000_000, 3_000_000]


def test_a_pull_that_fails_says_that_it_can_be_taken_up_again(
    config: str, capsys: pytest.CaptureFixture[str], hub: MockHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helexa.neuron.sources.download._PAUSE_S", 0.001)
    hub.fail(503, path="/blobs/*", times=1000)
    assert run(main, "pull", "lab:org/big", "-c", config) == 1
    told = capsys.readouterr().err
    assert "the same command goes on" in told
    assert "repo_fetch_failed" in told


def test_models_are_listed_with_their_sizes_and_removed(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(main, "pull", "lab:org/name", "-c", config)
    capsys.readouterr()
    assert run(main, "models", "ls", "-c", config, "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["model_id"] == "lab:org/name"
    assert row["size_bytes"] >= len(tiny_llama()) + 100_000
    assert run(main, "models", "rm", "lab:org/name", "-c", config) == 0
    assert not Path(row["folder"]).exists()
    assert run(main, "models", "ls", "-c", config) == 0
    assert "the model cache is empty" in capsys.readouterr().out


def test_removing_what_is_not_there_names_what_is(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(main, "pull", "lab:org/name", "-c", config)
    assert run(main, "models", "rm", "lab:org/nome", "-c", config) == 1
    assert "there is `lab:org/name`" in capsys.readouterr().err


def test_only_what_was_given_up_long_ago_is_swept(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blobs = tmp_path / "cache" / "models--org--name" / "blobs"
    blobs.mkdir(parents=True)
    old, fresh, whole = blobs / "a.partial", blobs / "b.partial", blobs / "c"
    for path in (old, fresh, whole):
        path.write_bytes(b"x" * 1000)
    draft = tmp_path / "state" / "models" / "pypi" / ".draft-1"
    draft.mkdir(parents=True)
    (draft / "m.gguf").write_bytes(b"x" * 500)
    for path in (old, whole, draft / "m.gguf", draft):
        os.utime(path, (1e9, 1e9))
    assert run(main, "models", "gc", "-c", config, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"freed_bytes": 1500}
    assert (old.exists(), fresh.exists(), whole.exists(), draft.exists()) == (False, True, True, False)


def test_a_configuration_that_is_wrong_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "neuron.toml"
    path.write_text("prot = 1")
    assert run(main, "discover", "--config", str(path)) == 1
    assert "port" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["0", "-1", "99999"])
def test_a_number_that_is_no_port_is_refused(config: str, capsys: pytest.CaptureFixture[str], port: str) -> None:
    """It was cut to 16 bits once, and another port listened on."""
    assert run(main, "serve", "--config", config, "--port", port) == 1
    assert f"must be between 1 and 65535, not {port}" in capsys.readouterr().err


def test_a_level_that_the_log_does_not_have_is_refused(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(main, "serve", "--config", config, "--log-level", "loud") == 2
    assert '"DEBUG", "INFO"' in capsys.readouterr().err


@pytest.mark.parametrize("word", ["preflight", "pull"])
def test_a_path_is_no_model_id_and_it_is_said_how_it_becomes_one(
    tmp_path: Path, config: str, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny_llama())
    assert run(main, word, str(path), "--config", config) == 1
    assert f"write file:{path}" in capsys.readouterr().err


def test_a_folder_that_cannot_be_read_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    app = App()

    @app.default
    def ls() -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/var/lib/neuron/models")

    assert run(lambda: say.run(app)) == 1
    assert capsys.readouterr().err == "error: /var/lib/neuron/models: Permission denied\n"


def test_a_reader_that_left_ends_a_command_without_a_word(config: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "helexa.cli.neuron", "discover", "--json", "--config", config]
    try:
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=50, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
