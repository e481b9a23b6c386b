"""`neuron.toml`: what an operator may say about one host. Read once at start, strict, with `NEURON_*` laid over it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from helexa.base import config as strict
from helexa.base.errors import ConfigError, InvalidRequest
from helexa.base.ids import parse_source
from helexa.wire.control import ModelSpec

DEFAULT_PATH = Path("/etc/neuron/neuron.toml")
ENV_PREFIX = "NEURON_"
DEFAULT_PORT = 13131

MOST_DEVICES = 64
"""Each has a worker process."""
MOST_THREADS = 512
"""llama.cpp's own limit."""
MOST_MB = 1 << 40

_SCHEME = re.compile(r"[a-z][a-z0-9+._-]*")
_HTTP = re.compile(r"https?://[^/\s]")
_BUILT_IN_SCHEMES = frozenset({"file", "pypi"})

DeviceKind = Literal["cuda", "rocm", "metal", "cpu"]


class Table(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of every table here: an unknown key is an error."""


class HarnessEntry(Table):
    """`[[harnesses]]`: an engine that this host offers. None given: all that are installed."""

    name: str


class SourceEntry(Table):
    """`[sources.<scheme>]`: a hub's address, the environment variable that holds its token, and where it caches."""

    endpoint: str | None = None
    token_env: str | None = None
    cache_dir: str | None = None


class DefaultModel(ModelSpec, kw_only=True, forbid_unknown_fields=True):
    """`[[default_models]]`: a load request, loaded at start; strict, where the wire's own is lenient."""


class Admission(Table):
    """`[admission]`, per model: how many requests run and wait, and how long one may wait (seconds)."""

    max_in_flight: int = 0
    """Requests that decode together; 0 leaves it to the engine's slots."""
    max_queue_depth: int = 512
    max_wait_s: float = 120.0


class Watchdog(Table):
    """`[watchdog]`: how long a step of an engine, and a load without progress, may take before its worker is replaced
    (seconds). A load may take 20 s more for each GiB of weights."""

    step_s: float = 120.0
    load_s: float = 300.0


class KvStore(Table):
    """`[kv_store]`: disk space for the KV cache of idle conversations while their model is unloaded (MiB; 0: none)."""

    budget_mb: int = 1024


class Warm(Table):
    """`[warm]`: host memory in which the weights of unloaded models are locked (MiB; 0: the page cache decides). CPU
    devices without a `memory_mb` of their own get that much less."""

    locked_mb: int = 0


class DeviceEntry(Table):
    """`[[devices]]`: one device to use. `index` is the device's number among those of its kind (CUDA ordinal 1 is
    `kind = "cuda", index = 1`); `memory_mb` caps what helexa uses of it (MiB); `threads` is for `cpu` devices."""

    kind: DeviceKind
    index: int = 0
    memory_mb: int | None = None
    name: str | None = None
    threads: int | None = None


class NeuronConfig(Table):
    """The whole file. Paths are as written; `~` is expanded by whoever opens them."""

    port: int = DEFAULT_PORT
    listen: str = "127.0.0.1"
    token: str | None = None
    state_dir: str | None = None
    harnesses: list[HarnessEntry] = []
    harness: dict[str, dict[str, Any]] = {}
    """Default engine options by harness name; a load request's own options win over them, key by key."""
    sources: dict[str, SourceEntry] = {}
    default_models: list[DefaultModel] = []
    admission: Admission = msgspec.field(default_factory=Admission)
    kv_store: KvStore = msgspec.field(default_factory=KvStore)
    watchdog: Watchdog = msgspec.field(default_factory=Watchdog)
    warm: Warm = msgspec.field(default_factory=Warm)
    devices: list[DeviceEntry] = []
    cpu_devices: int | None = None
    """Split this host's memory into so many CPU devices; given without `[[devices]]`, beside any GPU found."""


def load(path: Path | None, environ: Mapping[str, str], *, insecure_ok: bool = False) -> NeuronConfig:
    """The configuration of this host.

    `path` None means /etc/neuron/neuron.toml, whose absence means defaults; a file that was named must be there.
    Raises ConfigError for a file that cannot be read, is not TOML, holds an unknown key or a value out of range, or
    holds `token` and is world-readable (unless `insecure_ok`).
    """
    where = path or DEFAULT_PATH
    absent = path is None and not where.exists()
    table = {} if absent else strict.read(where)
    if "token" in table:
        strict.refuse_world_readable(where, insecure_ok=insecure_ok)
    merged = strict.overlay(table, NeuronConfig, ENV_PREFIX, environ)
    config = strict.convert(merged, NeuronConfig, where=str(where))
    problem = next(problems(config), None)
    if problem:
        raise ConfigError(path=where, problem=problem)
    return config


def problems(config: NeuronConfig) -> Iterator[str]:
    """What is wrong beyond shape: each text names its key, what was given, and what would be right."""
    yield from _range("port", config.port, 1, 65535)
    if not config.listen:
        yield '`listen`: must be an address of this host, or "0.0.0.0" for all of them'
    yield from _admission(config.admission)
    yield from _range("kv_store.budget_mb", config.kv_store.budget_mb, 0, MOST_MB)
    yield from _range("warm.locked_mb", config.warm.locked_mb, 0, MOST_MB)
    yield from _range("watchdog.step_s", config.watchdog.step_s, 1)
    yield from _range("watchdog.load_s", config.watchdog.load_s, 1)
    yield from _devices(config)
    yield from _duplicates("harnesses", "name", (entry.name for entry in config.harnesses))
    yield from _sources(config.sources)
    yield from _models(config.default_models)


def _range(key: str, value: float, low: float, high: float | None = None) -> Iterator[str]:
    if value < low or (high is not None and value > high):
        span = f"at least {low}" if high is None else f"between {low} and {high}"
        yield f"`{key}`: must be {span}, not {value}"


def _admission(admission: Admission) -> Iterator[str]:
    yield from _range("admission.max_in_flight", admission.max_in_flight, 0)
    yield from _range("admission.max_queue_depth", admission.max_queue_depth, 0)
    yield from _range("admission.max_wait_s", admission.max_wait_s, 0)


def _devices(config: NeuronConfig) -> Iterator[str]:
    for at, device in enumerate(config.devices):
        yield from _range(f"devices[{at}].index", device.index, 0)
        if device.memory_mb is not None:
            yield from _range(f"devices[{at}].memory_mb", device.memory_mb, 1, MOST_MB)
        if device.threads is not None:
            yield from _range(f"devices[{at}].threads", device.threads, 1, MOST_THREADS)
    if len(config.devices) > MOST_DEVICES:
        yield f"`devices`: at most {MOST_DEVICES} on one host, not {len(config.devices)}"
    yield from _duplicates("devices", "kind and index", (f"{d.kind} {d.index}" for d in config.devices))
    if config.cpu_devices is not None:
        yield from _range("cpu_devices", config.cpu_devices, 1, MOST_DEVICES)
        if config.devices:
            yield "`cpu_devices`: cannot be given beside `[[devices]]`; list the cpu devices there"


def _duplicates(table: str, key: str, values: Iterable[str]) -> Iterator[str]:
    for value, count in Counter(values).items():
        if count > 1:
            yield f"`{table}`: {key} `{value}` is given {count} times"


def _sources(sources: Mapping[str, SourceEntry]) -> Iterator[str]:
    for scheme, entry in sources.items():
        if not _SCHEME.fullmatch(scheme):
            yield f"`sources.{scheme}`: a scheme is lower-case letters, digits and + . _ -"
        if scheme == "huggingface":
            yield "`sources.huggingface`: write `sources.hf`, which both spellings of the scheme use"
        if entry.endpoint is not None and not _HTTP.match(entry.endpoint):
            yield f"`sources.{scheme}.endpoint`: `{entry.endpoint}` is not an http(s) address"
        if scheme not in _BUILT_IN_SCHEMES | {"hf"} and entry.endpoint is None:
            yield f"`sources.{scheme}.endpoint`: a mirror needs its address"


def _models(models: Iterable[DefaultModel]) -> Iterator[str]:
    for at, model in enumerate(models):
        for key, text in (("model_id", model.model_id), ("source", model.source)):
            try:
                if text is not None:
                    parse_source(text)
            except InvalidRequest as error:
                yield f"`default_models[{at}].{key}`: {error.message}"
        if isinstance(model.context, int):
            yield from _range(f"default_models[{at}].context", model.context, 1)
        if model.tensor_parallel is not None:
            yield from _range(f"default_models[{at}].tensor_parallel", model.tensor_parallel, 1)
