"""Which engine loads a model that names none, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from helexa.base.errors import Refused
from helexa.base.ids import parse_source
from helexa.base.units import MIB
from helexa.neuron.core.choice import candidates, flaw
from helexa.neuron.core.footprint import ModelShape, Traits
from helexa.neuron.core.listing import Listing
from helexa.neuron.core.plan import DeviceState, LoadPlan, RemoteFile
from helexa.neuron.core.preflight import preflight
from helexa.neuron.registry import HARNESSES
from helexa.wire.control import ModelSpec

LLAMA, OPENVINO = HARNESSES["llama"].info(), HARNESSES["openvino"].info()
PLAIN = Traits(types=frozenset(("F32", "Q4_1", "Q8_0")), tokenizer="gpt2/smollm")
SHAPE = ModelShape(architecture="llama", trained_context=8192, weight_bytes=1, traits=PLAIN)
CROWD: dict[str, Any] = {"kinds": {"cpu"}, "files": 1, "options": {"slots"}, "slots": 8}


def chosen(shape: ModelShape = SHAPE, **asked: Any) -> list[tuple[str, str]]:
    found = candidates((LLAMA, OPENVINO), shape, **(CROWD | asked))
    return [(each.harness.name, each.reason) for each in found]


def test_a_crowd_on_a_cpu_is_openvinos_and_llama_stands_by() -> None:
    assert chosen() == [("openvino", "8 slots were asked for, and for a crowd openvino is the faster"), ("llama", "")]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"slots": None}, "openvino pays from 4 slots on, none asked for"),
        ({"slots": 2}, "openvino pays from 4 slots on, 2 asked for"),
        ({"kinds": {"cuda", "cpu"}}, "openvino does not run on cuda"),
        ({"files": 2}, "openvino reads one file, without a projector"),
        ({"options": {"slots", "cache_ram"}}, "openvino has no option `cache_ram`"),
    ],
)
def test_otherwise_it_is_llama_and_it_is_said_why(asked: dict[str, Any], reason: str) -> None:
    assert chosen(**asked) == [("llama", reason)]


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (replace(SHAPE, architecture="gemma3"), "openvino cannot run the architecture `gemma3`"),
        (replace(SHAPE, traits=None), "openvino needs to see the file first"),
        (replace(SHAPE, traits=replace(PLAIN, types=frozenset(("Q4_K", "Q8_0")))), "openvino cannot read Q4_K"),
        (replace(SHAPE, traits=replace(PLAIN, tokenizer="gpt2/llama-bpe")), "openvino does not know the tokenizer"),
        (replace(SHAPE, traits=replace(PLAIN, unusual="scaled positions")), "openvino cannot run scaled positions"),
    ],
)
def test_a_file_that_openvino_cannot_read_is_llamas(shape: ModelShape, reason: str) -> None:
    ((name, said),) = chosen(shape)
    assert name == "llama"
    assert said.startswith(reason)


def test_an_engine_without_needs_has_no_flaw_but_its_architectures() -> None:
    assert flaw(replace(LLAMA, architectures=None), SHAPE, 3, {"anything"}) is None
    assert flaw(replace(LLAMA, architectures=frozenset()), SHAPE, 1, ()) == "cannot run the architecture `llama`"


def planned(total_mb: int) -> LoadPlan | Refused:
    """A model of 100 MiB, asked for by a crowd, on a CPU that may use `total_mb`."""
    file = RemoteFile(name="m-Q4_1.gguf", size_bytes=100 * MIB)
    return preflight(
        ModelSpec(model_id="org/name", context=256, options={"slots": 8}),
        Listing(source=parse_source("org/name"), files=(file,)),
        replace(SHAPE, weight_bytes=100 * MIB),
        (DeviceState(index=0, kind="cpu", name="cpu", total_mb=total_mb),),
        {"llama": LLAMA, "openvino": OPENVINO},
    )


def test_weights_are_counted_as_openvino_keeps_them_and_llama_takes_what_does_not_fit() -> None:
    roomy, tight = planned(2000), planned(200)
    assert isinstance(roomy, LoadPlan)
    assert isinstance(tight, LoadPlan)
    assert (roomy.harness, roomy.shares[0].weights_mb) == ("openvino", 370)
    assert (tight.harness, tight.shares[0].weights_mb) == ("llama", 100)


def test_what_fits_nowhere_is_refused_with_the_arithmetic_of_the_last_resort() -> None:
    refused = planned(50)
    assert isinstance(refused, Refused)
    assert refused.fields["kind"] == "does_not_fit"
