"""Why a request is refused, in the words and figures that its author needs."""

from __future__ import annotations

from typing import Any

from helexa.base.words import counted, together
from helexa.gateway.fleet.model import Ask, Fleet
from helexa.gateway.plan.instructions import Appraisal, Refuse, Verdict, Why

NO_NODE_RETRY_S, UNHEALTHY_RETRY_S = 5.0, 3.0


def refusal(fleet: Fleet, ask: Ask, found: list[Appraisal], now: float) -> Refuse:
    """The most useful of the nodes' verdicts: a failure that will be tried again, a node that is away, or never."""
    failed = [a for a in found if a.verdict is Verdict.BACKOFF]
    closed = [a for a in found if a.verdict is Verdict.CLOSED]
    if failed:
        return _failed(fleet, ask, failed, found, now)
    unservable = [p for p in fleet.places.get(ask.model, {}).values() if not p.servable and fleet.nodes[p.node].healthy]
    if unservable:
        text = together((p.node, p.reason or "not servable") for p in unservable)
        return _refuse(
            fleet, ask, Why.UNSERVABLE, f"`{ask.model}` is loaded but cannot serve: {text}", 503, found, 10.0
        )
    stuck = [p for p in fleet.places.get(ask.model, {}).values() if p.stuck(now) and fleet.nodes[p.node].healthy]
    if stuck:
        text = f"`{ask.model}` is said to be {stuck[0].status} on {stuck[0].node}, but nothing has moved there for long"
        return _refuse(fleet, ask, Why.UNSERVABLE, text, 503, found, 10.0)
    if closed or not found:
        nodes = together((a.node, a.detail) for a in closed) or "no nodes are configured"
        text = f"no node that could serve `{ask.model}` is available: {nodes}"
        return _refuse(fleet, ask, Why.UNHEALTHY, text, 503, found, UNHEALTHY_RETRY_S if closed else NO_NODE_RETRY_S)
    return _infeasible(fleet, ask, found)


def forgone(fleet: Fleet, model: str, found: list[Appraisal], now: float) -> str:
    """Why a model is not loaded that was to be without a request."""
    if any(a.victims for a in found):
        return f"there is no room for `{model}` beside what else is to be preloaded"
    return refusal(fleet, Ask(id=0, model=model, since=now), found, now).message


def _failed(fleet: Fleet, ask: Ask, failed: list[Appraisal], found: list[Appraisal], now: float) -> Refuse:
    soonest = min(failed, key=lambda a: a.until or now)
    fields = dict(soonest.fields)
    status = int(fields.pop("status", 503))
    retry = max(1.0, (soonest.until or now) - now) if status != 422 else None
    text = f"`{ask.model}` failed to load on {soonest.node}: {soonest.detail}"
    return _refuse(fleet, ask, Why.FAILED, text, status if status in (422, 503) else 503, found, retry, fields)


def _infeasible(fleet: Fleet, ask: Ask, found: list[Appraisal]) -> Refuse:
    """Nowhere ever: 422 with the arithmetic of those weighed; the typed refusal is a node's own where there is one."""
    none: dict[str, Any] = {}
    own = next((dict(a.fields) for a in found if a.fields.get("kind")), none)
    own.setdefault("kind", "infeasible")
    own["nodes"] = {a.node: {"detail": a.detail, **a.fields} for a in found}
    text = f"no node can ever serve `{ask.model}`: " + together((a.node, a.detail) for a in found)
    if len(found) < len(fleet.nodes):
        text += f"; nor can {counted(len(fleet.nodes) - len(found), 'other')}"
    return _refuse(fleet, ask, Why.INFEASIBLE, text, 422, found, None, own)


def _refuse(
    fleet: Fleet,
    ask: Ask,
    why: Why,
    message: str,
    status: int,
    found: list[Appraisal],
    retry_after: float | None = None,
    fields: dict[str, Any] | None = None,
) -> Refuse:
    return Refuse(
        ask=ask.id,
        model=ask.model,
        why=why,
        message=message,
        status=status,
        retry_after=retry_after,
        fields=fields or {},
        appraisals=tuple(found),
        nodes=len(fleet.nodes),
    )
