"""The control contract over real sockets."""

from __future__ import annotations

import asyncio
import re

import msgspec
import pytest

from helexa.base.errors import ConfigError
from helexa.neuron.app import Neuron
from helexa.neuron.config import Warm
from helexa.wire.control import Discovery, Event, Health, JobView, Model
from tests.neuron.api.client import Client
from tests.neuron.api.conftest import config
from tests.neuron.helpers import PATIENCE_S


async def test_discovery_tells_devices_engines_and_what_they_read(client: Client) -> None:
    found = msgspec.json.decode((await client.get("/discovery")).body, type=Discovery)
    assert [(device.index, device.kind, device.vram_total_mb) for device in found.devices] == [(0, "cpu", 1000)]
    assert "echo" in found.harnesses
    assert found.formats["echo"] == ["any"]
    assert found.boot_id == client.neuron.boot_id


async def test_health_shows_what_a_load_has_taken(client: Client) -> None:
    await client.load("org/m", memory_mb=300)
    health = msgspec.json.decode((await client.get("/health")).body, type=Health)
    assert health.activation.state == "ready"
    assert [row.id for row in health.models] == ["org/m"]
    (device,) = health.devices
    assert device.vram_free_mb <= 700
    assert device.foreign_mb == 0
    assert (device.worker, device.worker_state) == ("cpu-dev-0", "ready")


async def test_a_load_answers_once_the_model_serves_and_again_when_it_is_there(client: Client) -> None:
    for _ in range(2):
        got = await client.load("org/m")
        assert (got.status, got.json["status"]) == (200, "loaded")
        assert got.json["load_s"] >= 0.0
    (row,) = msgspec.json.decode((await client.get("/models")).body, type=list[Model])
    assert (row.id, row.harness, row.status, row.devices) == ("org/m", "echo", "loaded", [0])
    assert row.servable is not None
    assert row.servable.ok


async def test_an_id_with_slashes_is_found_encoded_or_not(client: Client) -> None:
    await client.load("org/m")
    for path in ("/models/org/m/endpoint", "/models/org%2Fm/endpoint"):
        got = await client.get(path)
        assert got.json == {"url": client.neuron.url}
    assert (await client.get("/models/org/m/capabilities")).json == {"capabilities": ["text", "embeddings"]}
    assert (await client.get("/models/org/other/endpoint")).status == 404


async def test_a_load_as_a_job_can_be_asked_about(client: Client) -> None:
    body = {"model_id": "m", "harness": "echo", "options": {"load_s": 0.1}}
    got = await client.post("/models/load", body, headers=[(b"prefer", b"respond-async")])
    assert got.status == 202
    job = msgspec.json.decode(got.body, type=JobView)
    assert job.state == "running"
    await client.load("m")
    done = msgspec.json.decode((await client.get(f"/jobs/{job.job_id}")).body, type=JobView)
    assert done.state == "loaded"
    assert (await client.get("/jobs/unknown")).status == 404


async def test_a_failed_job_tells_why(client: Client) -> None:
    body = {"model_id": "m", "harness": "echo", "options": {"fail": "load"}}
    got = await client.post("/models/load", body, headers=[(b"prefer", b"respond-async")])
    await client.load("m")
    job = msgspec.json.decode((await client.get(got.header(b"location").decode())).body, type=JobView)  # type: ignore[union-attr]
    assert job.state == "failed"
    assert job.error is not None
    assert "as asked" in job.error["message"]


async def test_a_failed_load_is_400_with_the_whole_chain(client: Client) -> None:
    got = await client.load("m", fail="load")
    assert got.status == 400
    assert "RuntimeError: the load failed, as asked" in got.json["error"]


