"""A real model in shards, as large ones are published: pulled from a hub, loaded and answering."""

from __future__ import annotations

from pathlib import Path

import pytest

from helexa.neuron.app import Neuron
from helexa.neuron.config import DeviceEntry, NeuronConfig, SourceEntry
from helexa.testing.hub import MockHub
from tests.neuron.api.client import Client
from tests.neuron.core.gguf_files import split

pytest.importorskip("xllamacpp")


async def test_shards_are_pulled_loaded_and_answer_as_the_whole_file_does(smollm2_path: Path, tmp_path: Path) -> None:
    shards = split(smollm2_path, tmp_path, "smollm2-Q4_1", 3)
    with MockHub() as hub:
        hub.add("org/split", {shard.name: shard for shard in shards})
        config = NeuronConfig(
            port=0,
            devices=[DeviceEntry(kind="cpu", memory_mb=4000, threads=1)],
            sources={"lab": SourceEntry(endpoint=hub.url, cache_dir=str(tmp_path / "cache"))},
        )
        async with Neuron(config, drain_s=0.5) as neuron:
            client = Client(neuron)
            client.patience_s = 60.0
            answers: list[str] = []
            for model_id in (f"file:{smollm2_path}", "lab:org/split"):
                spec = {"model_id": model_id, "quant": "q4_1", "context": 512, "options": {"slots": 1}}
                loaded = await client.post("/models/load", spec)
                assert loaded.json["status"] == "loaded"
                got = await client.chat(model_id, "The capital of France is", max_tokens=8, temperature=0)
                answers.append(got.json["choices"][0]["message"]["content"])
            rows = (await client.get("/models")).json
            await client.origin.aclose()
    whole, sharded = rows
    assert answers[0] == answers[1] != ""
    assert abs(whole["vram_predicted_mb"] - sharded["vram_predicted_mb"]) <= 1
    pulled = {seen.path.rsplit("/", 1)[1] for seen in hub.seen if "/resolve/" in seen.path}
    assert pulled == {shard.name for shard in shards}


async def test_an_engine_that_reads_one_file_is_not_chosen_for_shards_and_says_so(
    smollm2_path: Path, tmp_path: Path
) -> None:
    pytest.importorskip("openvino_genai")
    shards = split(smollm2_path, tmp_path, "smollm2-Q4_1", 2)
    config = NeuronConfig(port=0, devices=[DeviceEntry(kind="cpu", memory_mb=4000)])
    async with Neuron(config, drain_s=0.5) as neuron:
        client = Client(neuron)
        crowd = {"model_id": f"file:{shards[1]}", "context": 1024, "options": {"slots": 8}}
        plan = (await client.post("/models/preflight", crowd)).json["plan"]
        named = await client.post("/models/preflight", {**crowd, "harness": "openvino"})
        await client.origin.aclose()
    assert plan["files"] == [shard.name for shard in shards]
    assert (plan["harness"], plan["harness_reason"]) == ("llama", "openvino reads one file, without a projector")
    assert named.status == 422
    assert "one file" in str(named.json["error"])
