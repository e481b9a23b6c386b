"""Four neurons, a gateway, two hundred clients, and everything that can happen to processes.

`CHAOS_SEED=n` plays other disturbances than usual; `CHAOS_ROUNDS=n` plays so many disturbances.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
from pathlib import Path

import pytest

from helexa.gateway.flow import FAILURES
from helexa.http1.client import Origin
from helexa.testing.fleet import Fleet, eventually
from tests.chaos.clients import KINDS, Tally, Told, ask
from tests.interaction.test_fleet import echo

CLIENTS = 200
WORDS = 8
ADMISSION = "[admission]\nmax_in_flight = 64\nmax_queue_depth = 512\n"
FINAL_S = 90.0


def device(memory_mb: int) -> str:
    return f'{ADMISSION}[[devices]]\nkind = "cpu"\nindex = 0\nmemory_mb = {memory_mb}\n'


NEURONS = {"n1": device(1000), "n2": device(1000), "n3": device(1000), "n4": device(400)}
PACE = {"tokens_per_s": 6}
SERVED = {
    "large-1": 600,
    "large-2": 600,
    "large-3": 600,
    "small-1": 300,
    "small-2": 300,
    "slow-1": 350,
}
MODELS = (
    "".join(echo(name, memory_mb=mib, load_s=2.0 if "slow" in name else 0.2, **PACE) for name, mib in SERVED.items())
    + echo("refused", memory_mb=100, fail="load")
    + echo("giant", memory_mb=9000)
)
EVICTION = "[eviction]\nmin_residency_s = 2.0\npatience_s = 2.0\n"
POLLING = "every_s = 0.5\ntimeout_s = 1.0\n"


async def client(number: int, fleet: Fleet, over: asyncio.Event, tally: Tally, seed: int) -> None:
    """Asks until it is over; mostly for what can be served, now and then for what cannot."""
    dice = random.Random(f"{seed}/{number}")
    origin = Origin.from_url(fleet.url)
    try:
        asked = 0
        while not over.is_set():
            asked += 1
            kind = dice.choice(KINDS)
            model = dice.choice(["refused", "giant"]) if dice.random() < 0.03 else dice.choice(list(SERVED))
            text = " ".join(f"{number}-{asked}-{word}" for word in range(WORDS))
            tally.all.append(await ask(origin, kind, model, text))
            if model in ("refused", "giant"):
                await asyncio.sleep(1.0)
    finally:
        await origin.aclose()


async def gave_up(fleet: Fleet, told: Told) -> bool:
    """Whether as many nodes failed on it as a request is allowed: it may have been the reason."""
    found = (await fleet.http.get(f"/cortex/v1/decisions/{told.decision}")).json()
    return sum(action["what"].startswith("tried again") for action in found["actions"]) >= FAILURES - 1


async def explained(fleet: Fleet, told: Told) -> str:
    """Why a request was refused, in the gateway's own words."""
    found = await fleet.http.get(f"/cortex/v1/decisions/{told.decision}")
    return f"{told.kind} {told.model}: {told.status} {told.reason}\n{found.text}"


class Trouble:
    """One disturbance after another, each of one node, and everybody healthy in between."""

    def __init__(self, fleet: Fleet, dice: random.Random) -> None:
        self._fleet, self._dice = fleet, dice
        self.done: list[str] = []

    async def one(self) -> None:
        act = self._dice.choice([self.kill, self.kill, self.freeze_shortly, self.freeze, self.unload, self.drain])
        name = self._dice.choice(list(NEURONS))
        self.done.append(f"{act.__name__} {name}")
        await act(name)
        await eventually(self._fleet.all_healthy, "every node healthy again", limit_s=30)

    async def kill(self, name: str) -> None:
        daemon = self._fleet.neurons[name]
        daemon.kill()
        await asyncio.sleep(self._dice.uniform(0.1, 1.5))
        daemon.start()

    async def freeze_shortly(self, name: str) -> None:
        """Not long enough for anybody to give it up."""
        await self._freeze(name, self._dice.uniform(0.2, 1.0))

    async def freeze(self, name: str) -> None:
        await self._freeze(name, self._dice.uniform(6.0, 8.0))

    async def _freeze(self, name: str, seconds: float) -> None:
        daemon = self._fleet.neurons[name]
        daemon.kill(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            daemon.kill(signal.SIGCONT)

    async def unload(self, name: str) -> None:
        """The operator takes a model out, right at the neuron; whether it is busy is the neuron's to say."""
        url = self._fleet.neurons[name].url
        rows = (await self._fleet.http.get(f"{url}/models")).json()
        if rows:
            body = {"model_id": self._dice.choice(rows)["id"]}
            await self._fleet.http.post(f"{url}/models/unload", json=body)

    async def drain(self, name: str) -> None:
        await self._fleet.http.post("/cortex/v1/drain", json={"node": name, "drain": True})
        await asyncio.sleep(self._dice.uniform(0.5, 2.0))
        await self._fleet.http.post("/cortex/v1/drain", json={"node": name, "drain": False})


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_whatever_happens_to_neurons_no_request_is_lost_and_nothing_is_left_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or 1)
    rounds = int(os.environ.get("CHAOS_ROUNDS") or 10)
    tally, over = Tally(), asyncio.Event()
    async with Fleet(tmp_path, neurons=NEURONS, models=MODELS, cortex=EVICTION, polling=POLLING) as fleet:
        trouble = Trouble(fleet, random.Random(seed))
        async with asyncio.TaskGroup() as crowd:
            for number in range(CLIENTS):
                crowd.create_task(client(number, fleet, over, tally, seed))
            await asyncio.sleep(2.0)
            for _ in range(rounds):
                await trouble.one()
                await asyncio.sleep(0.5)
            over.set()
        with capsys.disabled():
            print(f"\nchaos: {tally}; {', '.join(trouble.done)}; CHAOS_SEED={seed}")
        await fleet.until_idle()
        await fleet.until_neurons_idle()
        lost = [told for told in tally.refusals() if told.model in SERVED and not await gave_up(fleet, told)]
        assert not lost, [await explained(fleet, told) for told in lost[:3]]
        expected = {told.status for told in tally.refusals() if told.model == "giant"}
        assert expected <= {422}
        assert tally.count("whole") > CLIENTS
    for daemon in fleet.daemons:
        complaints = re.findall(r"(?m)^.*(?:Traceback|died|failed; going on|nobody foresaw).*$", daemon.log.read_text())
        assert not complaints, (daemon.log.name, complaints[:3])
