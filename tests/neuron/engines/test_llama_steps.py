"""A step of llama.cpp on a CPU is short: who decodes beside a long prompt is not held up by it."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from helexa.neuron.harness import DeviceRef, LoadOrder
from tests.neuron.api.client import chat_body
from tests.neuron.engines.conftest import Chat

pytest.importorskip("xllamacpp")

from helexa.neuron.engines.llama.engine import make_params

PROMPT_WORDS = 600


def batch(slots: int = 4, kind: str = "cpu", files: tuple[str, ...] = ("/m.gguf",), **options: object) -> int:
    """Tokens that a step of such a load may have."""
    device = DeviceRef(kind=kind, index=0, memory_mb=1000)
    order = LoadOrder(
        model_id="m", files=files, devices=(device,), socket="/s", context=512, slots=slots, options=options
    )
    return make_params(order).n_batch


def test_a_step_is_short_and_has_room_for_prompts_beside_every_stream() -> None:
    assert (batch(slots=1), batch(slots=16)) == (16, 32)


def test_a_text_or_image_that_has_to_fit_into_a_step_finds_room() -> None:
    assert batch(embeddings=True) == batch(rerank=True) == batch(files=("/m.gguf", "/mmproj.gguf")) == 256


def test_who_says_batch_gets_it_and_a_gpu_keeps_llama_cpps_own() -> None:
    assert batch(batch=512) == 512
    assert batch(kind="cuda") == 2048


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.timeout(180)
async def test_a_stream_goes_on_while_a_long_prompt_is_taken_in(chat: Chat) -> None:
    story = chat_body(chat.model, "Tell a story.", stream=True, max_tokens=1500, ignore_eos=True)
    heard: list[bytes] = []
    speaks = asyncio.Event()

    def hear(piece: bytes) -> None:
        heard.append(piece)
        speaks.set()

    async with (
        asyncio.timeout(150),
        await chat.origin.request(b"POST", b"/v1/chat/completions", (), msgspec.json.encode(story)) as answer,
    ):
        listening = asyncio.create_task(answer.relay(hear))
        await speaks.wait()
        heard.clear()
        got = await chat.ask("Count: " + " ".join(["word"] * PROMPT_WORDS), max_tokens=1)
        listening.cancel()
    assert got.status == 200, got.body
    tokens = b"".join(heard).count(b'"content":"')
    assert tokens >= 0.8 * got.json["timings"]["prompt_n"] / batch()
