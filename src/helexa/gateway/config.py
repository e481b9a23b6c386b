"""cortex.toml and models.toml: their shapes, strict, and how they are read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from helexa.base import config as base
from helexa.base.errors import ConfigError
from helexa.base.ids import parse_source

DEFAULT_PATH = Path("/etc/cortex/cortex.toml")
_NODE_NAME = re.compile(r"[A-Za-z0-9._-]+")


class Table(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A TOML table: an unknown key is an error."""


class Gateway(Table, frozen=True):
    listen: str = "127.0.0.1:31313"
    metrics_listen: str = "127.0.0.1:31314"
    tls_cert: str | None = None
    tls_key: str | None = None
    max_body_mb: int = 64
    max_wait_s: float = 120.0
    """How long a request that is not streamed waits for its model before it is answered 503 + Retry-After."""
    silence_s: float = 300.0
    """A node that sends nothing for so long in a stream, not even a keep-alive, has lost the request: 504."""
    answer_s: float = 3600.0
    """How long a node may take for an answer that is not streamed, and so is silent until it is whole: then 504."""
    max_queue: int = 1024
    """Requests that may wait for one model; the next one is answered 429."""


class Eviction(Table, frozen=True):
    strategy: Literal["lru", "priority", "cost"] = "cost"
    defrag_after_cycles: int = 50
    min_residency_s: float = 20.0
    patience_s: float = 30.0
    """After so long in the queue a waiter closes the door of the model it waits for: that model finishes what it has
    begun, starts nothing new, and makes room."""


class Neuron(Table, frozen=True):
    name: str
    endpoint: str
    token: str | None = None


class Polling(Table, frozen=True):
    every_s: float = 10.0
    timeout_s: float = 5.0
    misses: int = 3
    restart_s: float = 4.0
    """A node that takes no work is waited for so long, if no other can serve: it may only be started anew."""


class Logging(Table, frozen=True):
    style: Literal["human", "json"] = "human"
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class CortexConfig(Table, frozen=True):
    gateway: Gateway = Gateway()
    eviction: Eviction = Eviction()
    neurons: tuple[Neuron, ...] = ()
    models_config: str = "models.toml"
    polling: Polling = Polling()
    log: Logging = Logging()


class Limit(Table, frozen=True):
    context: int | None = None
    input: int | None = None
    output: int | None = None


class Cost(Table, frozen=True):
    """US dollars per million tokens; absent means unpriced, 0 means free."""

    input: float | None = None
    output: float | None = None
    cache_read: float | None = None
    cache_write: float | None = None


class Profile(Table, frozen=True):
    """One `[[models]]` entry: a model that the fleet may serve."""

    id: str
    harness: str | None = None
    quant: str | None = None
    source: str | None = None
    vram_mb: int | None = None
    min_devices: int = 1
    min_device_vram_mb: int | None = None
    pinned_on: tuple[str, ...] = ()
    pinned: bool = False
    residency_priority: int = 100
    preload: bool = False
    idle_unload_s: float | None = None
    context: int | Literal["max"] | None = None
    tensor_parallel: int | None = None
    limit: Limit = Limit()
    cost: Cost = Cost()
    capabilities: tuple[str, ...] = ()
    options: dict[str, Any] = {}


class ModelsFile(Table, frozen=True):
    models: tuple[Profile, ...] = ()
    aliases: dict[str, str] = {}


def load_cortex(path: Path, environ: Mapping[str, str], *, insecure_ok: bool = False) -> CortexConfig:
    """cortex.toml with `CORTEX_GATEWAY__LISTEN=...` overrides. Raises ConfigError."""
    config = base.load(path, CortexConfig, env_prefix="CORTEX_", environ=environ)
    check_cortex(config, str(path))
    if any(neuron.token for neuron in config.neurons):
        base.refuse_world_readable(path, insecure_ok=insecure_ok)
    return config


def check_cortex(config: CortexConfig, where: str) -> None:
    """What types cannot say. Raises ConfigError."""
    parse_address(config.gateway.listen, f"{where}: gateway.listen")
    parse_address(config.gateway.metrics_listen, f"{where}: gateway.metrics_listen")
    if config.gateway.listen == config.gateway.metrics_listen and not config.gateway.listen.endswith(":0"):
        raise ConfigError(path=where, problem="`gateway.listen` and `gateway.metrics_listen` need a port each")
    for neuron in config.neurons:
        _check_neuron(neuron, where)
    _unique([neuron.name for neuron in config.neurons], where, "neurons[...].name")
    _unique([neuron.endpoint.rstrip("/") for neuron in config.neurons], where, "neurons[...].endpoint")
    if bool(config.gateway.tls_cert) != bool(config.gateway.tls_key):
        raise ConfigError(path=where, problem="`gateway.tls_cert` and `gateway.tls_key` go together")
    for name, value, least in (
        ("gateway.max_body_mb", config.gateway.max_body_mb, 1),
        ("gateway.max_wait_s", config.gateway.max_wait_s, 0),
        ("gateway.silence_s", config.gateway.silence_s, 1),
        ("gateway.answer_s", config.gateway.answer_s, 1),
        ("gateway.max_queue", config.gateway.max_queue, 1),
        ("eviction.min_residency_s", config.eviction.min_residency_s, 0),
        ("eviction.patience_s", config.eviction.patience_s, 0),
        ("eviction.defrag_after_cycles", config.eviction.defrag_after_cycles, 0),
        ("polling.every_s", config.polling.every_s, 0.1),
        ("polling.timeout_s", config.polling.timeout_s, 0.1),
        ("polling.misses", config.polling.misses, 1),
        ("polling.restart_s", config.polling.restart_s, 0),
    ):
        _at_least(value, least, name, where)


