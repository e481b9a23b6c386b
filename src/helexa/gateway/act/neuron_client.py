"""Control calls to one neuron. Whatever goes wrong there comes out as one of three errors; nothing foreign escapes.

A neuron may be old, broken or lying: answers are bounded in size and time, decoded leniently, and never trusted further
than their types.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

import msgspec

from helexa.base.errors import HelexaError
from helexa.http1.client import Answer, Origin, UpstreamError
from helexa.wire import control
from helexa.wire.sse import SseDecoder

T = TypeVar("T")

COUNT_TIMEOUT_S = 60.0
LEASE_TIMEOUT_S = 1.0
A_DAY_S = 86_400.0
MAX_ANSWER_BYTES = 4 * 1024 * 1024
EVENTS_SILENCE_S = 60.0
"""A stream of events gives a sign of life every 10 s; a host that lost its power does not even end it."""
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
JSON = (b"content-type", b"application/json")


class NeuronSilent(HelexaError):
    """The neuron {node} did not answer: {reason}"""

    code = "neuron_silent"
    status = 503


class NeuronNonsense(HelexaError):
    """The neuron {node} answered something that makes no sense: {reason}"""

    code = "neuron_nonsense"
    status = 502


class NeuronRefused(HelexaError):
    """The neuron {node} refused: {reason}"""

    code = "neuron_refused"
    status = 502

    @property
    def answer_status(self) -> int:
        status = self.fields.get("answer_status")
        return status if isinstance(status, int) else 502

    @property
    def facts(self) -> dict[str, Any]:
        """The neuron's own error fields (`kind`, `needed_mb`, ...), empty when it gave only text."""
        facts = self.fields.get("facts")
        return facts if isinstance(facts, dict) else {}  # pyright: ignore[reportUnknownVariableType]


