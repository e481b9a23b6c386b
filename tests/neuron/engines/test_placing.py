"""Where llama.cpp is told to put the layers: on the order's devices and on no others."""

from __future__ import annotations

import pytest

from helexa.neuron.harness import DeviceRef, LoadOrder

pytest.importorskip("xllamacpp")

from helexa.neuron.engines.llama.binding import xl
from helexa.neuron.engines.llama.engine import make_params

MODES = xl.llama_split_mode


def params(*devices: DeviceRef):
    return make_params(LoadOrder(model_id="m", files=("/m.gguf",), devices=devices, socket="/s", context=512, slots=1))


def gpu(index: int, part: float = 1.0) -> DeviceRef:
    return DeviceRef(kind="cuda", index=index, memory_mb=1000, part=part)


def test_a_model_on_one_gpu_stays_on_it() -> None:
    made = params(gpu(2))
    assert (made.split_mode, made.main_gpu) == (MODES.LLAMA_SPLIT_MODE_NONE, 2)
    assert made.n_gpu_layers > 100


def test_a_model_on_two_gpus_is_split_in_their_parts_and_leaves_the_third_alone() -> None:
    made = params(gpu(2, 0.75), gpu(0, 0.25))
    assert made.split_mode == MODES.LLAMA_SPLIT_MODE_LAYER
    assert list(made.tensor_split[:4]) == [0.25, 0.0, 0.75, 0.0]


def test_a_model_on_a_cpu_has_no_layers_elsewhere() -> None:
    made = params(DeviceRef(kind="cpu", index=1, memory_mb=1000, threads=3))
    assert (made.n_gpu_layers, made.main_gpu, made.cpuparams.n_threads) == (0, 0, 3)
