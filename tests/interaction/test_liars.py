"""A neuron that lies: it is ignored or marked unhealthy with a reason, and everybody else goes on being served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from helexa.testing.fleet import Fleet, ask, eventually
from helexa.testing.neuron import CHAT, Endless, Ends, FakeModel, Fault, Hangs, Says, ScriptedNeuron

POLLING = "every_s = 0.1\ntimeout_s = 1.0\nmisses = 2\n"
TEN_MB = json.dumps([{"id": f"org/{number}", "status": "loaded", "devices": [0]} for number in range(200_000)]).encode()
NONSENSE: dict[str, tuple[str, Fault]] = {
    "no JSON": ("/health", Says(body=b"<html>it works!</html>", content_type="text/html")),
    "not UTF-8": ("/models", Says(body=b'[{"id":"\xff\xfe"}]')),
    "half an answer": ("/models", Says(body=b'[{"id":"org/a"')),
    "another shape": ("/models", Says(body=b'{"models":[]}')),
    "nested without end": ("/health", Says(body=b"[" * 100_000)),
    "numbers as texts": ("/health", Says(body=b'{"uptime_secs":"long"}')),
    "a number beyond all": ("/health", Says(body=b'{"uptime_secs":%d}' % 10**40)),
    "10 MB of models": ("/models", Says(body=TEN_MB)),
    "a body without end": ("/models", Endless()),
    "a server error": ("/health", Says(status=500, body=b"panic")),
    "no answer at all": ("/models", Hangs()),
    "a head and no body": ("/health", Hangs(head=True)),
    "a redirect": ("/health", Says(status=302, body=b"")),
}


class Den:
    """An honest node, a liar, and a gateway that has both."""

    def __init__(self, fleet: Fleet, liar: ScriptedNeuron) -> None:
        self.fleet, self.liar = fleet, liar

    async def problem(self, lie: str) -> str:
        """What the gateway has against the liar, once it is unhealthy."""

        async def found_out() -> str | None:
            node = await self.fleet.node("liar")
            return None if node["healthy"] else node["problem"]

        return str(await eventually(found_out, f"{lie}: found out"))

    async def polled(self) -> None:
        """The liar's next word has been taken in."""
        before = len(self.liar.asked("/models"))
        await self.liar.until(lambda: len(self.liar.asked("/models")) >= before + 2)

    async def all_is_well(self) -> None:
        """The honest node serves, whatever the other says."""
        for path in ("/v1/models", "/health", "/cortex/v1/nodes", "/cortex/v1/models"):
            assert (await self.fleet.http.get(path)).status_code == 200, path
        assert (await self.fleet.http.get(self.fleet.metrics_url)).status_code == 200
        answer = await self.fleet.http.post(CHAT, json=ask("org/true"))
        assert (answer.status_code, answer.headers["x-cortex-node"]) == (200, "honest")
        assert not self.fleet.cortex.ended


@pytest.fixture
async def den(tmp_path: Path) -> AsyncIterator[Den]:
    async with AsyncExitStack() as stack:
        honest = await stack.enter_async_context(ScriptedNeuron(FakeModel(id="org/true", loaded=True)))
        liar = await stack.enter_async_context(ScriptedNeuron(FakeModel(id="org/lie", loaded=True)))
        strangers = {"honest": honest.url, "liar": liar.url}
        fleet = Fleet(tmp_path, neurons={}, strangers=strangers, polling=POLLING)
        yield Den(await stack.enter_async_context(fleet), liar)
        log = fleet.cortex.log.read_text()
        assert "Traceback" not in log, log[log.index("Traceback") :][:3000]


@pytest.mark.slow
async def test_nonsense_makes_a_node_unhealthy_with_a_reason_until_it_makes_sense_again(den: Den) -> None:
    for what, (path, fault) in NONSENSE.items():
        den.liar.fault(path, fault)
        assert len(await den.problem(what)) > 10
        await den.all_is_well()
        den.liar.mend()
        await eventually(den.fleet.all_healthy, f"the liar is healthy again after {what}")


ODD: dict[str, dict[str, Any]] = {
    "negative memory": {"vram_used_mb": -5_000, "in_flight": -3},
    "more memory than there is": {"vram_used_mb": 10**15},
    "a time before all": {"loaded_s": 1e308},
    "devices that are not there": {"devices": [7, -1, 10**9]},
    "a device many times": {"devices": [0] * 1000},
    "an unknown status": {"status": "dreaming"},
    "no status": {"status": ""},
    "negative times": {"loaded_s": -5.0, "idle_s": -1e308, "load_s": -1.0},
    "a load of more than everything": {
        "status": "loading",
        "loading": {"stage": "x" * 1000, "progress": 17.5, "eta_s": -3},
    },
    "odd limits": {"limit": {"context": -1, "output": -(10**12)}},
    "a text of half a character": {"error": "\ud800", "status": "failed"},
    "an id of lines": {"id": "org/lie\r\nx-evil: 1"},
    "an empty id": {"id": ""},
    "an id of another's model": {"id": "org/true", "vram_used_mb": -1, "status": "unloading"},
    "fields that nobody knows": {"quantum": {"entangled": [1, 2, 3]}},
}


async def test_odd_figures_are_taken_for_what_they_are_worth(den: Den) -> None:
    for row in ODD.values():
        den.liar.models["org/lie"].row = row
        await den.polled()
        await den.all_is_well()
    device = {"index": 0, "vram_used_mb": -1, "vram_free_mb": -(10**12), "foreign_mb": -7, "cycles": -1}
    den.liar.health = {"devices": [device, device], "uptime_secs": -1, "models": [{"id": "org/lie", "in_flight": -9}]}
    await den.polled()
    await den.all_is_well()


async def test_a_node_that_tells_nonsense_of_itself_is_not_used(den: Den) -> None:
    await den.liar.stop()
    den.liar.discovery = {"devices": [{"index": -4, "vram_total_mb": -24_000, "name": None}]}
    await den.liar.start()
    assert "liar" in await den.problem("negative devices")
    await den.all_is_well()


@pytest.mark.slow
async def test_events_that_are_none_do_not_disturb(den: Den) -> None:
    for fault in (Says(body=b"data: {\n\n", content_type="text/event-stream"), Endless(), Says(status=500), Ends()):
        den.liar.fault("/events", fault, times=2)
        before = len(den.liar.asked("/events"))
        await den.liar.stop()
        await den.liar.start()
        await den.liar.until(lambda before=before: len(den.liar.asked("/events")) >= before + 2)
        await den.all_is_well()


async def test_a_load_that_is_answered_with_nonsense_is_a_failed_load(den: Den) -> None:
    den.liar.models["org/cold"] = FakeModel(id="org/cold")
    (den.fleet.folder / "models.toml").write_text('[[models]]\nid = "org/cold"\npinned_on = ["liar"]\n')
    assert (await den.fleet.http.post("/cortex/v1/reload")).status_code == 200
    den.liar.fault("/models/load", Says(status=422, body=b'{"error":{"kind":7,"needed_mb":"much","evictable":"yes"}}'))
    answer = await den.fleet.http.post(CHAT, json=ask("org/cold"))
    assert answer.status_code == 422, answer.text
    den.liar.fault("/models/load", Says(status=200, body=b"loaded, honestly"))
    await asyncio.sleep(0)
    await den.all_is_well()
