"""Tokenizers and templates of models that are not loaded: a small worker of their own serves them, a few at a time.

It drives no device and holds no weights, so a count is never queued behind anybody's tokens, and costs a model's place
to nobody. What is held is some tens of MiB for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from helexa.base.clock import Clock
from helexa.base.errors import HelexaError
from helexa.base.tasks import Crew
from helexa.neuron.device.pool import Lost, News, Pool, Seat
from helexa.neuron.harness import DeviceRef, LoadOrder
from helexa.neuron.sources.library import AtHand, NotHere
from helexa.wire.control import ModelSpec

LOAD_LIMIT_S = 60.0
MOST_OPEN = 4
WORKER = 0


@dataclass(slots=True, kw_only=True)
class _Open:
    """One that is served. `id` is what the worker calls it."""

    id: str
    socket: str
    in_use: int = 0


class Vocabularies:
    """`async with vocabularies.open(spec) as socket`. `at_hand` finds files that are here; `engines` maps a harness to
    the "module:Class" that serves its vocabularies."""

    def __init__(
        self,
        at_hand: Callable[[ModelSpec], Awaitable[AtHand]],
        engines: Mapping[str, str],
        sockets: Path,
        *,
        clock: Clock,
        crew: Crew,
    ) -> None:
        self._at_hand, self._engines, self._sockets, self._crew = at_hand, engines, sockets, crew
        self._pool = Pool([Seat(index=WORKER, worker="vocabulary")], clock=clock, tell=self._hear)
        self._open: dict[bytes, asyncio.Future[_Open]] = {}  # least recently used first
        self._numbers = 0

    @asynccontextmanager
    async def open(self, spec: ModelSpec) -> AsyncGenerator[str]:
        """The socket on which `spec`'s tokenizer and template are served, for the length of the block.

        Raises NotHere when its files are not on this host or nobody here can read them, Refused, and what the pool
        raises when they cannot be served."""
        key = msgspec.json.encode(spec)
        opening = self._open.pop(key, None)
        if opening is None:
            opening = asyncio.get_running_loop().create_future()
            self._crew.start(self._bring(key, spec, opening), name=f"vocabulary {spec.model_id}")
        self._open[key] = opening
        opened = await asyncio.shield(opening)
        opened.in_use += 1
        try:
            yield opened.socket
        finally:
            opened.in_use -= 1

    @property
    def pid(self) -> int | None:
        """The worker's process id while it runs."""
        return self._pool.pid(WORKER)

    async def close(self) -> None:
        """End the worker."""
        await self._pool.close()

    async def _bring(self, key: bytes, spec: ModelSpec, opening: asyncio.Future[_Open]) -> None:
        try:
            opening.set_result(await self._serve(spec))
        except HelexaError as error:
            self._open.pop(key, None)
            opening.set_exception(error)
            opening.exception()  # seen: whoever asked may have left
            return
        await self._close_some()

    async def _serve(self, spec: ModelSpec) -> _Open:
        found = await self._at_hand(spec)
        engine = self._engines.get(found.harness)
        if engine is None:
            raise NotHere(f"{found.harness} serves no vocabulary of a model that is not loaded", model=spec.model_id)
        self._numbers += 1
        opened = _Open(id=f"{spec.model_id}#{self._numbers}", socket=str(self._sockets / f"v{self._numbers}.sock"))
        order = LoadOrder(
            model_id=opened.id,
            files=found.files,
            devices=(DeviceRef(kind="cpu", index=WORKER, memory_mb=0, threads=1),),
            socket=opened.socket,
            context=0,
            slots=1,
            options=found.options,
        )
        await self._pool.load(WORKER, engine, order, _unheard, limit_s=LOAD_LIMIT_S)
        return opened

    async def _close_some(self) -> None:
        """Let the ones go that were not used for longest, if nobody uses them now."""
        for key, opening in list(self._open.items()):
            if len(self._open) <= MOST_OPEN:
                return
            if opening.done() and not opening.result().in_use:
                del self._open[key]
                await self._pool.unload(WORKER, opening.result().id)

    def _hear(self, news: News) -> None:
        if isinstance(news, Lost):
            self._open = {key: opening for key, opening in self._open.items() if not opening.done()}


def _unheard(stage: str, progress: float | None) -> None:
    """Nobody waits long enough for this to be told how far it is."""
