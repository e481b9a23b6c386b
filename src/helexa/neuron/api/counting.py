"""Counts the tokens of a chat request's prompt with the model's own template and tokenizer, loaded or not.

Neither takes a decoding slot, so a count is not queued behind anybody's tokens.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from helexa.base.errors import InvalidRequest
from helexa.http1.client import Origin, UpstreamError
from helexa.neuron.core import bounds
from helexa.neuron.core import lifecycle as life
from helexa.neuron.device.process import JobFailed
from helexa.neuron.keeper import Keeper, Vocabularies
from helexa.wire.canon import BadAnswer
from helexa.wire.checks import check_chat
from helexa.wire.control import Counted, CountTokens
from helexa.wire.upstream import upstream_fault

T = TypeVar("T")

MAX_PROMPT_BYTES = 256 * 1024 * 1024
_HEADERS = [(b"content-type", b"application/json")]


class _Prompt(msgspec.Struct):
    prompt: str


class _Tokens(msgspec.Struct):
    tokens: list[msgspec.Raw]


class _Seen(msgspec.Struct):
    input_tokens: int


class Counting:
    """`await counting(asked)`."""

    def __init__(self, keeper: Keeper, vocabularies: Vocabularies) -> None:
        self._keeper, self._vocabularies = keeper, vocabularies

    async def __call__(self, asked: CountTokens) -> Counted:
        """Raises InvalidRequest for a request that is none, or that the template refuses; NotHere; BadAnswer."""
        request = bytes(asked.request)
        chat = check_chat(request)
        bounds.check(chat)
        if isinstance(self._keeper.status(asked.model.model_id), life.Loaded):
            async with self._keeper.seat(asked.model.model_id, queued=False) as seat:
                sees = "vision" in seat.facts.capabilities and any(bounds.images(chat))
                return Counted(tokens=await _count(seat.socket, request, sees=sees))
        try:
            async with self._vocabularies.open(asked.model) as socket:
                return Counted(tokens=await _count(socket, request))
        except JobFailed as error:
            raise BadAnswer(f"the vocabulary cannot be served: {error.message}") from error


async def _count(socket: str, request: bytes, *, sees: bool = False) -> int:
    """`sees`: with its images, each as many tokens as the model's projector makes of it."""
    origin = Origin(unix_path=socket)
    try:
        if sees:
            return (await _post(origin, b"/v1/chat/completions/input_tokens", request, _Seen)).input_tokens
        prompt = await _post(origin, b"/apply-template", request, _Prompt)
        asked = {"content": prompt.prompt, "add_special": True, "parse_special": True}
        return len((await _post(origin, b"/tokenize", msgspec.json.encode(asked), _Tokens)).tokens)
    finally:
        await origin.aclose()


async def _post(origin: Origin, path: bytes, body: bytes, shape: type[T]) -> T:
    try:
        async with await origin.request(b"POST", path, _HEADERS, body) as answer:
            text = await answer.read(MAX_PROMPT_BYTES)
        if answer.status != 200:
            fault = upstream_fault(answer.status, text)
            raise InvalidRequest(fault.message) if fault.status < 500 else BadAnswer(fault=fault)
        return msgspec.json.decode(text, type=shape)
    except (UpstreamError, msgspec.DecodeError) as error:
        raise BadAnswer(f"the tokenizer did not answer: {error}") from error
