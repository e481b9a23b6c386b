"""Speculation: tokens that are drafted and then checked change nothing of an answer, and are accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.neuron.api.client import Client

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
pytest.importorskip("xllamacpp")

LINE = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
PROMPT = " ".join([LINE] * 6)


async def loaded(client: Client, model: str, **options: object) -> Any:
    await client.post("/models/unload", {"model_id": model})
    spec = {"model_id": model, "harness": "llama", "context": 512, "options": {"slots": 2, **options}}
    return await client.post("/models/load", spec)


@pytest.mark.parametrize("speculation", ["ngram_simple", "ngram_mod", "ngram_map_k", "ngram_cache", None])
async def test_what_is_accepted_of_a_draft_is_told_and_the_worker_lives(
    client: Client, smollm2_path: Path, speculation: str | None
) -> None:
    model = f"file:{smollm2_path}"
    how = {"draft": str(smollm2_path)} if speculation is None else {"speculation": speculation}
    assert (await loaded(client, model, **how)).status == 200
    body = {"model": model, "prompt": PROMPT, "max_tokens": 48, "temperature": 0}
    got = await client.post("/v1/completions", body)
    assert got.status == 200, got.body
    usage, timings = got.json["usage"], got.json["timings"]
    details = usage["completion_tokens_details"]
    assert usage["completion_tokens"] == 48
    assert details["accepted_prediction_tokens"] == timings["draft_n_accepted"] > 0
    assert details["rejected_prediction_tokens"] == timings["draft_n"] - timings["draft_n_accepted"]
    assert client.neuron.pool.restarts(0) == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"speculation": "draft_simple"}, "speculation"),
        ({"speculation": "ngram_mod", "draft_max": 20, "batch": 16}, "batch"),
        ({"speculation": "by_magic"}, "speculation"),
    ],
)
async def test_speculation_that_cannot_be_is_refused_by_name(
    client: Client, smollm2_path: Path, options: dict[str, object], named: str
) -> None:
    got = await loaded(client, f"file:{smollm2_path}", **options)
    assert (got.status, got.json["error"]["kind"], got.json["error"]["option"]) == (422, "invalid_option", named)
    assert f"`{named}`" in got.json["error"]["message"]
