"""What has gone wrong on nodes of this kind before, each as a test named after it: through a whole neuron, over HTTP,
with real workers and the echo engine. Bounded waits everywhere; the bounds are far above what is expected."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import msgspec
import pytest

from helexa.neuron.app import Neuron
from helexa.neuron.config import Admission, DefaultModel, DeviceEntry, NeuronConfig, Watchdog
from helexa.wire.control import Event, Health, Model
from tests.neuron.api.client import Client, Got
from tests.neuron.helpers import PATIENCE_S, until

WORD_STREAM = {"tokens_per_s": 20.0, "reply": "word " * 400}


def config(**more: object) -> NeuronConfig:
    """Two devices, impatient watchdogs."""
    settings: dict[str, object] = {
        "port": 0,
        "devices": [DeviceEntry(kind="cpu", index=at, memory_mb=1000) for at in range(2)],
        "watchdog": Watchdog(step_s=1.0, load_s=5.0),
        "admission": Admission(max_in_flight=4, max_queue_depth=4, max_wait_s=10.0),
    }
    return NeuronConfig(**(settings | more))  # pyright: ignore[reportArgumentType]


@pytest.fixture
async def node() -> AsyncIterator[Client]:
    async with Neuron(config(), drain_s=0.1) as neuron:
        client = Client(neuron)
        yield client
        await client.origin.aclose()


async def load_on(node: Client, model_id: str, device: int, **options: object) -> None:
    body = {"model_id": model_id, "harness": "echo", "devices": [device], "options": options}
    assert (await node.post("/models/load", body)).status == 200


async def row(node: Client, model_id: str) -> Model:
    rows = msgspec.json.decode((await node.get("/models")).body, type=list[Model])
    return next(row for row in rows if row.id == model_id)


async def health(node: Client) -> Health:
    return msgspec.json.decode((await node.get("/health")).body, type=Health)


async def until_status(node: Client, model_id: str, status: str) -> None:
    """Listen to the events until a model has a status."""
    async with asyncio.timeout(PATIENCE_S), await node.origin.request(b"GET", b"/events") as answer:
        heard = b""
        async for piece in answer.chunks():
            *whole, heard = (heard + piece).split(b"\n\n")
            for frame in whole:
                if frame.startswith(b"data: "):
                    event = msgspec.json.decode(frame[6:], type=Event)
                    if event.model_id == model_id and event.model is not None and event.model.status == status:
                        return


def pid(node: Client, device: int) -> int:
    found = node.neuron.pool.pid(device)
    assert found is not None
    return found


def broke_off(got: Got) -> bool:
    """Whether an answer says itself that its engine failed: by its status, or as the last event of its stream."""
    error = got.json["error"] if got.status != 200 else got.events[-1]["error"]
    return error["code"] == "upstream_error"


async def test_a_killed_worker_loses_its_own_requests_only_and_its_model_is_back_at_the_first_try(
    node: Client,
) -> None:
    await load_on(node, "hit", 0, load_s=1.0, **WORD_STREAM)
    await load_on(node, "spared", 1, tokens_per_s=20.0, reply="word " * 40)
    lost = [asyncio.create_task(node.chat("hit", "x", stream=True)) for _ in range(4)]
    kept = [asyncio.create_task(node.chat("spared", "x", stream=True)) for _ in range(4)]
    await until(lambda: sum(load.in_flight for load in node.neuron.keeper.loads()) == 8)

    os.kill(pid(node, 0), signal.SIGKILL)
    await until_status(node, "hit", "recovering")
    await until_status(node, "hit", "loaded")

    assert [broke_off(got) for got in await asyncio.gather(*lost)] == [True] * 4
    assert [got.events[-1] for got in await asyncio.gather(*kept)] == ["[DONE]"] * 4
    assert [device.worker_restarts for device in (await health(node)).devices] == [1, 0]
    again = await row(node, "hit")
    assert (again.status, again.recoveries) == ("loaded", 1)


async def test_many_askers_at_once_cause_one_load(node: Client) -> None:
    asks = [node.load(name, load_s=0.2) for name in ("org/m", "hf:org/m", "huggingface:org/m") * 5]
    assert {got.status for got in await asyncio.gather(*asks)} == {200}
    assert len(node.neuron.keeper.models()) == 1
    assert node.neuron.keeper.devices()[0].reserved_mb == 64


async def test_a_slow_start_does_not_look_like_a_dead_host() -> None:
    slow = DefaultModel(model_id="m", harness="echo", options={"load_s": 30.0})
    async with Neuron(config(default_models=[slow]), drain_s=0.0) as neuron:
        node = Client(neuron)
        said = await health(node)
        assert (said.activation.state, (await node.get("/health")).status) == ("pre_warming", 200)
        ready = await node.get("/ready")
        assert (ready.status, ready.json["reasons"]) == (503, ["the default models are still being loaded"])
        await node.origin.aclose()


async def test_a_node_with_nothing_left_to_do_first_is_ready(node: Client) -> None:
    assert (await node.get("/ready")).json == {"ready": True, "reasons": []}
    await node.post("/drain")
    assert (await node.get("/ready")).status == 503
    assert (await node.get("/health")).status == 200


async def test_a_driver_that_lost_its_device_does_not_hang_later_requests(node: Client) -> None:
    """The context was poisoned, and every later request waited for ever."""
    await load_on(node, "m", 0, fail="fault:10")
    got = await node.chat("m", "word " * 20, stream=True)
    assert broke_off(got)
    assert (await node.chat("m", "hello")).status in (200, 502, 503)  # at once, and whatever is true by then
    await until(lambda: node.neuron.pool.restarts(0) == 1)
    await until_status(node, "m", "loaded")
    assert (await node.chat("m", "hello")).status == 200
    (device, _) = (await health(node)).devices
    assert device.worker_exit is not None
    assert "illegal memory access" in device.worker_exit.lines[-1]
    assert "illegal memory access" in ((await row(node, "m")).last_error or "")


@pytest.mark.parametrize(("fail", "status"), [("load", 400), ("sometimes", 422)])
async def test_a_programs_error_does_not_poison_the_models_beside_it(node: Client, fail: str, status: int) -> None:
    await load_on(node, "neighbour", 0)
    body = {"model_id": "wrong", "harness": "echo", "devices": [0], "options": {"fail": fail}}
    assert (await node.post("/models/load", body)).status == status
    assert (await row(node, "neighbour")).status == "loaded"
    assert (await health(node)).devices[0].worker_restarts == 0


async def test_a_failed_step_fails_one_request_and_nothing_else(node: Client) -> None:
    await load_on(node, "m", 0, fail="step:3")
    assert (await node.chat("m", "one two three four")).status == 500
    assert (await node.chat("m", "one two")).status == 200
    assert (await row(node, "m")).status == "loaded"


async def test_a_model_does_not_vanish_from_the_list_while_it_is_brought_back(node: Client) -> None:
    """It disappeared from routing during the reload, and requests were told that it did not exist."""
    await load_on(node, "m", 0, load_s=0.5)
    os.kill(pid(node, 0), signal.SIGKILL)
    await until_status(node, "m", "recovering")
    assert (await row(node, "m")).servable is not None
    refused = await node.chat("m", "x")
    assert (refused.status, refused.header(b"retry-after")) == (503, b"2")
    await until_status(node, "m", "loaded")


async def test_replies_stay_with_their_jobs_when_loads_fail_between_them(node: Client) -> None:
    """An early return left replies in the pipe, and every later call got the answer of another."""
    asks = [node.load(f"m{at}", **({"fail": "load"} if at % 2 else {"memory_mb": 10 + at})) for at in range(10)]
    statuses = [got.status for got in await asyncio.gather(*asks)]
    assert statuses == [200, 400] * 5
    for at in range(0, 10, 2):
        assert (await row(node, f"m{at}")).vram_used_mb == 10 + at


async def test_a_client_that_leaves_does_not_disturb_the_others(node: Client) -> None:
    await load_on(node, "m", 0, tokens_per_s=50.0, reply="word " * 30)
    stays = asyncio.create_task(node.chat("m", "x", stream=True))
    leaves = asyncio.create_task(node.chat("m", "x", stream=True))
    await until(lambda: node.neuron.keeper.loads()[0].in_flight == 2)
    leaves.cancel()
    assert (await stays).events[-1] == "[DONE]"
    assert node.neuron.pool.restarts(0) == 0


@pytest.mark.parametrize("fault", ["hang:10", "freeze:10"])
async def test_a_step_that_never_ends_is_noticed_and_its_worker_replaced(node: Client, fault: str) -> None:
    """A collective hung for 70 minutes, and everything that watched the daemon was content."""
    await load_on(node, "m", 0, fail=fault)
    got = await node.chat("m", "word " * 20, stream=True)
    assert broke_off(got)
    await until_status(node, "m", "loaded")
    assert "stuck" in ((await row(node, "m")).last_error or "")


async def test_a_load_that_hangs_costs_its_own_worker_only_and_says_so() -> None:
    async with Neuron(config(watchdog=Watchdog(step_s=1.0, load_s=2.0)), drain_s=0.1) as neuron:
        node = Client(neuron)
        await load_on(node, "other", 1)
        body = {"model_id": "m", "harness": "echo", "devices": [0], "options": {"fail": "hang:load"}}
        got = await node.post("/models/load", body)
        assert got.status == 400
        assert "stuck" in got.json["error"]
        assert (await row(node, "other")).status == "loaded"
        await until(lambda: neuron.pool.state(0) == "quarantined")
        await load_on(node, "m2", 0)
        assert neuron.pool.state(0) == "ready"
        await node.origin.aclose()


async def test_asking_about_models_and_health_never_waits_for_a_busy_device(node: Client) -> None:
    """The list of models asked a busy worker for its memory; five seconds later the node was dropped."""
    await load_on(node, "m", 0)
    os.kill(pid(node, 0), signal.SIGSTOP)  # a device that answers nothing at all
    try:
        for path in ("/health", "/models", "/discovery", "/metrics", "/version", "/ready"):
            assert (await node.get(path)).status == 200
    finally:
        os.kill(pid(node, 0), signal.SIGCONT)


async def test_a_model_with_a_request_in_flight_is_not_unloaded_under_it(node: Client) -> None:
    await load_on(node, "m", 0, tokens_per_s=50.0, reply="word " * 30)
    talking = asyncio.create_task(node.chat("m", "x", stream=True))
    await until(lambda: node.neuron.keeper.loads()[0].in_flight == 1)
    assert (await node.post("/models/unload", {"model_id": "m"})).status == 409
    assert (await talking).events[-1] == "[DONE]"


async def test_a_saturated_model_is_not_a_broken_one() -> None:
    narrow = Admission(max_in_flight=1, max_queue_depth=0, max_wait_s=1.0)
    async with Neuron(config(admission=narrow), drain_s=0.0) as neuron:
        node = Client(neuron)
        await load_on(node, "m", 0, tokens_per_s=20.0, reply="word " * 20)
        first = asyncio.create_task(node.chat("m", "x"))
        await until(lambda: neuron.keeper.loads()[0].in_flight == 1)
        refused = await node.chat("m", "x")
        assert (refused.status, refused.json["error"]["code"]) == (503, "rate_limit_exceeded")
        assert int(refused.header(b"retry-after") or 0) >= 1
        assert (await row(node, "m")).servable.ok  # type: ignore[union-attr]
        assert (await health(node)).models[0].rejected_queue_full == 1
        assert (await first).status == 200
        await node.origin.aclose()


async def test_waiters_that_leave_do_not_cost_seats(node: Client) -> None:
    """Cancelled waiters kept their places; an idle model answered 429 for ever."""
    await load_on(node, "m", 0, tokens_per_s=50.0, reply="word " * 20)
    for _ in range(3):
        asks = [asyncio.create_task(node.chat("m", "x")) for _ in range(8)]
        await until(lambda: node.neuron.keeper.loads()[0].queue_depth == 4)
        for ask in asks:
            ask.cancel()
        await asyncio.gather(*asks, return_exceptions=True)
        await until(lambda: node.neuron.keeper.loads()[0].in_flight == 0)
    assert (await node.chat("m", "x", max_tokens=1)).status == 200


async def test_a_wait_for_a_seat_ends_at_its_deadline_with_a_time_to_come_back() -> None:
    short = Admission(max_in_flight=1, max_queue_depth=4, max_wait_s=0.2)
    async with Neuron(config(admission=short, watchdog=Watchdog(step_s=60.0)), drain_s=0.0) as neuron:
        node = Client(neuron)
        await load_on(node, "m", 0, fail="hang:1")
        async with AsyncExitStack() as held:
            await held.enter_async_context(node.chatting("m", "one two", stream=True))
            refused = await node.chat("m", "one two")
            assert (refused.status, refused.json["error"]["code"]) == (503, "rate_limit_exceeded")
            assert refused.header(b"retry-after") is not None
        await node.origin.aclose()


@pytest.mark.slow
async def test_a_model_that_cannot_be_brought_back_ends_as_failed_with_its_reason(node: Client) -> None:
    await load_on(node, "m", 0, fail="step:0")
    node.neuron.pool.condemn(0, "Xid 79: the GPU has fallen off the bus")
    await until_status(node, "m", "failed")
    said = await row(node, "m")
    assert "canary prompt failed" in (said.error or "")
    assert said.servable is not None
    assert not said.servable.ok
    await until(lambda: node.neuron.pool.state(0) == "quarantined")
    (device, _) = (await health(node)).devices
    assert (device.worker_state, device.worker_error) == ("quarantined", node.neuron.pool.suspicion(0))
    assert node.neuron.keeper.devices()[0].reserved_mb == 0
