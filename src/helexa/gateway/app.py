"""Assembly: configuration -> fleet -> tasks -> servers. The one file that knows every part of the gateway."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from helexa.base import lifeline
from helexa.base.clock import Clock, SystemClock
from helexa.base.errors import ConfigError, HelexaError
from helexa.base.tasks import Crew
from helexa.gateway import config as cfg
from helexa.gateway.act.counter import Counter
from helexa.gateway.act.dispatcher import Dispatcher, RefusedSeat
from helexa.gateway.act.journal import Journal
from helexa.gateway.act.loader import Loader, spec_of
from helexa.gateway.act.neuron_client import NeuronClient, NeuronRefused, NeuronSilent
from helexa.gateway.act.poller import NodeWatch
from helexa.gateway.act.proxy import Proxy
from helexa.gateway.edge import admin, render
from helexa.gateway.edge.access import AccessLog
from helexa.gateway.edge.door import Door, refuse_framing
from helexa.gateway.fleet import events as ev
from helexa.gateway.fleet.catalogue import Names, entry, listing
from helexa.gateway.fleet.model import Fleet
from helexa.gateway.flow import Flow, refusal_of
from helexa.gateway.meter import Books
from helexa.gateway.metrics import Metrics
from helexa.gateway.plan.instructions import Instruction, Recycle
from helexa.http1.bridge import asgi_handler
from helexa.http1.client import Origin
from helexa.http1.limits import Limits
from helexa.http1.message import Lines, lines_of
from helexa.http1.server import Reply, Request, Server
from helexa.wire.canon import Capabilities

log = logging.getLogger(__name__)

TICK_S = 1.0
DRAIN_S = 30.0
MOST_NEWS = 256


class Cortex:
    """A running gateway. `paths` are where a reload reads from; None in tests that configure by value."""

    def __init__(
        self,
        config: cfg.CortexConfig,
        models: cfg.ModelsFile,
        *,
        clock: Clock | None = None,
        read: Callable[[], tuple[cfg.CortexConfig, cfg.ModelsFile]] | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._config = self._began_with = config
        self._file: cfg.ModelsFile = models
        self._read = read
        self._names = Names(models)
        self._started = int(self._clock.wall())
        self.dispatcher = Dispatcher(self._clock)
        self.metrics = Metrics(lambda: self.dispatcher.fleet)
        self.crew = Crew()
        self._wired: dict[str, tuple[cfg.Neuron, cfg.Polling]] = {}
        self._origins: dict[str, tuple[Origin, Lines]] = {}
        self._clients: dict[str, NeuronClient] = {}
        self._watches: dict[str, NodeWatch] = {}
        self._loops: dict[str, list[asyncio.Task[None]]] = {}
        self._feeds: set[asyncio.Queue[bytes]] = set()
        self.books = Books(self.metrics, AccessLog(config.log.style).write)
        self.dispatcher.hands = Loader(self.dispatcher, self._clients, self.crew, self._poll_soon)
        self.journal = Journal(self._clock, lambda: self.dispatcher.fleet)
        self.dispatcher.watchers += [self.journal.watch, self._count, self._publish]
        self.door = self._make_door()
        limits = Limits(max_body_bytes=config.gateway.max_body_mb * 1024 * 1024)
        self.server = Server(self.door, limits=limits, refuse=refuse_framing)
        self.metrics_server = Server(self._serve_metrics)

    # -- what the operator API needs (edge.admin.Desk) --

    @property
    def fleet(self) -> Fleet:
        return self.dispatcher.fleet

    def now(self) -> float:
        return self._clock.now()

    def tell(self, event: ev.Event) -> None:
        self.dispatcher.tell(event)

    def resolve(self, name: str) -> str:
        return self._names.resolve(self.fleet, name)

    def catalogue(self) -> list[dict[str, Any]]:
        return listing(self.fleet, self._names, self._judge, self._started)

    def entry(self, name: str) -> dict[str, Any]:
        model = self.resolve(name)
        shown = entry(self.fleet, self._names, self._judge, model, self._started)
        return shown if name == model else {**shown, "id": name, "alias_of": model, "aliases": []}

    def capabilities(self, model: str) -> Capabilities:
        """What a translation may count on. Where nothing is known the engine decides."""
        places = [place for place in self.fleet.places.get(model, {}).values() if place.capabilities]
        if not places:
            return Capabilities()
        context = min((place.context for place in places if place.context), default=None)
        return Capabilities(vision=any("vision" in place.capabilities for place in places), context_tokens=context)

    async def count(self, model: str, body: bytes) -> int:
        """Prompt tokens of a chat request; a refusal of the planner comes as the error it stands for."""
        try:
            return await Counter(self._clients, self.dispatcher).count(model, body)
        except RefusedSeat as refused:
            raise refusal_of(refused) from refused

    def wall(self) -> int:
        return int(self._clock.wall())

    def _judge(self, model: str) -> list[Any]:
        return render.judge(self.fleet, model, self.now())

    def decision(self, decision: str) -> dict[str, Any] | None:
        return self.journal.find(decision)

    async def reload(self) -> dict[str, Any]:
        """Read the files again and touch only what changed. A bad file changes nothing: raises ConfigError."""
        if self._read is None:
            return {"changed": [], "after_restart": [], "at_next_load": []}
        config, models = self._read()
        changed = [name for name in config.__struct_fields__ if getattr(config, name) != getattr(self._config, name)]
        changed += ["models"] if models != self._file else []
        at_next_load = _outdated(self.fleet, self._file, models)
        self._config, self._file, self._names = config, models, Names(models)
        self._apply()
        return {
            "changed": changed,
            "after_restart": _bound(self._began_with, config),
            "at_next_load": at_next_load,
        }

    async def drain(self, node: str, on: bool) -> None:
        """Take a node out of service, or back. The node itself keeps that, so every gateway sees it and none has to
        survive for it; only of one that cannot, or is away, it is remembered here."""
        try:
            kept_there = await self._clients[node].drain(on)
        except (NeuronSilent, NeuronRefused):
            kept_there = False
        self.dispatcher.tell(ev.Drained(node=node, draining=on and not kept_there))
        await self._watches[node].poll()

    async def pin(self, model: str, nodes: Sequence[str], pinned: bool) -> None:
        """Kept by the nodes, so that every gateway sees it; here for those that cannot keep it, or are away."""
        for node in nodes:
            try:
                await self._clients[node].pin(model, pinned)
            except (NeuronSilent, NeuronRefused) as error:
                log.warning("%s is %s by this gateway alone: %s", model, "pinned" if pinned else "unpinned", error)
            self.dispatcher.tell(ev.Pinned(model=model, node=node, pinned=pinned))

    async def feed(self) -> AsyncIterator[bytes]:
        """Server-sent events of what the planner decides, for dashboards."""
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._feeds.add(queue)
        try:
            yield b": hello\n\n"
            while news := await queue.get():
                yield news
        finally:
            self._feeds.discard(queue)

    # -- running --

    async def start(self) -> list[str]:
        """Bind, configure, begin to watch the nodes. Returns the addresses that are served."""
        gateway = self._config.gateway
        host, port = cfg.parse_address(gateway.listen, "gateway.listen")
        bound = await self.server.listen(host, port, ssl=_tls(gateway, "cortex.toml"))
        await self.metrics_server.listen(*cfg.parse_address(gateway.metrics_listen, "gateway.metrics_listen"))
        self._apply()
        self.crew.loop(self._tick, name="tick", clock=self._clock, every_s=TICK_S)
        self.crew.loop(self._balance, name="books", clock=self._clock, every_s=0.25)
        return [f"{'https' if gateway.tls_cert else 'http'}://{host}:{port}" for host, port in bound]

    async def stop(self, timeout_s: float = DRAIN_S) -> None:
        """Nothing new, what runs may end, bounded; then out."""
        for queue in self._feeds:
            queue.put_nowait(b"")  # its end
        await self.server.drain(timeout_s, self.door.turn_away)
        await self.metrics_server.drain(0.0)
        await self.crew.dismiss()
        for origin, _ in self._origins.values():
            await origin.aclose()
        self.books.balance()

    def _make_door(self) -> Door:
        proxy = Proxy(self._origins, self._clock, lambda: self._config.gateway)
        flow = Flow(
            self.dispatcher,
            proxy,
            self.books,
            self._clock,
            names=lambda: self._names,
            max_wait_s=lambda: self._config.gateway.max_wait_s,
            look_again=self._poll_soon,
            note=self.journal.note,
        )
        return Door(flow, asgi_handler(admin.build(self)), self)

    def _apply(self) -> None:
        """Bring connections, watches and the fleet in line with the configuration."""
        wanted = {neuron.name: (neuron, self._config.polling) for neuron in self._config.neurons}
        for name in [name for name, wiring in self._wired.items() if wiring != wanted.get(name)]:
            self._drop_node(name)
        for name, wiring in wanted.items():
            if name not in self._wired:
                self._add_node(*wiring)
        self.dispatcher.tell(
            ev.Configured(
                profiles={profile.id: profile for profile in self._file.models},
                eviction=self._config.eviction,
                nodes=tuple(wanted),
                max_queue=self._config.gateway.max_queue,
                restart_s=self._config.polling.restart_s,
            )
        )
        for name, watch in self._watches.items():
            watch.forget_fits()
            if name not in self._loops:
                self._loops[name] = watch.start(self.crew)

    def _add_node(self, neuron: cfg.Neuron, polling: cfg.Polling) -> None:
        self._wired[neuron.name] = neuron, polling
        origin = Origin.from_url(neuron.endpoint)
        headers = [(b"content-type", b"application/json")]
        if neuron.token:
            headers.append((b"authorization", b"Bearer " + neuron.token.encode()))
        self._origins[neuron.name] = (origin, lines_of(headers))
        client = NeuronClient(neuron.name, origin, token=neuron.token, timeout_s=polling.timeout_s)
        self._clients[neuron.name] = client
        self._watches[neuron.name] = NodeWatch(client, self.dispatcher, polling, self._clock)

    def _drop_node(self, name: str) -> None:
        for task in self._loops.pop(name, []):
            task.cancel()
        del self._wired[name], self._watches[name], self._clients[name], self._origins[name]

    def _poll_soon(self, node: str) -> None:
        if node in self._watches:
            self._watches[node].poll_now()

    async def _balance(self) -> None:
        self.books.balance()

    async def _tick(self) -> None:
        self.books.balance()
        self.dispatcher.tick(self.metrics.new_speeds())

    def _count(self, event: ev.Event, out: list[Instruction]) -> None:
        """What was done: an unload that its node refused, or that another gateway was quicker with, is none."""
        if isinstance(event, ev.Unloaded) and event.reason:
            self.metrics.evicted(event.model, event.node, event.reason)
        for one in out:
            if isinstance(one, Recycle):
                self.metrics.recycled(one.node, one.device)

    def _publish(self, event: ev.Event, out: list[Instruction]) -> None:
        if not self._feeds or isinstance(event, ev.Ticked):
            return
        line = {"event": type(event).__name__, "actions": [render.instruction(one) for one in out]}
        news = b"data: " + msgspec.json.encode(line) + b"\n\n"
        for queue in self._feeds:
            if queue.qsize() < MOST_NEWS:  # a dashboard that does not read misses news, nothing else
                queue.put_nowait(news)

    async def _serve_metrics(self, request: Request, reply: Reply) -> None:
        if request.path != "/metrics":
            reply.send(404, [(b"content-type", b"text/plain")], b"try /metrics\n")
            return
        self.books.balance()
        kind, text = self.metrics.scrape((request.header(b"accept") or b"").decode("latin-1"))
        reply.send(200, [(b"content-type", kind.encode())], text)


def _bound(before: cfg.CortexConfig, now: cfg.CortexConfig) -> list[str]:
    """What differs from the configuration that the process began with, and is read only then."""
    names = ("listen", "metrics_listen", "tls_cert", "tls_key", "max_body_mb")
    found = [f"gateway.{name}" for name in names if getattr(before.gateway, name) != getattr(now.gateway, name)]
    return [*found, *(["log"] if before.log != now.log else [])]


def _outdated(fleet: Fleet, before: cfg.ModelsFile, now: cfg.ModelsFile) -> list[str]:
    """Models that are loaded as the file said before, and would be loaded otherwise now."""
    specs = {profile.id: spec_of(profile.id, profile) for profile in before.models}
    changed = [p.id for p in now.models if p.id in specs and spec_of(p.id, p) != specs[p.id]]
    return [model for model in changed if model in fleet.places]


def _tls(gateway: cfg.Gateway, where: str) -> ssl.SSLContext | None:
    if gateway.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(gateway.tls_cert, gateway.tls_key)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        problem = f"`gateway.tls_cert` and `gateway.tls_key` do not make a certificate: {error}"
        raise ConfigError(path=where, problem=problem) from error
    return context


def read_files(path: Path) -> tuple[cfg.CortexConfig, cfg.ModelsFile]:
    """cortex.toml and the models.toml it names (relative to it). Raises ConfigError."""
    config = cfg.load_cortex(path, os.environ)
    where = path.parent / config.models_config
    models = cfg.load_models(where)
    cfg.check_pins(config, models, str(where))
    _tls(config.gateway, str(path))
    return config, models


async def run(path: Path, ready: Callable[[list[str]], None]) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reloads."""
    config, models = read_files(path)
    cortex = Cortex(config, models, read=lambda: read_files(path))
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)

    async def reload() -> None:
        try:
            log.info("reloaded: %s", await cortex.reload())
        except HelexaError as error:
            log.error("not reloaded, nothing changed: %s", error)

    lifeline.watch(os.environ, over.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: cortex.crew.start(reload(), name="reload"))
    began = time.monotonic()
    ready(await cortex.start())
    # What lives now lives for good: without it each collection walks all of it again, 4-9 us a request under load.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)
    log.info("serving after %.2f s", time.monotonic() - began)
    await over.wait()
    await cortex.stop()
