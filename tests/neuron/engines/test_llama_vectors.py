"""Embeddings from a model that was loaded for them: texts, tokens, batches, both encodings."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

import pytest

from tests.neuron.engines.conftest import Chat

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPTIONS = {"slots": 2, "embeddings": True, "pooling": "mean"}


async def vectors(chat: Chat, **fields: Any) -> list[list[float]]:
    got = await chat.post("/v1/embeddings", {"model": chat.model, **fields})
    assert got.status == 200, got.body
    assert [row["index"] for row in got.json["data"]] == list(range(len(got.json["data"])))
    assert got.json["usage"]["prompt_tokens"] > 0
    return [row["embedding"] for row in got.json["data"]]


def near(one: list[float], other: list[float]) -> bool:
    return all(math.isclose(a, b, abs_tol=1e-3) for a, b in zip(one, other, strict=True))


async def test_a_batch_of_texts_gives_a_unit_vector_for_each_in_order(chat: Chat) -> None:
    one, two = await vectors(chat, input=["a small dog", "the price of gold"])
    assert math.isclose(sum(value * value for value in one), 1, abs_tol=1e-3)
    assert near(one, (await vectors(chat, input="a small dog"))[0])
    assert not near(one, two)


async def test_tokens_mean_the_text_they_are_of(chat: Chat) -> None:
    tokens = (await chat.post("/tokenize", {"model": chat.model, "content": "a small dog"})).json["tokens"]
    (text,) = await vectors(chat, input="a small dog")
    assert near((await vectors(chat, input=tokens))[0], text)
    assert all(near(each, text) for each in await vectors(chat, input=[tokens, tokens]))


async def test_base64_is_the_same_vector_as_bytes_of_float32(chat: Chat) -> None:
    (plain,) = await vectors(chat, input="a small dog")
    (coded,) = await vectors(chat, input="a small dog", encoding_format="base64")
    raw = base64.b64decode(str(coded))
    assert near(list(struct.unpack(f"<{len(raw) // 4}f", raw)), plain)


async def test_it_says_what_it_is_loaded_for_and_refuses_the_rest(chat: Chat) -> None:
    (row,) = (await chat.get("/models")).json
    assert row["capabilities"] == ["embeddings"]
    got = await chat.post("/v1/rerank", {"model": chat.model, "query": "x", "documents": ["a"]})
    assert (got.status, got.json["error"]["param"]) == (400, "model")


async def test_a_text_over_one_batch_is_too_long(chat: Chat) -> None:
    got = await chat.post("/v1/embeddings", {"model": chat.model, "input": "word " * 1000})
    assert (got.status, got.json["error"]["code"]) == (400, "context_length_exceeded")
