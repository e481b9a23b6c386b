"""A neuron as an object: started, asked for its address, stopped. The daemon and the tests use the same one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from helexa.base.clock import Clock, SystemClock
from helexa.base.ids import fresh
from helexa.base.tasks import Crew
from helexa.http1.server import Server
from helexa.neuron import registry
from helexa.neuron.api import Api, Node
from helexa.neuron.api.counting import Counting
from helexa.neuron.api.metrics import Metrics
from helexa.neuron.api.refusals import refusal
from helexa.neuron.api.relay import Relay
from helexa.neuron.app.activation import Warmup
from helexa.neuron.app.folder import private_folder, socket_folder, state_folder
from helexa.neuron.app.host import REFRESH_S, HostView, Uptime
from helexa.neuron.config import NeuronConfig
from helexa.neuron.device.pool import WATCH_S, Lost, News, Poisoned, Pool
from helexa.neuron.discovery.host import Survey, survey
from helexa.neuron.discovery.xids import XidWatch
from helexa.neuron.keeper import Host, Keeper, Notebook, Vocabularies
from helexa.neuron.keeper.larder import Larder
from helexa.neuron.keeper.shelf import Shelf
from helexa.neuron.sources import templates
from helexa.neuron.sources.library import Library, from_config
from helexa.wire.control import Health

log = logging.getLogger(__name__)

DRAIN_S = 20.0
LAST_WORDS_S = 2.0
_LOOPBACK = frozenset(("127.0.0.1", "::1", "localhost"))


class Neuron:
    """`async with Neuron(config) as neuron:` serves at `neuron.url`; leaving drains it and leaves no process behind."""

    def __init__(
        self,
        config: NeuronConfig,
        *,
        clock: Clock | None = None,
        drain_s: float = DRAIN_S,
        look: Callable[[], Survey] = survey,
    ) -> None:
        self._config, self._clock, self._drain_s, self._look = config, clock or SystemClock(), drain_s, look
        self._stack = AsyncExitStack()
        self._suspicion = asyncio.Event()
        self.boot_id = fresh("boot_")
        self.port = config.port
        self.keeper: Keeper
        self.pool: Pool
        self.vocabularies: Vocabularies
        self.warmup: Warmup

    @property
    def url(self) -> str:
        """Where it listens, as this host would call it."""
        host = "localhost" if self._config.listen in ("0.0.0.0", "::", *_LOOPBACK) else self._config.listen
        return f"http://{host}:{self.port}"

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        """Bind first; devices are warmed and models loaded behind the open port."""
        config, stack = self._config, self._stack
        harnesses = registry.offered((entry.name for entry in config.harnesses), config.harness)
        folder = state_folder(os.environ, config.state_dir)
        notebook = await asyncio.to_thread(Notebook, folder / "measured.json")
        seen = await asyncio.to_thread(self._look)
        view = HostView(
            config, seen, harnesses, boot_id=self.boot_id, measurements=notebook.measurements, look=self._look
        )
        library = from_config(config, os.environ, lambda: {h.name: h.info() for h in harnesses}, notebook.measurements)
        sockets = stack.enter_context(socket_folder(os.environ))
        crew = await stack.enter_async_context(Crew())
        self.pool = Pool(view.seats(), clock=self._clock, tell=self._hear, silence_s=config.watchdog.step_s)
        stack.push_async_callback(self.pool.close)
        larder = Larder(config.warm.locked_mb)
        stack.callback(larder.close)
        host = replace(
            _host(config, view, harnesses, sockets, self.boot_id),
            shelf=_shelf(config, stack),
            larder=larder,
            note=notebook.note,
            holds_mb=partial(view.holds_mb, pool=self.pool),
        )
        self.keeper = keeper = Keeper(host, library, self.pool, clock=self._clock, crew=crew)
        self.warmup = Warmup(keeper, config.default_models, clock=self._clock)
        self.vocabularies = Vocabularies(
            lambda spec: library.at_hand(spec, keeper.devices()),
            {harness.name: harness.vocabulary for harness in harnesses if harness.vocabulary},
            sockets,
            clock=self._clock,
            crew=crew,
        )
        stack.push_async_callback(self.vocabularies.close)
        await self._listen(view, larder)
        self._attend(view, library, crew)
        log.info("neuron %s listens on %s with %s", self.boot_id, self.url, ", ".join(h.name for h in harnesses))

    async def _listen(self, view: HostView, larder: Larder) -> None:
        """Open the port; leaving closes it before anything behind it."""
        config, stack, keeper, uptime = self._config, self._stack, self.keeper, Uptime(self._clock)

        def health() -> Health:
            return view.health(keeper, self.pool, self.warmup.view, uptime(), larder.held_mb)

        metrics = Metrics(keeper, health)
        relay = Relay(keeper, metrics)
        stack.push_async_callback(relay.close)
        node = Node(
            discovery=view.discovery,
            health=health,
            unready=lambda: view.unready(keeper, self.warmup.view),
            version=view.version(),
            url=lambda: self.url,
            token=config.token,
            boot_id=self.boot_id,
        )
        server = Server(Api(keeper, node, metrics, relay, Counting(keeper, self.vocabularies)), refuse=refusal)
        stack.push_async_callback(server.drain, LAST_WORDS_S)
        self.port = (await server.listen(config.listen, config.port))[0][1]
        stack.push_async_callback(keeper.close, self._drain_s)
        _warn_if_open(config)

    def _attend(self, view: HostView, library: Library, crew: Crew) -> None:
        """What goes on behind the port: workers, looks at the host and at the engines, the models to start with."""
        loop = asyncio.get_running_loop()

        def hear_xid(device: int, fault: str) -> None:
            loop.call_soon_threadsafe(self.pool.condemn, device, fault)

        xids = XidWatch(hear_xid)
        self._stack.push_async_callback(asyncio.to_thread, xids.close)
        xids.watch(view.uuids())
        self.pool.start()

        async def look_again() -> None:
            if await view.refresh(self.keeper, library, self.pool):
                xids.watch(view.uuids())
                crew.start(self.warmup.again(), name="activation of what failed")

        step_s = self._config.watchdog.step_s
        crew.loop(lambda: self._round(look_again), name="refresh", clock=self._clock, every_s=0.0)
        crew.loop(self.keeper.watch, name="watch engines", clock=self._clock, every_s=min(WATCH_S, step_s))
        crew.start(asyncio.to_thread(templates.prepare), name="prepare for templates")
        crew.start(self.warmup.run(), name="activation")

    def _hear(self, news: News) -> None:
        """What the pool tells. A worker that is lost or poisoned may have lost its device."""
        self.keeper.hear(news)
        if isinstance(news, Lost | Poisoned):
            self._suspicion.set()

    async def _round(self, look: Callable[[], Awaitable[None]]) -> None:
        """A look at the host, and the time until the next: some seconds, or a suspicion."""
        self._suspicion.clear()
        await look()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REFRESH_S):
                await self._suspicion.wait()


def _host(
    config: NeuronConfig, view: HostView, harnesses: tuple[registry.Harness, ...], sockets: Path, boot_id: str
) -> Host:
    return Host(
        devices=view.refs(),
        found=view.states(),
        engines={harness.name: harness.target for harness in harnesses},
        sockets=sockets,
        max_in_flight=config.admission.max_in_flight,
        max_queue_depth=config.admission.max_queue_depth,
        max_wait_s=config.admission.max_wait_s,
        step_limit_s=config.watchdog.step_s,
        load_limit_s=config.watchdog.load_s,
        boot_id=boot_id,
        blocked=lambda: view.blocked,
    )


def _shelf(config: NeuronConfig, stack: AsyncExitStack) -> Shelf | None:
    """The place for KV caches, where there is a budget and a folder that can be written to."""
    if not config.kv_store.budget_mb:
        return None
    base = state_folder(os.environ, config.state_dir) / "kv"
    try:
        base.mkdir(parents=True, exist_ok=True)
        return Shelf(stack.enter_context(private_folder(base)) / "models", config.kv_store.budget_mb)
    except OSError as error:
        log.warning("no KV cache is kept across unloads: %s", error)
        return None


def _warn_if_open(config: NeuronConfig) -> None:
    if config.token is None and config.listen not in _LOOPBACK:
        log.warning("listening on %s without a token: anybody who reaches this port can load models", config.listen)