class NeuronClient:
    """One neuron's control API. `origin` is shared with the data path."""

    def __init__(self, name: str, origin: Origin, *, token: str | None, timeout_s: float) -> None:
        self.name = name
        self.origin = origin
        self._headers = [(b"authorization", b"Bearer " + token.encode())] if token else []
        self._timeout_s = timeout_s

    async def health(self) -> control.Health:
        return await self._get("/health", control.Health)

    async def models(self) -> tuple[control.Model, ...]:
        return tuple(await self._get("/models", list[control.Model]))

    async def discovery(self) -> control.Discovery:
        return await self._get("/discovery", control.Discovery)

    async def preflight(self, spec: control.ModelSpec) -> control.PlanView | None:
        """What loading would take there; None when this neuron cannot say. Raises NeuronRefused for a typed no."""
        try:
            answer = await self._call("POST", "/models/preflight", spec, self._timeout_s * 6)
        except NeuronRefused as error:
            if error.answer_status in (404, 405, 501):
                return None
            raise
        return self._decode(answer, _Preflight).plan

    async def load(self, spec: control.ModelSpec) -> float | None:
        """Returns when the model is loaded: the seconds it took, without a queue; None when the neuron does not say. No
        time limit here: the loader keeps the deadline."""
        try:
            answer = await self._call("POST", "/models/load", spec, None)
        except NeuronRefused as error:
            if "already loaded" not in error.message:
                raise
            return None
        return self._decode(answer, _Loaded).load_s

    async def unload(self, order: control.Unload) -> int | None:
        """MiB freed, None when the neuron does not say."""
        answer = await self._call("POST", "/models/unload", order, self._timeout_s * 6 + (order.drain_s or 0.0))
        return self._decode(answer, _Freed).freed_mb

    async def lease(self, asked: control.Lease) -> control.Lease:
        """Where the model is to be loaded; raises NeuronRefused from one that keeps no leases."""
        return self._decode(await self._call("POST", "/leases", asked, LEASE_TIMEOUT_S), control.Lease)

    async def count_tokens(self, spec: control.ModelSpec, request: bytes) -> int:
        """Tokens of the prompt that a chat request would make of a model whose files are there, loaded or not."""
        body = control.CountTokens(model=spec, request=msgspec.Raw(request))
        answer = await self._call("POST", "/models/count_tokens", body, COUNT_TIMEOUT_S)
        return self._decode(answer, control.Counted).tokens

    async def recycle(self, device: int, after_cycles: int) -> None:
        """Have a resting device's worker replaced. Raises NeuronRefused when it does not rest."""
        order = control.Recycle(after_cycles=after_cycles)
        await self._call("POST", f"/devices/{device}/recycle", order, self._timeout_s * 6)

    async def drain(self, on: bool) -> bool:
        """Whether it takes new work no more (or again), for every gateway; False from one that has no such state."""
        return await self._keeps("/drain" if on else "/undrain", {})

    async def pin(self, model: str, pinned: bool) -> bool:
        """Whether every gateway is told that the model may not be evicted, or may; False from one that cannot tell."""
        return await self._keeps("/models/pin", control.Pin(model_id=model, pinned=pinned))

    async def _keeps(self, path: str, order: object) -> bool:
        try:
            await self._call("POST", path, order, self._timeout_s)
        except NeuronRefused as error:
            if error.answer_status in (404, 405, 501):
                return False
            raise
        return True

    async def events(self) -> AsyncIterator[control.Event]:
        """The neuron's event stream, until it ends. Raises NeuronSilent or NeuronNonsense."""
        answer = await self._ask("GET", "/events", b"", self._timeout_s)
        if answer.status != 200:
            answer.close()
            raise NeuronRefused(node=self.name, reason=f"HTTP {answer.status} for /events", answer_status=answer.status)
        decoder, unread = SseDecoder(), 0
        try:
            async for piece in answer.chunks(idle_timeout_s=EVENTS_SILENCE_S):
                events = decoder.feed(piece)
                unread = 0 if events or b"\n\n" in piece else unread + len(piece)
                if unread > MAX_ANSWER_BYTES:
                    raise NeuronNonsense(node=self.name, reason=f"an event of more than {MAX_ANSWER_BYTES} bytes")
                for event in events:
                    yield self._decode(event.data, control.Event)
        except UpstreamError as error:
            raise NeuronSilent(node=self.name, reason=str(error)) from error
        finally:
            answer.close()

    async def _get(self, path: str, shape: type[T]) -> T:
        return self._decode(await self._call("GET", path, None, self._timeout_s), shape)

    async def _call(self, method: str, path: str, body: object, timeout_s: float | None) -> bytes:
        payload = b"" if body is None else msgspec.json.encode(body)
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._ask(method, path, payload, None)
                async with answer:
                    text = await answer.read(MAX_ANSWER_BYTES)
        except TimeoutError:
            raise NeuronSilent(node=self.name, reason=f"no answer to {path} within {timeout_s:g} s") from None
        except UpstreamError as error:
            raise NeuronSilent(node=self.name, reason=str(error)) from error
        if answer.status >= 300:
            raise self._refused(answer.status, text)
        return text

    async def _ask(self, method: str, path: str, body: bytes, timeout_s: float | None) -> Answer:
        headers = [*self._headers, JSON] if body else self._headers
        try:
            return await self.origin.request(method.encode(), path.encode(), headers, body, head_timeout_s=timeout_s)
        except UpstreamError as error:
            raise NeuronSilent(node=self.name, reason=str(error)) from error

    def _decode(self, text: bytes, shape: type[T]) -> T:
        try:
            return msgspec.json.decode(text, type=shape)
        except _UNREADABLE as error:
            raise NeuronNonsense(node=self.name, reason=str(error)) from error

    def _refused(self, status: int, text: bytes) -> NeuronRefused:
        facts, message = _explain(text)
        return NeuronRefused(
            message or f"HTTP {status}", node=self.name, reason=message, answer_status=status, facts=facts
        )


class _Preflight(control.Lean):
    plan: control.PlanView | None = None


class _Loaded(control.Lean):
    load_s: Annotated[float, msgspec.Meta(ge=0, le=A_DAY_S)] | None = None


class _Freed(control.Lean):
    freed_mb: int | None = None


def _explain(text: bytes) -> tuple[dict[str, Any], str]:
    """Both shapes of a neuron's error: `{"error": "text"}` and `{"error": {"kind"|"message", ...}}`."""
    try:
        error = msgspec.json.decode(text, type=dict[str, Any]).get("error")
    except _UNREADABLE:
        return {}, text[:300].decode(errors="replace")
    if isinstance(error, dict):
        facts: dict[str, Any] = {str(key): value for key, value in error.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        return facts, str(facts.get("message") or facts.get("kind") or "refused")
    return {}, str(error)


def model_path(model: str) -> str:
    """`/models/{id}` with the id URL-encoded, slashes too."""
    return f"/models/{quote(model, safe='')}"
