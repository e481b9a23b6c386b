"""Probabilities in the older dialect of completions: parallel lists, where chats have an entry for each token. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def as_lists(entries: Sequence[dict[str, Any]], offset: int) -> dict[str, Any]:
    """`entries` are a chat's `logprobs.content`; `offset`: characters of the answer before the first of them."""
    offsets: list[int] = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry["token"])
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": [{each["token"]: each["logprob"] for each in entry["top_logprobs"]} for entry in entries],
        "text_offset": offsets,
    }