async def test_what_does_not_fit_is_422_with_the_arithmetic(client: Client) -> None:
    await client.load("first", memory_mb=600)
    got = await client.load("second", memory_mb=600)
    assert got.status == 422
    error = got.json["error"]
    assert (error["kind"], error["model_id"], error["evictable"]) == ("does_not_fit", "second", True)
    assert error["per_device"]
    assert error["suggestion"]
    never = (await client.load("third", memory_mb=6000)).json["error"]
    assert never["evictable"] is False


async def test_preflight_says_what_a_load_would_do_and_does_nothing(client: Client) -> None:
    got = await client.post("/models/preflight", {"model_id": "m", "harness": "echo", "options": {"memory_mb": 70}})
    assert got.status == 200
    assert got.json["ok"] is True
    assert got.json["plan"]["shares"][0]["needed_mb"] == 70
    assert (await client.get("/models")).json == []


async def test_an_engine_that_is_not_there_is_a_refusal(client: Client) -> None:
    got = await client.post("/models/load", {"model_id": "m", "harness": "nonesuch"})
    assert (got.status, got.json["error"]["kind"]) == (422, "engine_missing")


@pytest.mark.parametrize(
    ("spec", "status", "expected"),
    [
        ({"model_id": "a\nb"}, 400, "is not a model id"),
        ({"tensor_parallel": 0}, 422, "`tensor_parallel`: must be at least 1"),
        ({"options": {"memory_mb": -5}}, 422, "option `memory_mb`: must be at least 0"),
        ({"options": {"load_s": 1e300}}, 422, "option `load_s`"),
    ],
)
async def test_a_load_that_makes_no_sense_names_what_is_wrong(
    client: Client, spec: dict[str, object], status: int, expected: str
) -> None:
    got = await client.post("/models/load", {"model_id": "m", "harness": "echo", **spec})
    assert got.status == status
    assert expected in str(got.json["error"])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"harness": {"lama": {"slots": 2}}}, "no engine is called `lama`; there are llama"),
        ({"warm": Warm(locked_mb=1 << 40)}, "`warm.locked_mb`: this host has"),
    ],
)
async def test_a_configuration_that_this_host_cannot_serve_is_refused_at_start(
    settings: dict[str, object], expected: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)):
        await Neuron(config(**settings)).__aenter__()


async def test_unload_frees_and_says_how_much(client: Client) -> None:
    await client.load("m", memory_mb=300)
    got = await client.post("/models/unload", {"model_id": "m"})
    assert (got.status, got.json) == (200, {"status": "unloaded", "freed_mb": 300})
    assert (await client.post("/models/unload", {"model_id": "m"})).status == 404


async def test_a_busy_model_is_409_and_goes_when_forced(client: Client) -> None:
    await client.load("m", fail="hang:1", reply="one two three")
    async with client.chatting("m", "x", stream=True) as answer:
        assert (await client.post("/models/unload", {"model_id": "m"})).status == 409
        assert (await client.post("/models/unload", {"model_id": "m", "drain_s": 0.01})).status == 409
        assert (await client.post("/models/unload", {"model_id": "m", "force": True})).status == 200
        body = await answer.read(1 << 20)
    assert b'"error"' in body
    assert b"[DONE]" not in body


async def test_a_draining_neuron_refuses_loads_until_it_is_told_otherwise(client: Client) -> None:
    await client.post("/drain")
    assert (await client.load("m")).status == 409
    assert (await client.get("/health")).json["draining"] is True
    await client.post("/undrain")
    assert (await client.load("m")).status == 200


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model_id": 7}', b"\xff", b"{}"])
async def test_a_body_that_is_none_is_400(client: Client, body: bytes) -> None:
    assert (await client.post("/models/load", body)).status == 400


async def test_an_id_that_is_none_is_400(client: Client) -> None:
    assert (await client.load(":x")).status == 400


async def test_unknown_paths_and_methods_are_told_apart(client: Client) -> None:
    assert (await client.get("/nowhere")).status == 404
    assert (await client.get("/models/load")).status == 405


