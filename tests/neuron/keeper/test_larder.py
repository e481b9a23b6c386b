"""Weights of unloaded models, locked in the host's memory within a budget."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from helexa.base.units import MIB
from helexa.neuron.app import Neuron
from helexa.neuron.config import DeviceEntry, NeuronConfig, Warm
from helexa.neuron.keeper.larder import Larder
from tests.neuron.api.client import Client
from tests.neuron.helpers import PATIENCE_S


@pytest.fixture
def larder() -> Iterator[Larder]:
    larder = Larder(3)
    yield larder
    larder.close()


def skip_unless_lockable(file: str) -> None:
    """RLIMIT_MEMLOCK is the machine's affair."""
    larder = Larder(128)
    larder.keep((file,))
    held_mb = larder.held_mb
    larder.close()
    if not held_mb:
        pytest.skip("RLIMIT_MEMLOCK allows too little here")


def weights(folder: Path, name: str, mib: int = 1) -> str:
    path = folder / name
    path.write_bytes(os.urandom(mib * MIB))
    return str(path)


def locked_kib() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmLck:"))


def test_what_is_kept_is_locked_until_it_is_released(larder: Larder, tmp_path: Path) -> None:
    files = weights(tmp_path, "a"), weights(tmp_path, "b")
    skip_unless_lockable(weights(tmp_path, "both", 2))
    before = locked_kib()
    larder.keep(files)
    larder.keep(files)
    assert (larder.held_mb, locked_kib() - before) == (2, 2048)
    larder.release(files)
    assert (larder.held_mb, locked_kib()) == (0, before)


def test_what_was_put_in_the_longest_time_ago_goes_first(larder: Larder, tmp_path: Path) -> None:
    first, second = (weights(tmp_path, "a", 2),), (weights(tmp_path, "b"),)
    skip_unless_lockable(weights(tmp_path, "all", 3))
    larder.keep(first)
    larder.keep(second)
    larder.keep((weights(tmp_path, "c"),))
    assert larder.held_mb == 2
    larder.release(first)  # it went
    assert larder.held_mb == 2


@pytest.mark.parametrize(("name", "why"), [("none", "No such file"), ("large", "larger than warm.locked_mb = 3")])
def test_what_cannot_be_kept_is_told_and_costs_no_load(
    larder: Larder, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, why: str
) -> None:
    weights(tmp_path, "large", 4)
    with caplog.at_level(logging.WARNING):
        larder.keep((str(tmp_path / name),))
    assert why in caplog.text
    assert larder.held_mb == 0


async def test_a_models_weights_stay_locked_from_its_unload_to_its_next_load(smollm2_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    skip_unless_lockable(str(smollm2_path))
    devices = [DeviceEntry(kind="cpu", memory_mb=2000, threads=1)]
    spec = {"model_id": f"file:{smollm2_path}", "context": 256, "options": {"slots": 1}}
    async with Neuron(NeuronConfig(port=0, devices=devices, warm=Warm(locked_mb=128)), drain_s=0.1) as neuron:
        client = Client(neuron)

        async def until_locked(mib: int) -> None:
            async with asyncio.timeout(PATIENCE_S):
                while (await client.get("/health")).json["locked_mb"] != mib:
                    pass

        assert (await client.post("/models/load", spec)).status == 200
        await until_locked(0)
        assert (await client.post("/models/unload", {"model_id": spec["model_id"]})).status == 200
        await until_locked(93)
        assert (await client.post("/models/load", spec)).status == 200
        await until_locked(0)
        await client.origin.aclose()
