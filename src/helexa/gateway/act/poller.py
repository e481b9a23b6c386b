"""Keeping up with the nodes: their event streams as things happen, a poll every few seconds as correction.

Each node has its own loop, so a dead one delays nobody. The poll's reads only advise; the neuron decides again for
itself when it is asked to load or unload.
"""

from __future__ import annotations

import asyncio
import logging

from helexa.base.clock import Clock
from helexa.base.errors import HelexaError
from helexa.base.tasks import Crew
from helexa.gateway.act.dispatcher import Dispatcher
from helexa.gateway.act.loader import spec_of
from helexa.gateway.act.neuron_client import NeuronClient, NeuronNonsense, NeuronRefused, NeuronSilent
from helexa.gateway.config import Polling
from helexa.gateway.fleet import events as ev
from helexa.wire import control

log = logging.getLogger(__name__)

RETRY_S = 1.0
"""An unhealthy node is asked again this soon, so that a restarted one is back at once."""


class NodeWatch:
    """Watches one node: `poll_now()` asks for a poll out of turn."""

    def __init__(self, client: NeuronClient, dispatcher: Dispatcher, polling: Polling, clock: Clock) -> None:
        self.client = client
        self._dispatcher = dispatcher
        self._polling = polling
        self._clock = clock
        self._bell = asyncio.Event()
        self._known: tuple[str, int] | None = None
        """Which boot of the node, and which of its topologies, the fleet knows."""
        self._asked: set[str] = set()

    def start(self, crew: Crew) -> list[asyncio.Task[None]]:
        """The loops of this node, as supervised tasks."""
        name = self.client.name
        return [
            crew.loop(self._turn, name=f"poll {name}", clock=self._clock, every_s=0.0),
            crew.loop(self._listen, name=f"events {name}", clock=self._clock, every_s=RETRY_S),
        ]

    def poll_now(self) -> None:
        self._bell.set()

    def forget_fits(self) -> None:
        """The catalogue changed: ask the node anew what each model would need."""
        self._asked.clear()
        self.poll_now()

    async def _turn(self) -> None:
        self._bell.clear()
        await self.poll()
        node = self._dispatcher.fleet.nodes.get(self.client.name)
        pause = self._polling.every_s if node is not None and node.healthy else min(RETRY_S, self._polling.every_s)
        try:
            async with asyncio.timeout(pause):
                await self._bell.wait()
        except TimeoutError:
            pass

    async def poll(self) -> None:
        """One poll: health and models, and discovery when the node is new, was started anew or has other devices."""
        try:
            health = await self.client.health()
            models = await self.client.models()
            seen = (health.boot_id, health.topology)
            discovery = await self.client.discovery() if seen != self._known else None
        except (NeuronSilent, NeuronNonsense, NeuronRefused) as error:
            self._missed(error)
            return
        if discovery is not None:
            self._known = seen
            self._asked.clear()
        self._dispatcher.tell(ev.Polled(node=self.client.name, health=health, models=models, discovery=discovery))
        await self._ask_fits()

    def _missed(self, error: HelexaError) -> None:
        node = self._dispatcher.fleet.nodes.get(self.client.name)
        reason = told = error.message
        if isinstance(error, NeuronRefused):
            reason = f"it answers a poll with HTTP {error.answer_status}: {reason}"
            told = f"{self.client.name}: {reason}"
        if node is not None and node.misses < self._polling.misses:
            log.warning("%s", told)
        self._dispatcher.tell(ev.Missed(node=self.client.name, reason=reason, limit=self._polling.misses))
        node = self._dispatcher.fleet.nodes.get(self.client.name)
        if isinstance(error, NeuronSilent) and node is not None and node.misses >= self._polling.misses:
            # A host that lost its power closes no connection: what waits for it would wait for ever.
            self.client.origin.give_up_silent(self._polling.timeout_s)

    async def _ask_fits(self) -> None:
        """What each catalogue model would need there, asked once per boot of the node and change of the catalogue."""
        for model, profile in list(self._dispatcher.fleet.profiles.items()):
            if model in self._asked:
                continue
            self._asked.add(model)
            try:
                plan = await self.client.preflight(spec_of(model, profile))
            except NeuronRefused as error:
                refusal = {"message": error.message, **error.facts} if error.answer_status == 422 else None
                if refusal is None or refusal.get("kind") == "repo_fetch_failed":
                    continue  # not a verdict on the model: the loader will see for itself
                self._dispatcher.tell(ev.Fitted(node=self.client.name, model=model, refusal=refusal))
            except (NeuronSilent, NeuronNonsense):
                self._asked.discard(model)
                return
            else:
                if plan is not None:
                    self._dispatcher.tell(ev.Fitted(node=self.client.name, model=model, plan=plan))

    async def _listen(self) -> None:
        """The node's event stream. A node without one (404) is only polled."""
        try:
            async for event in self.client.events():
                self._hear(event)
        except NeuronRefused as error:
            if error.answer_status == 404:
                await self._clock.sleep(self._polling.every_s)
        except (NeuronSilent, NeuronNonsense):
            self.poll_now()

    def _hear(self, event: control.Event) -> None:
        if event.kind == "gone" and event.model_id:
            self._dispatcher.tell(ev.ModelGone(node=self.client.name, model=event.model_id))
        elif event.model is not None:
            self._dispatcher.tell(ev.ModelSeen(node=self.client.name, model=event.model))
        elif event.kind in ("device", "topology"):
            self.poll_now()
