"""`neuron validate` and `cortex doctor` against a real neuron with the echo engine."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx2
import pytest

from helexa.cli import cortex, diagnosis
from helexa.cli import neuron as neuron_cli
from helexa.neuron.app import Neuron
from helexa.neuron.config import DefaultModel, DeviceEntry, NeuronConfig
from helexa.testing.hub import MockHub

from .run import run


@pytest.fixture
async def neuron() -> AsyncGenerator[Neuron]:
    devices = [DeviceEntry(kind="cpu", memory_mb=1000)]
    async with Neuron(NeuronConfig(port=0, token="s3cret", devices=devices), drain_s=0.1) as neuron:
        yield neuron


async def validate(neuron: Neuron, *words: str, token: str = "s3cret") -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEURON_TOKEN", token)
        return await asyncio.to_thread(run, neuron_cli.main, "validate", neuron.url, *words)


async def test_a_right_answer_is_told_with_its_times(neuron: Neuron, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("echo/m", "--harness", "echo", "-o", "reply=It is Paris.")
    assert await validate(neuron, *words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["answer"]) == (True, "It is Paris.")
    assert await validate(neuron) == 0, "a model that is loaded is taken when none is named"


async def test_a_wrong_answer_fails(neuron: Neuron, capsys: pytest.CaptureFixture[str]) -> None:
    assert await validate(neuron, "echo/m", "--harness", "echo", "-o", "reply=Rome") == 1
    assert "does not hold `Paris`" in capsys.readouterr().err
    assert await validate(neuron, "echo/m", "--harness", "echo", "--expect", "rome") == 0


async def test_a_refused_load_is_shown_as_it_came(neuron: Neuron, capsys: pytest.CaptureFixture[str]) -> None:
    assert await validate(neuron, "echo/m", "--harness", "echo", "-o", "memory_mb=5000") == 1
    told = capsys.readouterr().err
    assert "HTTP 422" in told
    assert "does_not_fit" in told


async def test_a_load_that_fails_and_a_wrong_token_are_shown(
    neuron: Neuron, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await validate(neuron, "echo/m", "--harness", "echo", "-o", "fail=load") == 1
    assert "HTTP 400" in capsys.readouterr().err
    assert await validate(neuron, "echo/m", token="other") == 1
    assert "HTTP 401" in capsys.readouterr().err


def test_a_neuron_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    assert run(neuron_cli.main, "validate", f"127.0.0.1:{port}") == 1
    assert "is `neuron serve` running there?" in capsys.readouterr().err


def test_an_address_that_is_none_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(neuron_cli.main, "validate", "http://host:port") == 1
    assert "is no address" in capsys.readouterr().err


def test_a_gateway_is_no_neuron(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpx2.Client, "request", lambda *_args, **_more: httpx2.Response(200, json={"status": "ok"}))
    assert run(neuron_cli.main, "validate", "127.0.0.1:31313") == 1
    assert "is no neuron" in capsys.readouterr().err


# Doctor ---------------------------------------------------------------------------------------------------------------


def files(folder: Path, endpoint: str, *, token: str = "s3cret", model: str = "", listen: str = "127.0.0.1:0") -> Path:
    cortex_toml = folder / "cortex.toml"
    cortex_toml.write_text(
        f'models_config = "models.toml"\n[gateway]\nlisten = "{listen}"\nmetrics_listen = "127.0.0.1:0"\n'
        f'[[neurons]]\nname = "beast"\nendpoint = "{endpoint}"\ntoken = "{token}"\n'
    )
    cortex_toml.chmod(0o600)
    (folder / "models.toml").write_text(model)
    return cortex_toml


async def doctor(cortex_toml: Path, *words: str) -> int:
    return await asyncio.to_thread(run, cortex.main, "doctor", "--config", str(cortex_toml), "--json", *words)


def findings(told: str) -> dict[str, dict[str, str]]:
    return {each["what"]: each for each in json.loads(told)["findings"]}


async def test_a_fleet_in_order_is_found_in_order(
    neuron: Neuron, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("xllamacpp")
    assert await doctor(files(tmp_path, neuron.url)) == 0
    found = findings(capsys.readouterr().out)
    assert found["neuron beast"]["state"] == "ok"
    assert "1000 MiB" in found["neuron beast: devices"]["detail"]


async def test_a_state_folder_that_cannot_be_written_to_is_found(
    neuron: Neuron, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    neuron_toml = tmp_path / "neuron.toml"
    neuron_toml.write_text(f'state_dir = "{tmp_path}/file/state"\n')
    await doctor(files(tmp_path, neuron.url), "--neuron-config", str(neuron_toml))
    assert findings(capsys.readouterr().out)[f"state folder {tmp_path}/file/state"]["state"] == "warn"


async def test_a_wrong_token_a_lost_neuron_and_a_taken_port_are_found(
    neuron: Neuron, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await doctor(files(tmp_path, neuron.url, token="other")) == 1
    assert "token" in findings(capsys.readouterr().out)["neuron beast"]["remedy"]
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        other.close()
        assert await doctor(files(tmp_path, f"http://127.0.0.1:{port}")) == 1
        assert "does not answer" in findings(capsys.readouterr().out)["neuron beast"]["detail"]
    with MockHub() as other:
        assert await doctor(files(tmp_path, neuron.url, listen=other.url.removeprefix("http://"))) == 1
        assert "used by another program" in findings(capsys.readouterr().out)["gateway"]["detail"]


async def test_files_that_disagree_on_a_model_are_found(
    neuron: Neuron, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    neuron_toml = tmp_path / "neuron.toml"
    neuron_toml.write_text('port = 1\n[[default_models]]\nmodel_id = "org/m"\nquant = "Q4_K_M"\n')
    path = files(tmp_path, neuron.url, model='[[models]]\nid = "org/m"\n')
    assert await doctor(path, "--neuron-config", str(neuron_toml)) == 1
    found = findings(capsys.readouterr().out)["models.toml and neuron.toml"]
    assert "quant is 'Q4_K_M' in neuron.toml and None in models.toml" in found["detail"]


async def test_a_file_that_cannot_be_read_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = files(tmp_path, "http://127.0.0.1:1")
    path.write_text("[gatway]\n")
    assert await doctor(path) == 1
    assert "gateway" in findings(capsys.readouterr().out)[str(path)]["detail"]


# What it makes of facts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "writable", "state"),
    [
        (50_000_000_000, True, "ok"),
        (1_000_000_000, True, "warn"),
        (None, True, "warn"),
        (50_000_000_000, False, "fail"),
    ],
)
def test_a_disk_is_judged_by_what_is_free(free: int | None, writable: bool, state: str) -> None:
    assert diagnosis.disk("cache", free, writable).state == state


def test_a_port_of_another_program_is_a_fault_and_a_free_one_is_not() -> None:
    assert diagnosis.port("gateway", 1, ours=False, taken=True).state == "fail"
    assert diagnosis.port("gateway", 1, ours=True, taken=True).state == "ok"
    assert diagnosis.port("gateway", 1, ours=False, taken=False).state == "ok"


def test_clocks_that_differ_by_more_than_a_few_seconds_are_told() -> None:
    assert [len(diagnosis.clock("n", skew)) for skew in (None, 0.4, -5.0, 6.0, -3600.0)] == [0, 0, 0, 1, 1]


def test_another_release_is_a_warning() -> None:
    assert [diagnosis.versions("n", theirs, "0.2").state for theirs in ("0.2", "0.1", "")] == ["ok", "warn", "warn"]


def test_a_broken_driver_and_a_host_without_engines_are_faults() -> None:
    broken = {"formats": {"echo": ["any"]}, "cuda_unavailable_reason": "version mismatch"}
    assert [each.state for each in diagnosis.engines("n", broken)] == ["fail", "fail"]
    assert [each.state for each in diagnosis.engines("n", {"formats": {"llama": ["gguf"]}})] == ["ok"]


def test_devices_that_are_lost_are_a_fault() -> None:
    here, lost = {"name": "a", "vram_total_mb": 8}, {"name": "b", "vram_total_mb": 0}
    states = [diagnosis.devices("n", {"devices": rows}).state for rows in ([here], [here, lost], [])]
    assert states == ["ok", "fail", "fail"]


def test_a_harness_that_no_neuron_has_is_a_fault() -> None:
    profiles = [{"id": "org/m", "harness": "vllm"}]
    (found,) = diagnosis.agreement(profiles, [], {"llama", "echo"})
    assert (found.state, "vllm" in found.detail) == ("fail", True)
    assert diagnosis.agreement(profiles, [], set())[0].state == "ok"


def test_what_only_one_file_knows_is_no_disagreement() -> None:
    default = DefaultModel(model_id="org/other", quant="Q8_0")
    rows = [{"model_id": default.model_id, "quant": default.quant}]
    assert diagnosis.agreement([{"id": "org/m"}], rows, set())[0].state == "ok"
