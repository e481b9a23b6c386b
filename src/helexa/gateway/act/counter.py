"""Counting the tokens of a prompt with the model's own template and tokenizer, on a node that has it.

The tokenizer's routes take no decoding slot, so a count is not queued behind anybody's tokens; only a model that is
loaded nowhere has to be loaded first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from helexa.base.errors import HelexaError, UpstreamFailed
from helexa.gateway.act.dispatcher import Dispatcher
from helexa.gateway.act.proxy import MAX_ANSWER_BYTES, Headers
from helexa.gateway.plan.place import seats
from helexa.http1.client import Origin, UpstreamError

Shape = TypeVar("Shape")
JSON = (b"content-type", b"application/json")


class _Prompt(msgspec.Struct):
    prompt: str


class _Tokens(msgspec.Struct):
    tokens: list[msgspec.Raw]


class NotCounted(HelexaError):
    """The node `{node}` refused to count: {reason}"""

    code = "invalid_request_error"
    status = 400


class Counter:
    """Counts through the nodes' own tokenizers."""

    def __init__(self, origins: Mapping[str, tuple[Origin, Headers]], dispatcher: Dispatcher) -> None:
        self._origins = origins
        self._dispatcher = dispatcher

    async def count(self, model: str, body: bytes) -> int:
        """Tokens of the prompt that a chat request `body` would make. Raises HelexaError."""
        ready = seats(self._dispatcher.fleet, model, self._dispatcher.clock.now(), frozenset())
        if ready:
            return await self._on(min(ready, key=lambda place: place.outstanding).node, model, body)
        async with self._dispatcher.seat(model) as seat:
            return await self._on(seat.node, model, body)

    async def _on(self, node: str, model: str, body: bytes) -> int:
        prompt = await self._post(node, "/apply-template", body, _Prompt)
        asked = {"model": model, "content": prompt.prompt, "add_special": True, "parse_special": True}
        return len((await self._post(node, "/tokenize", msgspec.json.encode(asked), _Tokens)).tokens)

    async def _post(self, node: str, path: str, body: bytes, shape: type[Shape]) -> Shape:
        origin, standing = self._origins[node]
        try:
            async with await origin.request(
                b"POST", path.encode(), [*standing, JSON], body, head_timeout_s=30
            ) as answer:
                text = await answer.read(MAX_ANSWER_BYTES)
            if 400 <= answer.status < 500:
                raise NotCounted(node=node, reason=text[:300].decode(errors="replace"))
            if answer.status != 200:
                raise UpstreamFailed(node=node, reason=f"HTTP {answer.status} for {path}")
            return msgspec.json.decode(text, type=shape)
        except (UpstreamError, msgspec.DecodeError) as error:
            raise UpstreamFailed(node=node, reason=str(error)) from error
