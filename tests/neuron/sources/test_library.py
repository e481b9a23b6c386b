"""The one door: plan before anything is fetched, fetch just what was planned."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from helexa.base.errors import Refused
from helexa.neuron.config import NeuronConfig, SourceEntry
from helexa.neuron.core import options
from helexa.neuron.core.harnesses import HarnessInfo
from helexa.neuron.core.plan import DeviceState
from helexa.neuron.sources.library import Library, from_config
from helexa.testing.hub import MockHub
from helexa.wire.control import ModelSpec

from ..core.gguf_files import tiny_llama

LLAMA = HarnessInfo(
    options=options.LLAMA, name="llama", formats=("gguf",), extra="llama", architectures=frozenset({"llama"})
)
DENSE = HarnessInfo(options=options.LLAMA, name="dense", formats=("dense_safetensors",))
ECHO = HarnessInfo(options=options.ECHO, name="echo", formats=("any",))
HARNESSES = {each.name: each for each in (LLAMA, DENSE, ECHO)}
CPU = DeviceState(index=0, kind="cpu", name="cpu", total_mb=4000)


def library(folder: Path, hub: MockHub | None = None) -> Library:
    config = NeuronConfig(harness={"llama": {"slots": 2}})
    if hub is not None:
        config.sources["lab"] = SourceEntry(endpoint=hub.url, token_env="LAB_TOKEN")
    environ = {"HELEXA_CACHE": str(folder / "cache"), "LAB_TOKEN": "s3cret", "HF_TOKEN": "not for the lab"}
    return from_config(config, environ, lambda: HARNESSES)


def silent(stage: str, progress: float | None) -> None:
    pass


@pytest.fixture
def hub() -> Iterator[MockHub]:
    with MockHub(token="s3cret") as server:
        yield server


async def refusal(shelf: Library, spec: ModelSpec) -> Refused:
    with pytest.raises(Refused) as caught:
        await shelf.plan(spec, [CPU])
    return caught.value


@pytest.mark.parametrize(
    ("environ", "root"),
    [
        ({"STATE_DIRECTORY": "/var/lib/neuron"}, "/var/lib/neuron/models"),
        ({"STATE_DIRECTORY": "/var/lib/neuron", "HELEXA_CACHE": "/srv"}, "/srv"),
    ],
)
def test_a_service_needs_no_home_for_what_it_fetches(environ: dict[str, str], root: str) -> None:
    folders = from_config(NeuronConfig(), environ, lambda: HARNESSES).folders()
    assert Path(root, "hf") in folders
    assert all(folder.is_relative_to(root) for folder in folders)


async def test_the_real_model_is_planned_and_used_where_it_lies(smollm2_path: Path, tmp_path: Path) -> None:
    shelf = library(tmp_path)
    plan = await shelf.plan(ModelSpec(model_id=f"file:{smollm2_path}", context=2048), [CPU])
    assert (plan.harness, plan.format, plan.context, plan.slots) == ("llama", "gguf", 2048, 2)
    assert (plan.shares[0].weights_mb, plan.shares[0].kv_mb) == (93, 90)
    assert await shelf.fetch(plan, silent) == (str(smollm2_path),)


async def test_an_engine_without_weights_touches_no_source(tmp_path: Path) -> None:
    shelf = library(tmp_path)
    plan = await shelf.plan(ModelSpec(model_id="any/thing", harness="echo", options={"memory_mb": 9}), [CPU])
    assert (plan.shares[0].needed_mb, await shelf.fetch(plan, silent)) == (9, ())


async def test_a_cold_model_is_planned_from_its_head_alone(hub: MockHub, tmp_path: Path) -> None:
    body = tiny_llama() + os.urandom(5_000_000)
    hub.add("org/name", {"m-Q4_0.gguf": body})
    plan = await library(tmp_path, hub).plan(ModelSpec(model_id="lab:org/name"), [CPU])
    assert (plan.warmth, plan.download_bytes, plan.context) == ("cold", len(body), 4096)
    assert plan.shares[0].weights_mb == 1
    assert {each.range for each in hub.requests("GET", "/blobs/*")} <= {
        f"bytes={at * 262144}-{(at + 1) * 262144 - 1}" for at in range(8)
    }


async def test_just_the_planned_file_is_fetched_and_then_it_is_warm(hub: MockHub, tmp_path: Path) -> None:
    hub.add("org/name", {"m-Q4_0.gguf": tiny_llama(), "m-Q8_0.gguf": b"never touched"})
    shelf, spec = library(tmp_path, hub), ModelSpec(model_id="lab:org/name", quant="q4_0")
    (path,) = map(Path, await shelf.fetch(await shelf.plan(spec, [CPU]), silent))
    assert path.read_bytes() == tiny_llama()
    assert (await shelf.plan(spec, [CPU])).warmth in {"disk", "memory"}


async def test_a_mirror_gets_its_own_token_and_never_the_hubs(hub: MockHub, tmp_path: Path) -> None:
    hub.add("org/name", {"m.gguf": tiny_llama()})
    await library(tmp_path, hub).plan(ModelSpec(model_id="lab:org/name"), [CPU])
    assert {each.authorization for each in hub.seen} == {"Bearer s3cret", ""}


async def test_dense_weights_are_planned_from_their_configuration(hub: MockHub, tmp_path: Path) -> None:
    config = b'{"model_type": "qwen3", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4}'
    hub.add("org/name", {"model.safetensors": b"x" * 3_000_000, "config.json": config, "tokenizer.json": b"{}"})
    shelf = library(tmp_path, hub)
    plan = await shelf.plan(ModelSpec(model_id="lab:org/name"), [CPU])
    assert (plan.harness, plan.shares[0].weights_mb) == ("dense", 3)
    fetched = [Path(path).name for path in await shelf.fetch(plan, silent)]
    assert fetched == ["model.safetensors", "config.json", "tokenizer.json"]


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"m.gguf": b"this is no model"}, "bad_weights"),
        ({"m.gguf": tiny_llama()[:300]}, "bad_weights"),
        ({"m.gguf": tiny_llama(general__architecture="mamba9")}, "unsupported_architecture"),
        ({"model.safetensors": b"x", "config.json": b"{"}, "bad_weights"),
        ({"model.safetensors": b"x", "config.json": b"[1]"}, "bad_weights"),
        ({"README.md": b"x"}, "empty_repo"),
    ],
)
async def test_a_repository_that_cannot_be_loaded_is_refused_before_it_is_fetched(
    hub: MockHub, tmp_path: Path, files: dict[str, bytes], kind: str
) -> None:
    hub.add("org/name", files)
    assert (await refusal(library(tmp_path, hub), ModelSpec(model_id="lab:org/name"))).fields["kind"] == kind
    assert list((tmp_path / "cache").rglob("*.gguf")) == []


async def test_a_model_too_large_for_the_disk_is_refused(
    hub: MockHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helexa.neuron.sources.library.free_bytes", lambda _folder: 1_000_000)
    hub.add("org/name", {"m.gguf": tiny_llama()})
    assert (await refusal(library(tmp_path, hub), ModelSpec(model_id="lab:org/name"))).fields["kind"] == "disk_full"


async def test_a_scheme_that_nobody_configured_is_refused_with_those_that_are(tmp_path: Path) -> None:
    found = await refusal(library(tmp_path), ModelSpec(model_id="nowhere:org/name"))
    assert "known: file:, hf:, pypi:" in str(found.fields["cause"])
    assert found.fields["suggestion"] == "configure [sources.nowhere] in neuron.toml"


async def test_shards_are_counted_together(tmp_path: Path) -> None:
    for at in (1, 2):
        (tmp_path / f"m-Q8_0-0000{at}-of-00002.gguf").write_bytes(tiny_llama() + b"\0" * 2_000_000)
    shelf = library(tmp_path)
    plan = await shelf.plan(ModelSpec(model_id=f"file:{tmp_path}/m-Q8_0-00002-of-00002.gguf"), [CPU])
    assert [file.name[-19:-5] for file in plan.files] == ["00001-of-00002", "00002-of-00002"]
    assert plan.shares[0].weights_mb == 2


async def test_a_model_that_drafts_is_in_the_first_plan(smollm2_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny_llama())
    spec = ModelSpec(model_id=f"file:{path}", context=256, options={"draft": str(smollm2_path)})
    (alone,) = (await library(tmp_path).plan(ModelSpec(model_id=f"file:{path}", context=256), [CPU])).shares
    (both,) = (await library(tmp_path).plan(spec, [CPU])).shares
    assert both.weights_mb == alone.weights_mb + 93
    assert both.kv_mb > alone.kv_mb


@pytest.mark.parametrize("content", [None, b"no model"])
async def test_a_draft_that_is_no_model_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path, draft = tmp_path / "m.gguf", tmp_path / "draft.gguf"
    path.write_bytes(tiny_llama())
    if content is not None:
        draft.write_bytes(content)
    found = await refusal(library(tmp_path), ModelSpec(model_id=f"file:{path}", options={"draft": str(draft)}))
    assert (found.fields["kind"], found.fields["option"]) == ("invalid_option", "draft")


async def test_a_folder_is_a_source_too(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a-Q4_0.gguf").write_bytes(tiny_llama())
    (tmp_path / "models" / "a-Q8_0.gguf").write_bytes(b"not looked at")
    plan = await library(tmp_path).plan(ModelSpec(model_id=f"file:{tmp_path}/models", quant="Q4_0"), [CPU])
    assert [file.name for file in plan.files] == ["a-Q4_0.gguf"]


@pytest.mark.parametrize("name", ["relative/m.gguf", "/no/such/file.gguf"])
async def test_a_file_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    found = await refusal(library(tmp_path), ModelSpec(model_id=f"file:{name}"))
    assert (found.fields["kind"], found.fields["transient"]) == ("repo_fetch_failed", False)


async def test_a_pipe_is_no_model(tmp_path: Path) -> None:
    """It was read for ever, and the load with it."""
    os.mkfifo(tmp_path / "m.gguf")
    found = await refusal(library(tmp_path), ModelSpec(model_id=f"file:{tmp_path}/m.gguf"))
    assert "neither a file nor a folder" in found.message


async def test_a_file_that_went_away_after_the_plan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny_llama())
    shelf = library(tmp_path)
    plan = await shelf.plan(ModelSpec(model_id=f"file:{path}"), [CPU])
    path.unlink()
    with pytest.raises(Refused, match="is gone"):
        await shelf.fetch(plan, silent)


async def test_a_missing_engine_is_refused_before_the_source_is_looked_at(hub: MockHub, tmp_path: Path) -> None:
    found = await refusal(library(tmp_path, hub), ModelSpec(model_id="lab:org/name", harness="ollama"))
    assert (found.fields["kind"], hub.seen) == ("engine_missing", [])


async def test_a_model_cache_that_cannot_be_written_to_is_a_refusal_that_says_so(hub: MockHub, tmp_path: Path) -> None:
    hub.add("org/name", {"m-Q4_K_M.gguf": tiny_llama()})
    (tmp_path / "cache").write_text("a file where the folder should be")
    shelf = library(tmp_path, hub)
    with pytest.raises(Refused, match="let this user read and write there") as caught:
        await shelf.fetch(await shelf.plan(ModelSpec(model_id="lab:org/name", quant="Q4_K_M"), [CPU]), silent)
    assert (caught.value.fields["kind"], caught.value.fields["transient"]) == ("repo_fetch_failed", False)
    assert str(tmp_path / "cache") in str(caught.value.fields["cause"])
