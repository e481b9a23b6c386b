"""Images through a projector, if one made by chance: they reach the model, are counted, and bad ones end nothing."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from helexa.neuron.app import Neuron
from helexa.neuron.config import DeviceEntry, NeuronConfig

from .conftest import Chat
from .tiny_projector import IMAGE_TOKENS, write_projector

pytestmark = pytest.mark.asyncio(loop_scope="module")
WIDTH_OF_SMOLLM2 = 576


def png(width: int = 40, height: int = 30, said: tuple[int, int] | None = None) -> bytes:
    """One colour; `said` is the size that it claims."""
    rows = zlib.compress((b"\0" + bytes((200, 30, 60)) * width) * height)
    head = struct.pack(">IIBBBBB", *(said or (width, height)), 8, 2, 0, 0, 0)
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def question(*urls: str) -> list[dict[str, object]]:
    images = [{"type": "image_url", "image_url": {"url": each}} for each in urls]
    return [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, *images]}]


def url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def eyes(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Chat]:
    pytest.importorskip("xllamacpp")
    projector = write_projector(tmp_path_factory.mktemp("eyes") / "mmproj.gguf", WIDTH_OF_SMOLLM2)
    config = NeuronConfig(port=0, devices=[DeviceEntry(kind="cpu", memory_mb=4000, threads=1)])
    async with Neuron(config, drain_s=0.5) as neuron:
        chat = Chat(neuron, f"file:{smollm2_path}")
        chat.patience_s = 150.0
        order = {"model_id": chat.model, "harness": "llama", "context": 1024}
        loaded = await chat.post("/models/load", order | {"options": {"slots": 2, "mmproj": str(projector)}})
        assert loaded.status == 200, loaded.body
        yield chat
        await chat.origin.aclose()


async def test_an_image_is_seen_and_counted(eyes: Chat) -> None:
    counts = [(await eyes.ask(messages=question(*urls))).json["usage"]["prompt_tokens"] for urls in SEEN]
    assert counts[2] - counts[1] == counts[1] - counts[0] >= IMAGE_TOKENS


SEEN = ([], [url(png())], [url(png()), url(png(9, 70))])


async def test_a_count_without_an_answer_counts_images_too(eyes: Chat) -> None:
    for urls in SEEN:
        asked = {"messages": question(*urls), "model": eyes.model}
        told = await eyes.post("/models/count_tokens", {"model": {"model_id": eyes.model}, "request": asked})
        assert told.json["tokens"] == (await eyes.ask(**asked)).json["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    "bad",
    [
        "", "http://127.0.0.1:9/x.png", "https://example.com/x.png", "file:///etc/passwd", "data:image/png;base64,",
        url(b"no image"), url(png()[:20]), url(png(said=(60000, 60000))), url(png(1, 1, said=(2**31 - 1, 2**31 - 1))),
    ],
)  # fmt: skip
async def test_an_image_that_cannot_be_is_refused_by_name_and_ends_nothing(eyes: Chat, bad: str) -> None:
    for stream in (False, True):
        got = await eyes.ask(messages=question(url(png()), bad), stream=stream)
        assert (got.status, got.json["error"]["param"]) == (400, "messages.0.content.2.image_url")
    assert (await eyes.ask(messages=question(url(png())))).status == 200


async def test_a_video_is_not_fetched_either(eyes: Chat) -> None:
    for kind in ("input_video", "video_url"):
        part = {"type": kind, kind: {"url": "http://127.0.0.1:9/x.mp4"}}
        got = await eyes.ask(messages=[{"role": "user", "content": [part]}])
        assert (got.status, got.json["error"]["param"]) == (400, "messages.0.content.0.type")


async def test_an_image_that_breaks_off_is_refused_and_ends_nothing(eyes: Chat) -> None:
    got = await eyes.ask(messages=question(url(png()[:60])))
    assert got.status == 400, got.body
    assert (await eyes.ask(messages=question(url(png())))).status == 200