async def test_events_begin_with_what_is_there_and_go_on_with_what_changes(client: Client) -> None:
    await client.load("there")
    async with asyncio.timeout(PATIENCE_S):
        async with await client.origin.request(b"GET", b"/events") as answer:
            heard: list[Event] = []
            statuses: list[tuple[str | None, str]] = []
            loading: asyncio.Task[object] | None = None
            async for piece in answer.chunks():
                lines = [line[6:] for line in piece.split(b"\n") if line.startswith(b"data: ")]
                heard += [msgspec.json.decode(line, type=Event) for line in lines]
                if heard and loading is None:
                    loading = asyncio.create_task(client.load("new", load_s=0.2))
                statuses = [(event.model_id, event.model.status) for event in heard if event.model is not None]
                if ("new", "loaded") in statuses:
                    break
            assert loading is not None
            await loading
    assert statuses[0] == ("there", "loaded")
    assert ("new", "loading") in statuses
    assert any(event.kind == "progress" for event in heard)


async def test_the_token_is_needed_everywhere_but_for_health() -> None:
    async with Neuron(config(token="s3cret"), drain_s=0.1) as neuron:
        client = Client(neuron)
        assert (await client.get("/models")).status == 401
        assert (await client.chat("m", "x")).json["error"]["code"] == "invalid_api_key"
        assert (await client.get("/health")).status == 200
        client.headers = [(b"authorization", b"Bearer s3cret")]
        assert (await client.get("/models")).status == 200
        await client.origin.aclose()


async def test_metrics_are_prometheus_text(client: Client) -> None:
    await client.load("m")
    await client.chat("m", "hello")
    await client.chat("no such model", "hello")
    text = (await client.get("/metrics")).body.decode()
    assert 'neuron_requests_total{model="m",status="200"} 1.0' in text
    assert 'neuron_requests_total{model="unknown",status="404"} 1.0' in text
    assert 'neuron_models{status="loaded"} 1.0' in text


async def test_version_names_the_package(client: Client) -> None:
    assert (await client.get("/version")).json["package_version"]


async def test_default_models_come_up_behind_the_open_port() -> None:
    from helexa.neuron.config import DefaultModel

    models = [
        DefaultModel(model_id="good", harness="echo", options={"load_s": 0.1}),
        DefaultModel(model_id="bad", harness="echo", options={"fail": "load"}),
    ]
    async with Neuron(config(default_models=models), drain_s=0.1) as neuron:
        client = Client(neuron)
        first = msgspec.json.decode((await client.get("/health")).body, type=Health).activation
        assert first.state == "pre_warming"
        async with asyncio.timeout(PATIENCE_S):
            await neuron.warmup.over.wait()
        last = msgspec.json.decode((await client.get("/health")).body, type=Health).activation
        assert last.completed == ["good"]
        assert [failed.model_id for failed in last.failed] == ["bad"]
        assert last.pending == []
        await client.origin.aclose()


async def rows(client: Client) -> dict[str, Model]:
    return {row.id: row for row in msgspec.json.decode((await client.get("/models")).body, type=list[Model])}


async def test_a_load_that_nobody_has_used_yet_is_spared_if_its_evictor_says_so(client: Client) -> None:
    await client.load("m")
    row = (await rows(client))["m"]
    assert row.loaded_s is not None
    assert row.idle_s is None
    refused = await client.post("/models/unload", {"model_id": "m", "spare_unused_s": 60.0})
    assert refused.status == 409
    assert "not used yet" in refused.json["error"]
    await client.chat("m", "hello")
    assert (await rows(client))["m"].idle_s is not None
    assert (await client.post("/models/unload", {"model_id": "m", "spare_unused_s": 60.0})).status == 200