def _check_neuron(neuron: Neuron, where: str) -> None:
    """Its name stands in headers and paths; its endpoint is an address and nothing more."""
    if not _NODE_NAME.fullmatch(neuron.name):
        problem = f"`neurons[...].name` is {neuron.name!r}; use letters, digits, `.`, `_` and `-`"
        raise ConfigError(path=where, problem=problem)
    at = f"neurons.{neuron.name}"
    try:
        parts = urlsplit(neuron.endpoint)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port out of range, a bracket that is not closed
        good, parts = False, urlsplit("")
    if not good or parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
        problem = f"`{at}.endpoint` is {neuron.endpoint!r}; it must be http://host:port or https://host:port"
        raise ConfigError(path=where, problem=problem)
    if neuron.token is not None and not (neuron.token.isascii() and neuron.token.isprintable()):
        raise ConfigError(path=where, problem=f"`{at}.token` holds characters that no header can carry")


def check_pins(config: CortexConfig, models: ModelsFile, where: str) -> None:
    """Models are pinned on nodes that there are. Raises ConfigError."""
    names = [neuron.name for neuron in config.neurons]
    for profile in models.models:
        for node in profile.pinned_on:
            if node not in names:
                near = difflib.get_close_matches(node, names, n=1)
                hint = f"did you mean `{near[0]}`?" if near else f"the neurons are {', '.join(names) or 'none'}"
                problem = f"`models.{profile.id}.pinned_on`: no neuron is called `{node}`; {hint}"
                raise ConfigError(path=where, problem=problem)


def load_models(path: Path) -> ModelsFile:
    """models.toml. A missing or broken file is an error, never an empty catalogue."""
    return check_models(base.load(path, ModelsFile), str(path))


def check_models(models: ModelsFile, where: str) -> ModelsFile:
    """Unique ids, known alias targets, sane numbers. Raises ConfigError; returns its argument."""
    ids = [profile.id for profile in models.models]
    _unique(ids, where, "models[...].id")
    for profile in models.models:
        _check_profile(profile, where)
    for alias, target in models.aliases.items():
        if alias in ids:
            raise ConfigError(path=where, problem=f"`aliases.{alias}` is also the id of a model")
        if not target:
            raise ConfigError(path=where, problem=f"`aliases.{alias}` points at nothing")
        if target in models.aliases:
            problem = f"`aliases.{alias}` points at `{target}`, an alias itself; name the model that is meant"
            raise ConfigError(path=where, problem=problem)
    return models


def _check_profile(profile: Profile, where: str) -> None:
    at = f"models.{profile.id}"
    if not profile.id or profile.id != profile.id.strip() or not profile.id.isprintable():
        problem = f"`models[...].id` {profile.id!r} is empty, has spaces around it or cannot be printed"
        raise ConfigError(path=where, problem=problem)
    if profile.source is not None or profile.harness != "echo":
        try:
            parse_source(profile.id)
        except Exception as error:
            raise ConfigError(path=where, problem=f"`{at}.id`: {error}") from error
    _at_least(profile.min_devices, 1, f"{at}.min_devices", where)
    for name in ("vram_mb", "min_device_vram_mb", "idle_unload_s", "context", "tensor_parallel"):
        value = getattr(profile, name)
        if value is not None and value != "max":
            _at_least(value, 1 if name in ("context", "tensor_parallel") else 0, f"{at}.{name}", where)
    for table, least in (("limit", 1), ("cost", 0)):
        for name, value in msgspec.structs.asdict(getattr(profile, table)).items():
            if value is not None:
                _at_least(value, least, f"{at}.{table}.{name}", where)


def _at_least(value: float, least: float, name: str, where: str) -> None:
    if not value >= least:
        raise ConfigError(path=where, problem=f"`{name}` is {value}; it must be at least {least}")


def _unique(names: list[str], where: str, key: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(path=where, problem=f"`{key}`: `{name}` stands twice")


def parse_address(text: str, where: str) -> tuple[str, int]:
    """`127.0.0.1:31313`, `[::1]:31313` or `:31313` (every interface) as (host, port). Raises ConfigError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ConfigError(path=where, problem=f"`{text}` is not host:port")
    return host.strip("[]") or "0.0.0.0", int(port)
