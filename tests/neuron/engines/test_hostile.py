"""Files that no engine should be given, or that kill one: a typed answer each time, and a neuron that goes on."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from helexa.neuron.app import Neuron
from helexa.neuron.config import DeviceEntry, HarnessEntry, NeuronConfig
from tests.neuron.api.client import Client
from tests.neuron.core.gguf_files import LLAMA, TENSORS, gguf, tiny_llama
from tests.neuron.helpers import names

pytest.importorskip("xllamacpp")

REFUSED: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "no GGUF": lambda: b"PK\x03\x04" + bytes(4096),
    "cut in its head": lambda: tiny_llama()[:100],
    "cut in its data": lambda: tiny_llama()[:-512],
    "more tensors than anybody has": lambda: b"GGUF" + struct.pack("<IQQ", 3, 1 << 62, 1),
    "more metadata than anybody has": lambda: b"GGUF" + struct.pack("<IQQ", 3, 1, 1 << 62),
    "a key longer than the file": lambda: b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60) + bytes(64),
    "an architecture that nobody knows": lambda: tiny_llama(general__architecture="../../etc/passwd"),
    "a template that never ends": lambda: gguf(
        {**LLAMA, "tokenizer.chat_template": "{% for i in range(1000000000) %}x{% endfor %}"}, TENSORS
    ),
    "a context that no integer holds": lambda: tiny_llama(llama__context_length=4_000_000_000),
    "more layers than tensors": lambda: tiny_llama(llama__block_count=600),
    "more layers than fit": lambda: tiny_llama(llama__block_count=2**31, llama__attention__head_count_kv=2**20),
}
BROKEN: dict[str, Callable[[], bytes]] = {
    "tensors missing": tiny_llama,
    "no layers": lambda: tiny_llama(llama__block_count=0),
    "heads that divide nothing": lambda: tiny_llama(llama__attention__head_count=7),
    "a context of nothing": lambda: tiny_llama(llama__context_length=0),
    "no tokens": lambda: gguf({k: v for k, v in LLAMA.items() if not k.startswith("tokenizer")}, TENSORS),
}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    devices = [DeviceEntry(kind="cpu", memory_mb=2000)]
    harnesses = [HarnessEntry(name="llama"), HarnessEntry(name="echo")]
    async with Neuron(NeuronConfig(port=0, devices=devices, harnesses=harnesses), drain_s=0.1) as neuron:
        client = Client(neuron)
        yield client
        await client.origin.aclose()


async def test_what_can_be_seen_from_the_head_is_refused_before_an_engine_sees_it(
    client: Client, tmp_path: Path
) -> None:
    await client.neuron.pool.memory(0)
    worker = client.neuron.pool.pid(0)
    assert worker is not None
    for name, content in REFUSED.items():
        path = tmp_path / "m.gguf"
        path.write_bytes(content())
        got = await client.post("/models/load", {"model_id": f"file:{path}"})
        assert got.status == 422, (name, got.body)
        assert got.json["error"]["kind"] in {"bad_weights", "unsupported_architecture", "does_not_fit"}, name
        assert got.json["error"]["message"], name
    assert (await client.get("/models")).json == []
    assert client.neuron.pool.pid(0) == worker


async def test_what_the_engine_cannot_load_fails_typed_and_leaves_nothing(client: Client, tmp_path: Path) -> None:
    for name, content in BROKEN.items():
        path = tmp_path / f"{len(name)}.gguf"
        path.write_bytes(content())
        got = await client.post("/models/load", {"model_id": f"file:{path}", "context": 256})
        assert got.status in {400, 422}, (name, got.body)
        assert got.json["error"], name
    (socket_folder,) = {Path(order).parent for order in [str(client.neuron.keeper._host.sockets / "x")]}  # pyright: ignore[reportPrivateUsage]
    assert names(socket_folder) == ["lock"]
    health = (await client.get("/health")).json
    assert [device["vram_used_mb"] - device["foreign_mb"] for device in health["devices"]] == [0]
    got = await client.load("echo/m")
    assert got.status == 200
