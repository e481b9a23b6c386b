"""Several gateways over the same neurons, with nothing else in common; real processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from helexa.testing.fleet import Fleet, Gateway, ask, eventually

from .test_fleet import DEVICE, echo

POLLING = "every_s = 0.5\n"
NODES = {"n1": DEVICE, "n2": DEVICE, "n3": DEVICE}
LARGE = [f"large-{number}" for number in range(6)]


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    """Of the large models one fits on a node."""
    models = "".join(echo(name, memory_mb=600, load_s=0.5) for name in LARGE)
    models += echo("small", memory_mb=100, load_s=1.0)
    async with Fleet(tmp_path, neurons=NODES, models=models, polling=POLLING, gateways=2) as running:

        async def known() -> bool:
            """Both have heard from every node what every model takes there: before that their choices may differ."""
            asked = [(gateway, {"model": model}) for gateway in running.gateways for model in (*LARGE, "small")]
            plans = [(await gateway.http.post("/cortex/v1/plan", json=model)).json() for gateway, model in asked]
            return all([one["needed_mb"] > 0 for one in plan["candidates"]] == [True] * len(NODES) for plan in plans)

        await eventually(known, "both know all nodes")
        yield running


async def chat(gateway: Gateway, model: str, **more: object) -> httpx2.Response:
    answer = await gateway.http.post("/v1/chat/completions", json=ask(model, **more))
    assert answer.status_code == 200, answer.text
    return answer


def loads(fleet: Fleet, model: str) -> int:
    """How often any neuron has loaded it."""
    return sum(daemon.log.read_text().count(f"{model} is loaded") for daemon in fleet.neurons.values())


def swaps(fleet: Fleet) -> int:
    return sum(daemon.log.read_text().count(" is unloading") for daemon in fleet.neurons.values())


async def told_evictions(fleet: Fleet) -> float:
    """As the gateways count them."""
    texts = [(await gateway.http.get(gateway.metrics_url)).text for gateway in fleet.gateways]
    lines = [line for text in texts for line in text.splitlines() if line.startswith("cortex_evictions_total")]
    return sum(float(line.split()[-1]) for line in lines)


async def views(fleet: Fleet) -> list[dict[str, set[tuple[str, str]]]]:
    """What each gateway believes to be where."""
    return [
        {name: {(place["model"], place["status"]) for place in node["models"]} for name, node in found.items()}
        for found in [await gateway.nodes() for gateway in fleet.gateways]
    ]


async def test_a_model_that_both_are_asked_for_is_loaded_once(fleet: Fleet) -> None:
    answers = await asyncio.gather(*(chat(gateway, "small") for gateway in fleet.gateways for _ in range(10)))
    assert len({answer.headers["x-cortex-node"] for answer in answers}) == 1
    assert loads(fleet, "small") == 1


async def test_models_that_both_are_asked_for_at_once_in_any_order_are_loaded_once_each(tmp_path: Path) -> None:
    """What one has just loaded it weighs against the next, so without an agreement they choose different nodes."""
    names = [f"m{number}" for number in range(8)]
    models = "".join(echo(name, memory_mb=100, load_s=0.5) for name in names)
    async with Fleet(tmp_path, neurons=NODES, models=models, polling=POLLING, gateways=2) as fleet:
        first, second = fleet.gateways
        forwards = (chat(first, name) for name in names)
        await asyncio.gather(*forwards, *(chat(second, name) for name in reversed(names)))
        assert {name: loads(fleet, name) for name in names} == dict.fromkeys(names, 1)


async def test_a_model_is_loaded_once_though_the_gateways_have_other_names_for_the_nodes(tmp_path: Path) -> None:
    """Among equal nodes the name decides, so that without an agreement each chooses another one."""
    names = [f"m{number}" for number in range(6)]
    models = "".join(echo(name, memory_mb=100, load_s=0.5) for name in names)
    async with Fleet(tmp_path, neurons=NODES, models=models, polling=POLLING) as fleet:
        nodes = zip(("z", "y", "x"), fleet.neurons.values(), strict=True)
        listed = "".join(f'[[neurons]]\nname = "{name}"\nendpoint = "{daemon.url}"\n' for name, daemon in nodes)
        second = Gateway(tmp_path, "second", f'models_config = "models.toml"\n[polling]\n{POLLING}\n{listed}')
        second.cortex.start()
        try:
            await eventually(second.all_healthy, "the second gateway knows the nodes")
            await asyncio.gather(*(chat(gateway, name) for name in names for gateway in (fleet, second)))
        finally:
            await second.http.aclose()
            await second.cortex.stop()
        assert {name: loads(fleet, name) for name in names} == dict.fromkeys(names, 1)


async def test_they_agree_on_what_is_where_within_one_poll(fleet: Fleet) -> None:
    await asyncio.gather(*(chat(fleet.gateways[number % 2], model) for number, model in enumerate(LARGE[:3])))

    async def agreed() -> bool:
        first, second = await views(fleet)
        return first == second and {model for there in first.values() for model, _ in there} == set(LARGE[:3])

    await eventually(agreed, "both believe the same")
    assert swaps(fleet) == 0


async def test_neither_evicts_what_the_other_has_just_loaded_for_somebody(fleet: Fleet) -> None:
    """Each of two crowds wants three models, and of the six only three fit."""
    first, second = fleet.gateways
    crowds = ((first, LARGE[:3]), (second, LARGE[3:]))
    await asyncio.gather(*(chat(gateway, model) for _ in range(4) for gateway, models in crowds for model in models))
    # Everybody asked at the start, so a model that goes before its askers are served has to be loaded again for them.
    assert sum(loads(fleet, model) for model in LARGE) <= len(LARGE) + 1
    assert swaps(fleet) <= len(LARGE) - len(NODES) + 1
    assert await told_evictions(fleet) == swaps(fleet)


async def test_one_does_not_unload_as_idle_what_the_other_uses(tmp_path: Path) -> None:
    profile = echo("a", memory_mb=100, tokens_per_s=20).replace("options", "idle_unload_s = 2.0\noptions")
    async with Fleet(tmp_path, neurons={"n1": DEVICE}, models=profile, polling=POLLING, gateways=2) as fleet:
        second = fleet.others[0]
        await chat(fleet, "a")
        for _ in range(8):  # for longer than that in all, with pauses that are much shorter
            await chat(second, "a", text="one two three four five six seven eight")
        assert loads(fleet, "a") == 1
        await fleet.until_status("a", "cold")


async def test_steady_traffic_through_one_does_not_keep_the_others_waiters_out_for_ever(tmp_path: Path) -> None:
    models = echo("busy", memory_mb=600, tokens_per_s=20) + echo("wanted", memory_mb=600)
    hasty = "[eviction]\nmin_residency_s = 1.0\npatience_s = 1.0\n"
    async with Fleet(
        tmp_path, neurons={"n1": DEVICE}, models=models, cortex=hasty, polling=POLLING, gateways=2
    ) as fleet:
        over = asyncio.Event()

        async def traffic() -> None:
            while not over.is_set():
                await chat(fleet, "busy")

        async with asyncio.TaskGroup() as crowd:
            for _ in range(4):
                crowd.create_task(traffic())
            await fleet.until_status("busy", "loaded")
            await chat(fleet.others[0], "wanted")
            over.set()
