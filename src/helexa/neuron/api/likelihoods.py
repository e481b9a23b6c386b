"""Stages of rewriting for requests that are told probabilities, or need them: tokens that end an answer. Pure."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

from helexa.neuron.api.rewriting import Chunk
from helexa.neuron.core.chat.logprobs import as_lists


class Lists:
    """The older dialect's shape of them, for completions."""

    def __init__(self) -> None:
        self._said: dict[int, int] = {}

    def __call__(self, chunk: Chunk) -> list[Chunk]:
        for choice in chunk.get("choices") or ():
            offset = self._said.get(index := choice.get("index", 0), 0)
            self._said[index] = offset + len(choice.get("text") or "")
            if entries := _entries(choice):
                choice["logprobs"] = as_lists(entries, offset)
        return [chunk]


class StopTokens:
    """Ends each choice before the first of some tokens, for an engine that knows stop strings only. It tells tokens
    with their probabilities, which the client sees if it asked (`shown`). `over`: all `choices` have ended."""

    def __init__(self, tokens: AbstractSet[int], choices: int, *, shown: bool, usage: bool) -> None:
        self._tokens, self._open, self._shown, self._usage = tokens, {*range(choices)}, shown, usage
        self._counted: int | None = None
        """The choice that the engine ended itself, and whose usage it tells next."""

    @property
    def over(self) -> bool:
        return not self._open

    def __call__(self, chunk: Chunk) -> list[Chunk]:
        if "error" in chunk or "choices" not in chunk:
            return [chunk]
        if not chunk["choices"]:
            return self._counts(chunk)
        timings = chunk.pop("timings", None)
        made: list[Chunk] = []
        for choice in chunk["choices"]:
            if choice.get("index", 0) in self._open:
                made += self._told(chunk, choice, timings)
        return made

    def _told(self, chunk: Chunk, choice: dict[str, Any], timings: dict[str, int] | None) -> list[Chunk]:
        """One choice; its usage is told here, unless the engine, which ends it itself, is about to."""
        entries = _entries(choice)
        at = next((at for at, entry in enumerate(entries) if entry["id"] in self._tokens), None)
        if at is not None:
            _cut(choice, entries[at]["token"])
            choice |= {"finish_reason": "stop", "stop_reason": entries[at]["id"]}
        if not self._shown:
            choice.pop("logprobs", None)
        elif at is not None:
            choice["logprobs"] = {"content": entries[:at]}
        told = {**chunk, "choices": [choice]}
        if choice.get("finish_reason") is None:
            return [told]
        if timings is None and self._usage:
            self._counted = choice.get("index", 0)
            return [told]
        self._open.discard(choice.get("index", 0))
        last = {"timings": timings or {}}
        if not self._usage:
            return [told | last]
        return [told, chunk | {"choices": [], "usage": _usage(timings or {})} | last]

    def _counts(self, chunk: Chunk) -> list[Chunk]:
        """The engine's usage of one choice; nobody waits for that of a choice that has been ended here."""
        if self._counted is None:
            return []
        self._open.discard(self._counted)
        self._counted = None
        return [chunk]


def _entries(choice: dict[str, Any]) -> list[dict[str, Any]]:
    told: dict[str, list[dict[str, Any]]] = choice.get("logprobs") or {}
    return told.get("content") or []


def _cut(choice: dict[str, Any], token: str) -> None:
    """Leave out the token that ends it, from where it says something."""
    place, name = (choice["delta"], "content") if "delta" in choice else (choice, "text")
    if place.get(name):
        place[name] = place[name].removesuffix(token)


def _usage(timings: dict[str, int]) -> dict[str, Any]:
    cached, made = timings.get("cache_n", 0), timings.get("predicted_n", 0)
    prompt = cached + timings.get("prompt_n", 0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
