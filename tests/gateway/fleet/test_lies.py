"""Every field of what a node tells, told wrong: refused by its type, or taken in without harm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from helexa.gateway.edge import render
from helexa.gateway.fleet import events as ev
from helexa.gateway.fleet.model import Fleet
from helexa.gateway.plan.step import step
from helexa.wire import control
from tests.gateway.plan.world import World

WRONG: tuple[Any, ...] = (
    "x",
    "",
    -1,
    0,
    1.5,
    -1e308,
    1e308,
    True,
    None,
    [],
    {},
    [None],
    [-1],
    {"x": 1},
    2**60,
    -(2**53),
)

ROW = {"id": "lie", "vram_used_mb": 400, "devices": [0], "limit": {}, "servable": {}, "loading": {}}
HEALTH = {"devices": [{"index": 0}], "models": [{"id": "lie"}], "activation": {"failed": [{"model_id": "x"}]}}
DISCOVERY = {"hostname": "n1", "devices": [{"index": 0, "vram_total_mb": 1000}]}
TOLD: dict[type[msgspec.Struct], object] = {control.Model: ROW, control.Health: HEALTH, control.Discovery: DISCOVERY}


def wrong(shape: type[msgspec.Struct], good: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every field of the struct and of those inside it, by its path, with each wrong value in the place of its own."""
    for field in msgspec.structs.fields(shape):
        here = (*path, field.encode_name)
        for value in WRONG:
            yield here, value
        inner = _struct_in(msgspec.inspect.type_info(field.type))
        if inner is not None:
            within = good.get(field.encode_name) if isinstance(good, dict) else None
            listed = isinstance(within, list)
            yield from wrong(inner, within[0] if listed and within else within, (*here, 0) if listed else here)


def _struct_in(node: Any) -> type[msgspec.Struct] | None:
    if isinstance(node, msgspec.inspect.StructType):
        return node.cls
    inside = getattr(node, "types", None) or [part for part in [getattr(node, "item_type", None)] if part]
    return next((found for part in inside if (found := _struct_in(part)) is not None), None)


def mutant(good: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with one place changed; what is not there on the way to it is made."""
    if not path:
        return value
    at, rest = path[0], path[1:]
    if isinstance(at, int):
        items = list(good) if isinstance(good, list) and good else [{}]
        return [mutant(items[0], rest, value), *items[1:]]
    table = dict(good) if isinstance(good, dict) else {}
    return table | {at: mutant(table.get(at, {}), rest, value)}


def polled(**told: Any) -> ev.Polled:
    """A poll's answers as they are decoded. Raises msgspec.ValidationError."""
    given = {control.Model: ROW, control.Health: HEALTH, control.Discovery: DISCOVERY} | told.pop("instead")
    decoded = {shape: msgspec.json.decode(msgspec.json.encode(given[shape]), type=shape) for shape in TOLD}
    return ev.Polled(
        node="liar",
        health=decoded[control.Health],
        models=(decoded[control.Model],),
        discovery=decoded[control.Discovery],
    )


def house() -> Fleet:
    """An honest node with a model, and one that has not said anything yet."""
    world = World({"honest": 1000, "liar": 1000}, {"true": 400})
    world.tell(ev.ModelSeen(node="honest", model=control.Model(id="true", vram_used_mb=400, devices=[0])))
    return world.fleet


@pytest.mark.parametrize("shape", list(TOLD), ids=lambda shape: shape.__name__)
def test_a_field_told_wrong_is_refused_or_harms_nobody(shape: type[msgspec.Struct]) -> None:
    seen, taken, fleet = 0, 0, house()
    for path, value in wrong(shape, TOLD[shape]):
        seen += 1
        try:
            event = polled(instead={shape: mutant(TOLD[shape], path, value)})
        except msgspec.ValidationError:
            continue
        taken += 1
        after = fleet
        for told in (event, ev.Ticked(), ev.Arrived(ask=1, model="lie"), ev.Arrived(ask=2, model="true")):
            after, _ = step(after, told, 100.0)
        assert msgspec.json.encode(render.nodes(after, 100.0)), path
        assert after.free["honest"] == {0: 600}
        honest = after.place("true", "honest")
        assert honest is not None
        assert honest.in_flight == 1, path
        assert all(
            place.in_flight >= 0 and min(place.shares.values(), default=0) >= 0 for place in after.on_node("liar")
        )
    assert seen > 100
    assert 0 < taken < seen
