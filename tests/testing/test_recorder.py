"""The recorder passes everything on unchanged, and keeps what was asked and what it cost."""

from __future__ import annotations

import asyncio

import httpx2
import msgspec
import pytest

from helexa.testing.fleet import free_port
from helexa.testing.neuron import CHAT, Breaks, FakeModel, ScriptedNeuron
from helexa.testing.recorder import Recorder

ODD = b'{ "model":"org/a" , "messages":[{"role":"user","content":"hi"}],"unheard_of":1.50}'


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_and_its_answer_pass_as_bytes_and_are_kept(stream: bool) -> None:
    body = ODD if not stream else ODD[:-1] + b',"stream":true}'
    async with (
        asyncio.timeout(20),
        ScriptedNeuron(FakeModel(id="org/a", loaded=True)) as neuron,
        Recorder(free_port(), neuron.url) as recorder,
        httpx2.AsyncClient() as client,
    ):
        answer = await client.post(recorder.url + CHAT, content=body)
        (seen,) = recorder.asked(CHAT)
        assert neuron.asked(CHAT)[0].body == seen.body == body
        assert answer.content == seen.answer
        assert (seen.status, seen.outcome, seen.json()["unheard_of"]) == (200, "answered", 1.5)
        assert seen.usage is not None
        assert seen.usage.prompt_tokens == 7


async def test_what_is_only_read_passes_without_being_kept() -> None:
    async with (
        asyncio.timeout(20),
        ScriptedNeuron() as neuron,
        Recorder(free_port(), neuron.url) as recorder,
        httpx2.AsyncClient() as client,
    ):
        health = await client.get(recorder.url + "/health")
        assert msgspec.json.decode(health.content)["boot_id"] == neuron.boot_id
        assert recorder.seen == []


async def test_a_neuron_that_breaks_off_breaks_off_here_too() -> None:
    async with (
        asyncio.timeout(20),
        ScriptedNeuron(FakeModel(id="org/a", loaded=True)) as neuron,
        Recorder(free_port(), neuron.url) as recorder,
        httpx2.AsyncClient() as client,
    ):
        neuron.fault(CHAT, Breaks(after=2))
        with pytest.raises(httpx2.TransportError):
            await client.post(recorder.url + CHAT, content=ODD[:-1] + b',"stream":true}')
        (seen,) = recorder.asked(CHAT)
        assert seen.outcome == "left"
        assert seen.answer.count(b"data:") == 2
        assert seen.usage is None
