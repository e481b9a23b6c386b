"""A reload touches what changed; a wrong file changes nothing, says why, and goes on serving. HTTP and SIGHUP."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from helexa.testing.fleet import Fleet, ask, eventually, free_port

from .test_fleet import DEVICE, echo

COMPLAINT = "not reloaded, nothing changed"
MODELS = echo("a", memory_mb=100) + echo("slow", memory_mb=100, tokens_per_s=20)
TLS = 'models_config = "models.toml"\n[gateway]\ntls_cert = "no.pem"\ntls_key = "no.key"\n'
WRONG = {
    "no TOML": ("cortex.toml", "[gateway\n", "is not valid TOML"),
    "an unknown key": ("cortex.toml", "[gateway]\nlisten_at = 1\n", "did you mean"),
    "an unknown key of a model": ("models.toml", "[[models]]\nidd = 1\n", "did you mean `id`?"),
    "a wrong type": ("cortex.toml", "[eviction]\nmin_residency_s = 'long'\n", "eviction.min_residency_s"),
    "a wrong word": ("cortex.toml", "[eviction]\nstrategy = 'best'\n", "one of cost, lru, priority"),
    "a value out of range": ("cortex.toml", "[polling]\nevery_s = 0\n", "polling.every_s"),
    "a model twice": ("models.toml", '[[models]]\nid = "a"\n[[models]]\nid = "a"\n', "stands twice"),
    "a certificate that is not there": ("cortex.toml", TLS, "do not make a certificate"),
    "a node that there is not": ("models.toml", '[[models]]\nid = "a"\npinned_on = ["n2"]\n', "no neuron is called"),
    "no bytes of text": ("models.toml", "\udcff", "is not valid TOML"),
}


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with Fleet(tmp_path, neurons={"n1": DEVICE}, models=MODELS) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lasting(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """One for all that is undone at the end of each test."""
    async with Fleet(tmp_path_factory.mktemp("fleet"), neurons={"n1": DEVICE}, models=MODELS) as running:
        yield running


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("what", WRONG)
async def test_a_wrong_file_changes_nothing_and_is_named(lasting: Fleet, what: str) -> None:
    fleet = lasting
    name, text, said = WRONG[what]
    path = fleet.folder / name
    right = path.read_bytes()
    told = fleet.cortex.log.read_text().count(COMPLAINT)
    before = (await fleet.http.get("/v1/models")).json()
    path.write_bytes(text.encode(errors="surrogateescape"))
    answer = await fleet.http.post("/cortex/v1/reload")
    assert answer.status_code == 400
    assert str(path) in answer.json()["error"]["message"]
    assert said in answer.json()["error"]["message"]
    fleet.cortex.kill(signal.SIGHUP)

    async def complained() -> bool:
        return fleet.cortex.log.read_text().count(COMPLAINT) > told

    await eventually(complained, "the log says so")
    assert (await fleet.http.get("/v1/models")).json() == before
    assert (await fleet.http.post("/v1/chat/completions", json=ask("a"))).status_code == 200
    path.write_bytes(right)
    assert (await fleet.http.post("/cortex/v1/reload")).status_code == 200


async def test_a_good_file_is_taken_up_on_sighup_and_streams_go_on(fleet: Fleet) -> None:
    models = fleet.folder / "models.toml"
    models.write_text(models.read_text() + echo("b", memory_mb=100) + '[aliases]\nclaude = "b"\n')
    fleet.cortex.kill(signal.SIGHUP)

    async def listed() -> bool:
        return (await fleet.http.get("/v1/models/claude")).status_code == 200

    await eventually(listed, "the new alias is there")
    assert (await fleet.http.post("/v1/chat/completions", json=ask("claude"))).status_code == 200


async def test_new_settings_of_a_model_that_is_loaded_wait_for_its_next_load_and_that_is_told(fleet: Fleet) -> None:
    assert (await fleet.http.post("/v1/chat/completions", json=ask("a"))).status_code == 200
    models = fleet.folder / "models.toml"
    models.write_text(models.read_text().replace('id = "a"', 'id = "a"\ncontext = 1024'))
    assert (await fleet.http.post("/cortex/v1/reload")).json()["at_next_load"] == ["a"]
    assert (await fleet.entry("a"))["context_length"] != 1024
    await fleet.http.post("/cortex/v1/unload", json={"model": "a"})
    await fleet.until_status("a", "cold")
    assert (await fleet.http.post("/v1/chat/completions", json=ask("a"))).status_code == 200
    assert (await fleet.entry("a"))["context_length"] == 1024


async def test_a_node_may_get_another_name_or_address_while_it_works(fleet: Fleet) -> None:
    """Once the seat of a request on a node that had left the file could not be given back, and a new address was not
    taken up."""
    config = fleet.folder / "cortex.toml"
    assert (await fleet.http.post("/v1/chat/completions", json=ask("slow", "x"))).status_code == 200
    long = ask("slow", stream=True, text="word " * 30)
    async with fleet.http.stream("POST", "/v1/chat/completions", json=long) as answer:
        lines = answer.aiter_lines()
        assert (await anext(lines)).startswith("data:")
        config.write_text(config.read_text().replace('name = "n1"', 'name = "renamed"'))
        told = (await fleet.http.post("/cortex/v1/reload")).json()
        assert told == {"changed": ["neurons"], "after_restart": [], "at_next_load": []}
        assert [line async for line in lines if line][-1] == "data: [DONE]"
    await eventually(fleet.all_healthy, "it is back under its new name")
    assert (await fleet.http.post("/v1/chat/completions", json=ask("a"))).headers["x-cortex-node"] == "renamed"
    await fleet.until_idle()
    assert "Traceback" not in fleet.cortex.log.read_text()

    text = config.read_text().replace(fleet.neurons["n1"].url, f"http://127.0.0.1:{free_port()}")
    config.write_text(text.replace("max_wait_s = 30", "max_wait_s = 30\nmax_body_mb = 1"))
    told = (await fleet.http.post("/cortex/v1/reload")).json()
    assert (told["changed"], told["after_restart"]) == (["gateway", "neurons"], ["gateway.max_body_mb"])

    async def gone() -> bool:
        return not (await fleet.node("renamed"))["healthy"]

    await eventually(gone, "nobody is at its new address")
