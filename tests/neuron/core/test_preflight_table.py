"""Every class of source with every wish and every set of engines: one outcome each, and no other."""

from __future__ import annotations

from itertools import product

import pytest

from helexa.base.errors import Refused
from helexa.base.ids import parse_source
from helexa.base.units import MIB
from helexa.neuron.core import options
from helexa.neuron.core.footprint import Layer, ModelShape
from helexa.neuron.core.harnesses import HarnessInfo
from helexa.neuron.core.listing import Listing
from helexa.neuron.core.plan import DeviceState, RemoteFile
from helexa.neuron.core.preflight import preflight
from helexa.wire.control import ModelSpec

GGUF, DENSE = "gguf", "dense_safetensors"
FILES = {
    "empty": (),
    "no weights": ("README.md", "config.json"),
    "gguf": ("m-Q4_K_M.gguf", "m-Q8_0.gguf"),
    "sharded gguf": ("m-Q4_K_M-00001-of-00002.gguf", "m-Q4_K_M-00002-of-00002.gguf"),
    "gguf without a shard": ("m-Q4_K_M-00001-of-00002.gguf",),
    "dense": ("model.safetensors", "config.json"),
    "sharded dense": ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "config.json"),
    "mixed": ("m-Q4_K_M.gguf", "model.safetensors", "config.json"),
}
FORMATS = {
    name: {GGUF for file in files if file.endswith(".gguf")} | {DENSE for file in files if file.endswith("safetensors")}
    for name, files in FILES.items()
}
READS = {"llama": GGUF, "dense": DENSE}
ENGINES = ((), ("llama",), ("dense",), ("llama", "dense"), ("dense", "llama"))
QUANTS = {None: True, "Q4_K_M": True, "q4-k-m": True, "q4_k_m": True, "Q2_K": False}
"""And whether each GGUF source here has it."""
SHAPE = ModelShape(architecture="llama", trained_context=4096, weight_bytes=100 * MIB, layers=(Layer(k=64, v=64),) * 10)
CPU = DeviceState(index=0, kind="cpu", name="cpu", total_mb=8000)


def outcome(source: str, engines: tuple[str, ...], tensor_parallel: int | None, quant: str | None) -> str:
    """The kind of the refusal, or the first file of the plan."""
    found = preflight(
        ModelSpec(model_id="org/name", quant=quant, tensor_parallel=tensor_parallel),
        Listing(
            source=parse_source("org/name"),
            files=tuple(RemoteFile(name=name, size_bytes=100 * MIB) for name in FILES[source]),
        ),
        SHAPE,
        [CPU],
        {name: HarnessInfo(options=options.LLAMA, name=name, formats=(READS[name],), installed=name in engines)
         for name in (*engines, *(READS.keys() - {*engines}))},
    )  # fmt: skip
    if isinstance(found, Refused):
        return str(found.fields["kind"])
    assert (found.harness in engines, READS[found.harness]) == (True, found.format)
    return found.files[0].name


def expected(source: str, engines: tuple[str, ...], tensor_parallel: int | None, quant: str | None) -> str:
    """The contract in a few lines, the earlier ones first."""
    held, split = FORMATS[source], (tensor_parallel or 1) > 1
    if not engines:
        return "engine_missing"
    if not held:
        return "empty_repo"
    if split and held == {GGUF}:
        return "tp_requires_safetensors"
    if len(held) > 1:
        held = {DENSE} if split else {GGUF} if quant else held
    chosen = next((READS[name] for name in engines if READS[name] in held), None)
    if chosen is None:
        return "engine_missing"
    if quant and (chosen == DENSE or not QUANTS[quant]):
        return "quant_not_found"
    if source == "gguf without a shard":
        return "repo_fetch_failed"
    return next(name for name in FILES[source] if name.endswith(".gguf" if chosen == GGUF else ".safetensors"))


@pytest.mark.parametrize("engines", ENGINES, ids=lambda names: "+".join(names) or "none")
@pytest.mark.parametrize("source", FILES)
def test_every_wish_has_the_outcome_that_the_contract_names(source: str, engines: tuple[str, ...]) -> None:
    for wish in product((None, 1, 2), QUANTS):
        assert outcome(source, engines, *wish) == expected(source, engines, *wish), wish
