"""Loads and unloads, as the planner instructs; each ends by telling what came of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from msgspec.structs import replace

from helexa.base.ids import fresh
from helexa.base.tasks import Crew
from helexa.gateway.act.dispatcher import Dispatcher
from helexa.gateway.act.neuron_client import NeuronClient, NeuronNonsense, NeuronRefused, NeuronSilent
from helexa.gateway.config import Profile
from helexa.gateway.fleet import events as ev
from helexa.gateway.fleet.model import Node
from helexa.gateway.plan.instructions import Load, Order, Recycle, Unload
from helexa.gateway.plan.place import is_expected, may_join, referees
from helexa.wire import control

log = logging.getLogger(__name__)

LEASE_S, HEARD_S = 10.0, 1.0
"""Another gateway that wants the same model joins our load: one that comes while we make room for it, or while it is
not yet told of everywhere, or decided just before it heard of its end."""
PROGRESS_GRACE_S = 60.0
"""A load that is past its deadline goes on as long as its last progress is not older than this."""


def spec_of(model: str, profile: Profile | None, devices: tuple[int, ...] = ()) -> control.ModelSpec:
    """What a neuron is told to load. The id stays the catalogue's, so that both sides gate and name the same thing."""
    if profile is None:
        return control.ModelSpec(model_id=model, devices=list(devices) or None)
    return control.ModelSpec(
        model_id=model,
        harness=profile.harness,
        quant=profile.quant,
        source=profile.source,
        tensor_parallel=profile.tensor_parallel or (profile.min_devices if profile.min_devices > 1 else None),
        devices=list(devices) or None,
        context=profile.context,
        options=profile.options,
    )