async def test_a_model_that_has_left_and_come_back_is_spared_from_who_saw_it_before(client: Client) -> None:
    await client.load("m")
    seen = (await rows(client))["m"].load_id
    assert (await client.post("/models/unload", {"model_id": "m", "load_id": seen})).status == 200
    await client.load("m")
    refused = await client.post("/models/unload", {"model_id": "m", "load_id": seen})
    assert refused.status == 409
    assert "come back" in refused.json["error"]


async def test_the_first_gateway_that_asks_for_a_lease_has_it(client: Client) -> None:
    asked = {"model_id": "m", "on": "boot-1", "holder": "g1", "seconds": 10}
    assert (await client.post("/leases", asked)).json == asked
    assert (await client.post("/leases", {**asked, "on": "boot-2", "holder": "g2"})).json == asked
    refused = await client.post("/leases", {**asked, "seconds": 1e9})
    assert refused.status == 400
    assert "seconds" in refused.json["error"]


async def test_a_model_that_was_just_used_is_not_unloaded_for_being_idle(client: Client) -> None:
    await client.load("m", tokens_per_s=20)
    await client.chat("m", "hello")
    refused = await client.post("/models/unload", {"model_id": "m", "min_idle_s": 60.0})
    assert (refused.status, refused.json["code"]) == (409, "conflict")
    async with client.chatting("m", "word " * 100, stream=True):
        assert (await rows(client))["m"].idle_s == 0.0


async def test_the_first_use_of_a_load_is_told_to_who_listens(client: Client) -> None:
    await client.load("m")
    with client.neuron.keeper.feed.listen() as news:
        for _ in range(2):
            await client.chat("m", "hello")
        event = news.get_nowait()
        assert event is not None
        assert event.model is not None
        assert (event.kind, event.model.id, event.model.idle_s) == ("model", "m", 0.0)
        assert news.empty()


async def test_a_resting_device_gets_a_fresh_worker_and_its_models_back(client: Client) -> None:
    for name in ("stays", "goes", "goes-too"):
        await client.load(name)
    for name in ("goes", "goes-too"):
        await client.post("/models/unload", {"model_id": name})
    health = msgspec.json.decode((await client.get("/health")).body, type=Health)
    assert health.devices[0].cycles == 2
    before = client.neuron.pool.pid(0)
    with client.neuron.keeper.feed.listen() as news:
        got = await client.post("/devices/0/recycle", {"after_cycles": 2})
        assert (got.status, got.json) == (200, {"status": "recycled", "reloads": ["stays"]})
        async with asyncio.timeout(PATIENCE_S):
            while (row := (await rows(client))["stays"]).status != "loaded" or row.recoveries > 1:
                await news.get()
    assert client.neuron.pool.pid(0) not in (None, before)
    health = msgspec.json.decode((await client.get("/health")).body, type=Health)
    assert (health.devices[0].cycles, health.devices[0].worker_exit is not None) == (0, True)
    assert (await client.chat("stays", "hello")).status == 200


async def test_a_device_is_not_recycled_while_it_is_in_use_or_before_it_is_due(client: Client) -> None:
    await client.load("m", tokens_per_s=5, reply="word " * 50)
    early = await client.post("/devices/0/recycle", {"after_cycles": 1})
    assert (early.status, early.json["code"]) == (409, "conflict")
    async with client.chatting("m", "hello", stream=True):
        busy = await client.post("/devices/0/recycle", {})
        assert busy.status == 409
        assert "in use by m" in busy.json["error"]
    for path in ("/devices/7/recycle", "/devices/x/recycle", "/devices/-1/recycle"):
        assert (await client.post(path, {})).status == 404


async def test_a_model_is_pinned_for_every_gateway_and_one_that_is_not_here_is_not(client: Client) -> None:
    await client.load("m")
    assert (await client.post("/models/pin", {"model_id": "m"})).json == {"model_id": "m", "pinned": True}
    (row,) = msgspec.json.decode((await client.get("/models")).body, type=list[Model])
    assert row.pinned is True
    assert (await client.post("/models/pin", {"model_id": "nobody"})).status == 404
