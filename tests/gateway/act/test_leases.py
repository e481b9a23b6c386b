"""A node that says of every model that another gateway brings it is believed for as long as a lease lives."""

from __future__ import annotations

from typing import Any

import httpx2
import msgspec
import pytest

from helexa.gateway import app
from helexa.gateway import config as cfg
from helexa.gateway.act import loader
from helexa.gateway.app import Cortex
from helexa.gateway.fleet import fold
from helexa.testing.fleet import ask, eventually
from helexa.testing.neuron import CHAT, FakeModel, Says, ScriptedNeuron
from helexa.wire import control

OLD, NEW = "org/old", "org/new"


async def test_a_node_that_lies_about_leases_keeps_nobody_from_evicting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "LEASE_S", 2.0)
    monkeypatch.setattr(app, "TICK_S", 0.1)
    monkeypatch.setattr(fold, "KEEP_AFTER_REFUSAL_S", 0.1)
    full = ScriptedNeuron(FakeModel(id=OLD, loaded=True), FakeModel(id=NEW), memory_mb=1000, preflight=False)
    async with full, ScriptedNeuron() as liar:
        somebody_else = control.Lease(model_id=NEW, on=full.boot_id, holder="cortex_nobody", seconds=0.1)
        liar.fault("/leases", Says(body=msgspec.json.encode(somebody_else)))
        answer, decision = await asked(full, liar)
    assert answer.status_code == 200, answer.text
    assert len(liar.asked("/leases")) > 1, "it was believed at first"
    said = [action["what"] for action in decision["actions"]]
    assert "liar says that another gateway brings it, but nothing comes: go on" in said
    assert "load on full" in said


async def asked(full: ScriptedNeuron, liar: ScriptedNeuron) -> tuple[httpx2.Response, dict[str, Any]]:
    """The answer of a gateway of both, which may load the new model only in the place of the old, and its decision."""
    config = cfg.CortexConfig(
        gateway=cfg.Gateway(listen="127.0.0.1:0", metrics_listen="127.0.0.1:0"),
        neurons=(cfg.Neuron(name="full", endpoint=full.url), cfg.Neuron(name="liar", endpoint=liar.url)),
        polling=cfg.Polling(every_s=0.1),
    )
    cortex = Cortex(config, cfg.ModelsFile(models=(cfg.Profile(id=NEW, vram_mb=1000, pinned_on=("full",)),)))
    (url,) = await cortex.start()
    try:
        async with httpx2.AsyncClient(base_url=url, timeout=20.0) as http:

            async def known() -> bool:
                return (await http.get("/health")).json()["nodes"]["healthy"] == 2 and OLD in cortex.fleet.places

            await eventually(known, "both nodes are known")
            answer = await http.post(CHAT, json=ask(NEW))
            return answer, (await http.get(f"/cortex/v1/decisions/{answer.headers['x-cortex-decision']}")).json()
    finally:
        await cortex.stop(0.0)