class Loader:
    """Carries out Load and Unload. `after` is called with a node's name when something changed there."""

    def __init__(
        self, dispatcher: Dispatcher, clients: Mapping[str, NeuronClient], crew: Crew, after: Callable[[str], None]
    ) -> None:
        self._dispatcher = dispatcher
        self._clients = clients
        self._crew = crew
        self._after = after
        self._progress: dict[tuple[str, str], float] = {}
        self._holder = fresh("cortex_")
        self._put_off: dict[tuple[str, str], tuple[float, float]] = {}
        """Since when, and when last, a referee has said of a model that another gateway brings it."""
        dispatcher.watchers.append(self._watch)

    def __call__(self, instruction: Order) -> None:
        match instruction:
            case Load():
                self._crew.start(self._load(instruction), name=f"load {instruction.model} on {instruction.node}")
            case Unload():
                self._crew.start(self._unload(instruction), name=f"unload {instruction.model} on {instruction.node}")
            case Recycle():
                self._crew.start(self._recycle(instruction), name=f"recycle on {instruction.node}")

    def _watch(self, event: ev.Event, out: object) -> None:
        if isinstance(event, ev.ModelSeen) and event.model.loading is not None:
            self._progress[event.node, event.model.id] = self._dispatcher.clock.now()

    async def _load(self, order: Load) -> None:
        if (at := await self._joined(order.model, order.node, LEASE_S)) is not None:
            order = replace(order, node=at, devices=())
        clock, began = self._dispatcher.clock, self._dispatcher.clock.now()
        fleet = self._dispatcher.fleet
        spec = spec_of(order.model, fleet.profiles.get(order.model), order.devices)
        spec.harness = spec.harness or _named_harness(fleet.nodes.get(order.node))
        try:
            told = await self._bounded(order, spec)
        except (NeuronRefused, NeuronSilent, NeuronNonsense, TimeoutError) as error:
            self._dispatcher.tell(_failure(order, error))
            keep_s = 0.0
        else:
            took = clock.now() - began if told is None else told
            log.info("loaded %s on %s in %.2f s", order.model, order.node, took)
            self._dispatcher.tell(ev.Loaded(node=order.node, model=order.model, took_s=took))
            keep_s = HEARD_S
        finally:
            self._progress.pop((order.node, order.model), None)
        self._after(order.node)
        await self._lease(order.model, order.node, keep_s)

    async def _joined(self, model: str, node: str, seconds: float) -> str | None:
        """The node where another gateway is bringing the model already, if it would serve us there as well: then what
        was to come on `node` comes there. None: it is ours to bring for so long."""
        at = await self._lease(model, node, seconds)
        if at is None or not may_join(self._dispatcher.fleet, model, at, self._dispatcher.clock.now()):
            return None
        log.info("%s is being brought to %s by another gateway", model, at)
        self._dispatcher.tell(ev.Joined(model=model, node=node, at=at))
        return at

    async def _lease(self, model: str, node: str, seconds: float) -> str | None:
        """Tell the other gateways for so long where we bring the model; the node to which one of them does. A referee
        is taken at its word for as long as a lease lives; then the next one decides, for every gateway alike."""
        fleet = self._dispatcher.fleet
        boots = {node.boot_id: name for name, node in fleet.nodes.items() if node.boot_id}
        on = next((boot_id for boot_id, name in boots.items() if name == node), "")
        lease = control.Lease(model_id=model, on=on, holder=self._holder, seconds=seconds)
        for name in referees(fleet, model):
            try:
                held = await self._clients[name].lease(lease)
            except (NeuronRefused, NeuronSilent, NeuronNonsense) as error:
                log.debug("no agreement with %s: %s", name, error.message)
            else:
                if held.holder == self._holder:
                    return None
                if not self._is_overdue(name, held):
                    return boots.get(held.on)
        return None

    def _is_overdue(self, referee: str, held: control.Lease) -> bool:
        """Whether what another gateway is said to bring should be here by now: its load would have been heard of."""
        model, now = held.model_id, self._dispatcher.clock.now()
        since, last = self._put_off.get((model, referee), (now, now))
        since = now if now - last > LEASE_S else since
        self._put_off[model, referee] = since, now
        if now - since <= max(LEASE_S, held.seconds):
            return False
        log.warning("%s has said for %.0f s that another gateway brings %s: not believed", referee, now - since, model)
        self._dispatcher.tell(ev.Overdue(model=model, node=referee))
        return True

    async def _bounded(self, order: Load, spec: control.ModelSpec) -> float | None:
        """The load under its deadline, which begins when its device comes to it, and moves on while the node reports
        progress; the seconds it says it took."""
        work = asyncio.ensure_future(self._clients[order.node].load(spec))
        patience, waited = order.deadline_s, False
        try:
            while not (await asyncio.wait((work,), timeout=patience))[0]:
                if self._is_queued(order):
                    patience, waited = PROGRESS_GRACE_S, True
                else:
                    patience, waited = order.deadline_s if waited else self._patience(order), False
            return work.result()
        finally:
            work.cancel()

    def _is_queued(self, order: Load) -> bool:
        place = self._dispatcher.fleet.place(order.model, order.node)
        return place is not None and place.loading is not None and place.loading.queued

    def _patience(self, order: Load) -> float:
        """How long to wait yet for a load that is past its deadline; raises TimeoutError when it does not move."""
        last, now = self._progress.get((order.node, order.model)), self._dispatcher.clock.now()
        if last is None or last + PROGRESS_GRACE_S <= now:
            raise TimeoutError(f"not loaded within {order.deadline_s:.0f} s and no progress")
        return last + PROGRESS_GRACE_S - now

    async def _unload(self, order: Unload) -> None:
        """Room for a model is made by one gateway, so they agree on that first."""
        incoming, node = order.made_for, order.node
        if incoming and (why := await self._spared(incoming, node, max(LEASE_S, order.drain_s or 0.0))):
            self._dispatcher.tell(ev.UnloadFailed(node=node, model=order.model, reason=why))
            return
        self._dispatcher.tell(await self._freed(order))
        self._after(node)
        if incoming and not is_expected(self._dispatcher.fleet, incoming, node):
            await self._lease(incoming, node, 0.0)

    async def _spared(self, incoming: str, node: str, seconds: float) -> str | None:
        """Why nothing has to go for the model on that node after all."""
        if not is_expected(self._dispatcher.fleet, incoming, node):
            return f"{incoming} needs no room any more"
        at = await self._joined(incoming, node, seconds)
        if at is None:
            return None
        self._after(at)
        return f"another gateway is bringing {incoming}"

    async def _freed(self, order: Unload) -> ev.Unloaded | ev.UnloadFailed:
        body = control.Unload(
            model_id=order.model,
            drain_s=order.drain_s,
            spare_unused_s=order.spare_unused_s,
            min_idle_s=order.min_idle_s,
            load_id=order.load_id,
            spare_pinned=order.reason != "operator",
        )
        try:
            freed = await self._clients[order.node].unload(body)
        except (NeuronRefused, NeuronSilent, NeuronNonsense) as error:
            if isinstance(error, NeuronRefused) and error.answer_status == 404:
                return ev.Unloaded(node=order.node, model=order.model)
            return ev.UnloadFailed(node=order.node, model=order.model, reason=error.message)
        log.info("unloaded %s on %s, %s MiB freed", order.model, order.node, freed if freed is not None else "?")
        return ev.Unloaded(node=order.node, model=order.model, freed_mb=freed, reason=order.reason)

    async def _recycle(self, order: Recycle) -> None:
        try:
            await self._clients[order.node].recycle(order.device, order.after_cycles)
        except (NeuronRefused, NeuronSilent, NeuronNonsense) as error:
            log.info("%s", error)  # in use after all, or recycled for another gateway: the next poll tells
        self._after(order.node)


def _named_harness(node: Node | None) -> str | None:
    """Nodes that do not tell their version are older than choosing a harness by themselves: they want it named."""
    return node.harnesses[0] if node is not None and node.harnesses and not node.version else None


def _failure(order: Load, error: Exception) -> ev.LoadFailed:
    """The neuron's typed reason, whole, so that the client gets it as it was given."""
    if isinstance(error, NeuronRefused):
        status = 422 if error.answer_status == 422 else 503
        return ev.LoadFailed(
            node=order.node,
            model=order.model,
            error=error.message,
            leaving=error.answer_status == 409,
            status=status,
            fields=dict(error.facts),
        )
    silent = isinstance(error, NeuronSilent)
    return ev.LoadFailed(node=order.node, model=order.model, error=str(error), unreachable=silent)
