"""One request, top to bottom, on one page: name -> seat (or wait) -> neuron -> answer -> count."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from functools import partial

from helexa.base.clock import Clock
from helexa.base.errors import HelexaError, Refused, Unavailable
from helexa.base.ids import fresh
from helexa.gateway.act.company import EVERY_S, QUEUED_S, Company
from helexa.gateway.act.dispatcher import Claim, Dispatcher, RefusedSeat, Seat
from helexa.gateway.act.proxy import Call, Headers, Proxy, Trip, TryAnother, traced, unanswered
from helexa.gateway.fleet import events as ev
from helexa.gateway.fleet.catalogue import Names
from helexa.gateway.meter import Books, Journey, Usage
from helexa.gateway.plan.instructions import Why
from helexa.gateway.plan.wait import loading, reason
from helexa.http1.client import UpstreamBroken, Whole
from helexa.http1.server import Reply, Request, Work

log = logging.getLogger(__name__)

ATTEMPTS, FAILURES = 8, 3
"""How often a request is tried, and on how many nodes it may fail: what three have failed on may be why they failed. A
node that could not be reached has not even seen it."""
FORWARDED = frozenset((b"traceparent", b"tracestate", b"x-request-id", b"x-include-thinking"))
"""Request headers that reach a neuron; no other does, least of all Authorization, cookies or x-helexa-*."""
CLIENT_GONE = "client_gone"
LONGEST_KEPT = 1000
"""Characters of a refusal that is kept to be explained: names that clients make up may be longer."""
_NONE: Headers = []


class QueueFull(HelexaError):
    """Too many requests wait for `{model}`."""

    code = "rate_limit_exceeded"
    status = 429


class StillLoading(Unavailable):
    """The model `{model}` is not ready yet: the request waited for {waits_for}."""

    code = "model_loading"


class Flow:
    """Serves calls of every dialect. `names` is read anew each time: a reload may have changed the aliases."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        proxy: Proxy,
        books: Books,
        clock: Clock,
        *,
        names: Callable[[], Names],
        max_wait_s: Callable[[], float],
        look_again: Callable[[str], None],
        note: Callable[[Journey], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._proxy = proxy
        self._books = books
        self._clock = clock
        self._names = names
        self._max_wait_s = max_wait_s
        self._look_again = look_again
        self._note = note
        self._run = fresh()[:12]
        self._numbers = itertools.count(1)

    def start(self, call: Call, request: Request, reply: Reply, request_id: str = "") -> Work | None:
        """Answer one request, whatever happens: an answer, an error in the client's dialect, or a freed seat.
        `request_id` is the one that the call speaks of itself, if it does.

        Where the model is warm and the answer wanted whole it is given by callbacks, and None returned: a task would
        be a third of its cost. Else what is returned has to be run.
        """
        began, model = self._clock.now(), ""
        try:
            model = self._names().resolve(self._dispatcher.charted, call.asked)
            body = call.body_for(model)
        except HelexaError as error:
            self._refuse(Trip(call, reply, self._journey(call, request, request_id, began, model), _NONE), error)
            return None
        journey = self._journey(call, request, request_id, began, model)
        trip = Trip(call, reply, journey, _carried(request), body)
        self._note(journey)
        if call.stream:
            return self._serve(trip, None)
        node = self._dispatcher.take(model, call.affinity, began)
        if node is None:
            return self._serve(trip, None)
        if self._ask(trip, node):
            return None
        return self._serve(trip, Seat(self._dispatcher, model, node))

    def _journey(self, call: Call, request: Request, request_id: str, began: float, model: str) -> Journey:
        decision = f"{self._run}-{next(self._numbers):x}"
        if not request_id:
            given = request.header(b"x-request-id")
            request_id = given.decode("latin-1") if given else "req_" + decision
        return Journey(began, request_id, decision, call.endpoint, call.asked, call.stream, model)

    def _refuse(self, trip: Trip, error: HelexaError) -> None:
        """A request that comes to no planner."""
        journey = trip.journey
        if len(error.message) < LONGEST_KEPT:
            journey.refused = error.message
            self._note(journey)
        self._tell(trip, error)
        self._books.enter(journey, trip.reply.status, error.code, None, journey.began)

    # -- by callbacks

    def _ask(self, trip: Trip, node: str) -> bool:
        """Send the request for a whole answer, if a connection is at hand; the seat at `node` is then given back."""
        journey = trip.journey
        journey.node, journey.seated = node, journey.began
        whole = self._proxy.ask(trip, partial(self._answered, trip))
        if whole is None:
            return False
        trip.reply.on_gone = partial(self._abandoned, trip, whole)
        return True

    def _answered(self, trip: Trip, whole: Whole) -> None:
        """The neuron's answer is here, or none will be. Trouble is left to a task, which may wait and try again."""
        journey, now = trip.journey, self._clock.now()
        trouble = failed = usage = None
        try:
            if whole.error is not None:
                raise unanswered(journey, whole.error)
            usage = self._proxy.give(trip, whole, whole.body, now)
        except TryAnother as found:
            trouble = found.with_traceback(None)  # which holds this frame, and so the request, for as long as it lives
        except HelexaError as error:
            failed = error.code
            self._tell(trip, error)
        except Exception:
            log.exception("an answer of %s could not be given", journey.node)
            failed = HelexaError.code
            self._tell(trip, HelexaError("the gateway failed on this answer"))
        if trouble is None:
            self._dispatcher.give_back(journey.model, journey.node, now)
            self._books.enter(journey, trip.reply.status, failed, usage, now)
        elif isinstance(whole.error, UpstreamBroken) and whole.error.stale:
            # The connection had been closed already: no fault of the node's.
            trip.reply.go_on(self._serve(trip, Seat(self._dispatcher, journey.model, journey.node)))
        else:
            self._dispatcher.give_back(journey.model, journey.node, now, transport_error=trouble.transport)
            self._learn(trip, trouble)
            trip.reply.go_on(self._serve(trip, None))

    def _abandoned(self, trip: Trip, whole: Whole) -> None:
        """The client has left: so does the neuron, when its connection ends."""
        whole.close()
        journey, now = trip.journey, self._clock.now()
        self._dispatcher.give_back(journey.model, journey.node, now)
        self._books.enter(journey, trip.reply.status, CLIENT_GONE, None, now)

    # -- by a task

    async def _serve(self, trip: Trip, seat: Seat | None) -> None:
        """`seat`: one that is held already."""
        usage, failed = None, CLIENT_GONE
        company = Company(trip)
        try:
            usage = await self._answer(trip, seat, company)
            failed = None
        except HelexaError as error:
            failed = error.code
            self._tell(trip, error)
            # It and the frames that it came through hold each other, and the request's body with them.
            error.__traceback__ = error.__cause__ = error.__context__ = None
        finally:
            company.leave()
            self._books.enter(trip.journey, trip.reply.status, failed, usage, self._clock.now())

    async def _answer(self, trip: Trip, seat: Seat | None, company: Company) -> Usage | None:
        journey, call = trip.journey, trip.call
        while True:
            claim = None
            if seat is None:
                seat = claim = self._dispatcher.seat(
                    journey.model,
                    affinity=call.affinity,
                    avoid=trip.avoid,
                    trouble=trip.trouble,
                    decision=journey.decision,
                )
            transport = False
            try:
                if claim is not None and not claim.ask():
                    await self._wait(claim, trip, company)
                journey.node = seat.node
                journey.seated = self._clock.now()
                company.join(QUEUED_S)
                return await self._proxy.pass_on(trip, company.leave)
            except RefusedSeat as refused:
                raise refusal_of(refused) from refused
            except TryAnother as trouble:
                transport = trouble.transport
                self._learn(trip, trouble)
            finally:
                seat.leave(transport_error=transport)
            seat = None

    def _learn(self, trip: Trip, trouble: TryAnother) -> None:
        """What the trouble says of its node. Raises it as the client's error when enough was tried."""
        node = trip.journey.node
        if trouble.gone:
            self._dispatcher.tell(ev.ModelGone(node=node, model=trip.journey.model))
        if trouble.state is not None:
            self._dispatcher.tell(ev.TurnedAway(node=node, model=trip.journey.model, status=trouble.state))
            self._look_again(node)
        if trouble.leaving:
            self._dispatcher.tell(ev.Leaving(node=node))
            self._look_again(node)
        if trouble.unreachable:
            self._dispatcher.tell(ev.Missed(node=node, reason=trouble.error.message, limit=1))
            self._look_again(node)
        trip.trouble = trouble.error.message
        trip.attempts += 1
        if trouble.state is None and not trouble.leaving:
            trip.failures += not trouble.unreachable
            trip.avoid |= {node}
        if trip.attempts == ATTEMPTS or trip.failures == FAILURES:
            raise trouble.error from trouble

    async def _wait(self, seat: Claim, trip: Trip, company: Company) -> None:
        """Wait for the seat. Raises what the planner refuses with."""
        trip.journey.waited = True
        company.join(EVERY_S)
        if not await seat.wait(None if trip.call.stream else self._max_wait_s()):
            in_vain = self._still_loading(trip.journey)
            seat.give_up()
            raise in_vain

    def _still_loading(self, journey: Journey) -> StillLoading:
        fleet = self._dispatcher.fleet
        stands = loading(fleet, journey.model)
        waits_for = reason(fleet, journey.model, self._clock.now())
        eta = stands.get("eta_s")
        retry = min(60.0, max(1.0, eta)) if isinstance(eta, (int, float)) else 5.0
        return StillLoading(model=journey.model, waits_for=waits_for, retry_after=retry, loading=stands)

    def _tell(self, trip: Trip, error: HelexaError) -> None:
        """An error in the client's own grammar: a status while that is possible, an event once a stream has begun."""
        call, reply = trip.call, trip.reply
        if not reply.started:
            status, headers, body = call.refuse(error, trip.journey.request_id)
            reply.send(status, [*headers, *traced(trip.journey)], body)
        elif call.stream:
            reply.write(call.fail(error))
            reply.finish()
        else:
            reply.abort()


def _carried(request: Request) -> Headers:
    """The client's headers that go along."""
    found = request.among(FORWARDED)
    return [(name, request.header(name) or b"") for name in found] if found else _NONE


def refusal_of(refused: RefusedSeat) -> HelexaError:
    """The planner's refusal as an error with all its fields."""
    found = refused.refusal
    kind = QueueFull if found.why is Why.QUEUE_FULL else Refused if found.status == 422 else Unavailable
    fields = {name: value for name, value in found.fields.items() if name not in ("message", "retry_after")}
    return kind(found.message, retry_after=found.retry_after, **{"model": found.model, "why": str(found.why), **fields})
