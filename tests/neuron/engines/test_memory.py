"""The ledger with the real model: what a load takes is measured, shown, kept over a restart, and given back."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from helexa.neuron.app import Neuron
from helexa.neuron.config import DeviceEntry, HarnessEntry, NeuronConfig
from tests.neuron.api.client import Client

pytest.importorskip("xllamacpp")


@asynccontextmanager
async def neuron_with(state: Path):
    config = NeuronConfig(
        port=0, state_dir=str(state), harnesses=[HarnessEntry(name="llama")],
        devices=[DeviceEntry(kind="cpu", memory_mb=2000)],
    )  # fmt: skip
    async with Neuron(config, drain_s=0.5) as neuron:
        client = Client(neuron)
        client.patience_s = 30.0
        yield client
        await client.origin.aclose()


async def test_what_a_load_took_is_the_next_ones_prediction(smollm2_path: Path, tmp_path: Path) -> None:
    spec = {"model_id": f"file:{smollm2_path}", "context": 512, "options": {"slots": 2}}
    async with neuron_with(tmp_path) as client:
        first = (await client.post("/models/preflight", spec)).json["plan"]
        (cold,) = first["shares"]
        assert (cold["correction_mb"], first["restore_s"]) == (0, None)
        assert (await client.post("/models/load", spec)).status == 200
        (row,) = (await client.get("/models")).json
        assert row["vram_predicted_mb"] == cold["needed_mb"]
        assert row["vram_measured_mb"] == pytest.approx(cold["needed_mb"], rel=0.15)
        async with asyncio.timeout(10):  # it is written after the load was told of
            while not (measured := (await client.get("/discovery")).json["measured"]):
                pass
        (kept,) = measured
        assert (kept["predicted_mb"], kept["measured_mb"]) == (cold["needed_mb"], row["vram_measured_mb"])
        assert (kept["context"], kept["slots"], kept["device_kind"]) == (512, 2, "cpu")

        freed = (await client.post("/models/unload", {"model_id": spec["model_id"]})).json["freed_mb"]
        assert row["vram_measured_mb"] // 2 < freed <= row["vram_measured_mb"] * 1.1

    async with neuron_with(tmp_path) as client:
        (warm,) = (await client.post("/models/preflight", spec)).json["plan"]["shares"]
        plan = (await client.post("/models/preflight", spec)).json["plan"]
        assert plan["restore_s"] == (row["load_s"] if plan["warmth"] == first["warmth"] else None)
        assert warm["needed_mb"] == row["vram_measured_mb"]
        assert warm["correction_mb"] == row["vram_measured_mb"] - cold["needed_mb"]
        (other,) = (await client.post("/models/preflight", spec | {"context": 1024})).json["plan"]["shares"]
        assert other["correction_mb"] == 0


async def test_max_is_the_trained_context_where_there_is_room(smollm2_path: Path, tmp_path: Path) -> None:
    spec = {"model_id": f"file:{smollm2_path}", "context": "max"}
    async with neuron_with(tmp_path) as client:
        plan = (await client.post("/models/preflight", spec)).json["plan"]
        assert (plan["context"], plan["slots"]) == (8192, 1)
