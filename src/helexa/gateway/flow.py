"""One request, top to bottom, on one page: name -> seat (or wait) -> neuron -> answer -> count."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from helexa.base.clock import Clock
from helexa.base.errors import HelexaError, Refused, Unavailable
from helexa.base.ids import fresh
from helexa.gateway.act.dispatcher import Dispatcher, RefusedSeat, Seat
from helexa.gateway.act.proxy import SSE, Call, Headers, Proxy, TryAnother
from helexa.gateway.fleet import events as ev
from helexa.gateway.fleet.catalogue import Names
from helexa.gateway.fleet.model import Fleet, Status
from helexa.gateway.meter import Journey, Usage, settle
from helexa.gateway.metrics import Metrics
from helexa.gateway.plan.instructions import Why
from helexa.http1.server import Reply, Request

KEEPALIVE_S = 0.9
"""A waiting client hears from us at least each second."""
ATTEMPTS = 3
FORWARDED = frozenset((b"traceparent", b"tracestate", b"x-request-id", b"x-include-thinking"))
"""Request headers that reach a neuron; no other does, least of all Authorization, cookies or x-helexa-*."""
JSON: Headers = [(b"content-type", b"application/json")]


class QueueFull(HelexaError):
    """Too many requests wait for `{model}`."""

    code = "rate_limit_exceeded"
    status = 429


class StillLoading(Unavailable):
    """The model `{model}` is still loading."""

    code = "model_loading"


class Flow:
    """Serves calls of every dialect. `names` is read anew each time: a reload may have changed the aliases."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        proxy: Proxy,
        metrics: Metrics,
        clock: Clock,
        *,
        names: Callable[[], Names],
        max_wait_s: Callable[[], float],
        log: Callable[[Journey, int, str | None, Usage | None, float], None],
        look_again: Callable[[str], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._proxy = proxy
        self._metrics = metrics
        self._clock = clock
        self._names = names
        self._max_wait_s = max_wait_s
        self._log = log
        self._look_again = look_again
        self._run = fresh()[:12]
        self._numbers = itertools.count(1)

    async def serve(self, call: Call, request: Request, reply: Reply) -> None:
        """Answer one request, whatever happens: an answer, an error in the client's dialect, or a freed seat."""
        given = request.header(b"x-request-id")
        decision = f"{self._run}-{next(self._numbers):x}"
        journey = Journey(
            began=self._clock.now(),
            request_id=given.decode("latin-1") if given else "req_" + decision,
            decision=decision,
            endpoint=call.endpoint,
            asked=call.asked,
            stream=call.stream,
        )
        usage, failed = None, "client_gone"
        try:
            usage = await self._answer(call, request, reply, journey)
            failed = None if reply.status < 400 else f"http_{reply.status}"
        except HelexaError as error:
            failed = error.code
            self._tell(call, reply, journey, error)
        finally:
            now = self._clock.now()
            settle(self._metrics, journey, usage, now, failed)
            self._log(journey, reply.status, failed, usage, now)

    async def _answer(self, call: Call, request: Request, reply: Reply, journey: Journey) -> Usage | None:
        journey.model = self._names().resolve(self._dispatcher.fleet, call.asked)
        body = call.body_for(journey.model)
        carried = JSON
        if known := request.among(FORWARDED):
            carried = [*JSON, *((name, request.header(name) or b"") for name in known)]
        avoid: frozenset[str] = frozenset()
        for attempt in range(1, ATTEMPTS + 1):
            seat = self._dispatcher.seat(journey.model, affinity=call.affinity, avoid=avoid, decision=journey.decision)
            transport = False
            try:
                if not seat.ask():
                    await self._wait(seat, call, reply, journey)
                journey.node = seat.node
                journey.seated = self._clock.now()
                return await self._proxy.pass_on(call, body, reply, journey, carried, _shown(journey))
            except RefusedSeat as refused:
                raise refusal_of(refused) from refused
            except TryAnother as trouble:
                transport = trouble.transport
                self._learn(seat.node, journey.model, trouble)
                if attempt == ATTEMPTS:
                    raise trouble.error from trouble
                avoid |= {seat.node}
            finally:
                seat.leave(transport_error=transport)
        return None

    def _learn(self, node: str, model: str, trouble: TryAnother) -> None:
        if trouble.gone:
            self._dispatcher.tell(ev.ModelGone(node=node, model=model))
        if trouble.unreachable:
            self._dispatcher.tell(ev.Missed(node=node, reason=trouble.error.message, limit=1))
            self._look_again(node)

    async def _wait(self, seat: Seat, call: Call, reply: Reply, journey: Journey) -> None:
        """Wait for the seat, keeping a streaming client company. Raises what the planner refuses with."""
        journey.waited = True
        if call.stream:
            await self._keep_company(seat, call, reply, journey)
        elif not await seat.wait(self._max_wait_s()):
            raise self._still_loading(journey)

    async def _keep_company(self, seat: Seat, call: Call, reply: Reply, journey: Journey) -> None:
        while not await seat.wait(KEEPALIVE_S):
            if not reply.started:
                reply.start(200, [*SSE, *_shown(journey)])
                reply.write(call.opening())
            else:
                reply.write(call.keepalive())

    def _still_loading(self, journey: Journey) -> StillLoading:
        loading = _loading(self._dispatcher.fleet, journey.model)
        eta = loading.get("eta_s")
        retry = min(60.0, max(1.0, eta)) if isinstance(eta, (int, float)) else 5.0
        return StillLoading(model=journey.model, retry_after=retry, loading=loading)

    def _tell(self, call: Call, reply: Reply, journey: Journey, error: HelexaError) -> None:
        """An error in the client's own grammar: a status while that is possible, an event once a stream has begun."""
        if not reply.started:
            status, headers, body = call.refuse(error, journey.request_id)
            reply.send(status, [*headers, *_traced(journey)], body)
        elif call.stream:
            reply.write(call.fail(error))
            reply.finish()
        else:
            reply.abort()


def _shown(journey: Journey) -> Headers:
    request_id = journey.request_id.encode("latin-1", "replace")
    return [
        (b"x-request-id", request_id),
        (b"request-id", request_id),
        *_traced(journey),
    ]


def _traced(journey: Journey) -> Headers:
    return [
        (b"x-cortex-node", journey.node.encode("latin-1", "replace")),
        (b"x-cortex-decision", journey.decision.encode()),
    ]


def refusal_of(refused: RefusedSeat) -> HelexaError:
    """The planner's refusal as an error with all its fields."""
    found = refused.refusal
    kind = QueueFull if found.why is Why.QUEUE_FULL else Refused if found.status == 422 else Unavailable
    fields = {name: value for name, value in found.fields.items() if name not in ("message", "retry_after")}
    return kind(found.message, retry_after=found.retry_after, **{"model": found.model, "why": str(found.why), **fields})


def _loading(fleet: Fleet, model: str) -> dict[str, object]:
    """What can be said of a load that a client waited for too long."""
    for place in fleet.places.get(model, {}).values():
        if place.status in (Status.LOADING, Status.RECOVERING):
            found = place.loading
            shown: dict[str, object] = {"state": str(place.status), "node": place.node}
            if found is not None:
                shown |= {"stage": found.stage, "progress": found.progress}
                shown |= {"eta_s": found.eta_s} if found.eta_s is not None else {}
            return shown
    return {"state": "waiting"}
