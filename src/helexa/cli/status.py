"""`cortex status` and `cortex models`: the fleet as it stands."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

from cyclopts import Parameter

from helexa.base.units import human_mib, human_seconds
from helexa.cli.link import AsJson, Endpoint, NoGateway, call
from helexa.cli.say import animated, as_json, rich_table, stage, table

NODE_COLUMNS = ("NODE", "STATE", "DEVICE", "FREE", "TOTAL")
MODEL_COLUMNS = ("MODEL", "STATUS", "ON", "NOTE")


def status(
    *,
    endpoint: Endpoint = None,
    watch: Annotated[bool, Parameter(name=("--watch", "-w"), negative="")] = False,
    json: AsJson = False,
) -> None:
    """Show nodes, devices and models.

    Parameters
    ----------
    watch
        Keep showing, refreshed each second, until Ctrl-C.
    """
    if watch and not json:
        _watch(endpoint)
        return
    found = _ask(endpoint)
    if json:
        as_json(found)
        return
    table(_title(found), NODE_COLUMNS, _node_rows(found))
    table("", MODEL_COLUMNS, _model_rows(found))


def models(*, endpoint: Endpoint = None, json: AsJson = False) -> None:
    """List every model the fleet could serve, and why it cannot where it cannot."""
    found = call("GET", endpoint, "/v1/models")
    if json:
        as_json(found)
        return
    table("", MODEL_COLUMNS, _model_rows({"models": found["data"]}))


def _ask(endpoint: str | None) -> dict[str, Any]:
    health = call("GET", endpoint, "/health")
    nodes = call("GET", endpoint, "/cortex/v1/nodes")
    return {**health, "nodes_healthy": health["nodes"], **nodes, **call("GET", endpoint, "/cortex/v1/models")}


def _title(found: dict[str, Any]) -> str:
    healthy = found["nodes_healthy"]
    return f"cortex: {found['status']}, {healthy['healthy']} of {healthy['total']} nodes healthy"


def _node_rows(found: dict[str, Any]) -> list[list[str]]:
    rows: list[list[str]] = []
    for node in found["nodes"]:
        state = "healthy" if node["healthy"] else f"unhealthy: {node['problem'] or 'not reached yet'}"
        state = "draining" if node["draining"] else state
        for device in node["devices"] or [None]:
            memory = (
                [device["name"], human_mib(device["free_mb"]), human_mib(device["total_mb"])] if device else [""] * 3
            )
            rows.append([node["name"], state, *memory])
    return rows


def _model_rows(found: dict[str, Any]) -> list[list[str]]:
    rows: list[list[str]] = []
    for model in found["models"]:
        on = ", ".join(map(_where, model["locations"])) or ", ".join(model["feasible_on"])
        where = on if model["locations"] else f"({on})" if on else "-"
        rows.append([model["id"], model["status"], where, _note(model)])
    return rows


def _where(place: dict[str, Any]) -> str:
    more = [*([place["harness"]] if place.get("harness") else []), *(["pinned"] if place.get("pinned") else [])]
    return f"{place['node']} ({', '.join(more)})" if more else str(place["node"])


def _note(model: dict[str, Any]) -> str:
    if loading := model.get("loading"):
        return stage(loading)
    if model.get("reason"):
        return str(model["reason"])
    if alias := model.get("alias_of"):
        return f"alias of {alias}"
    if reasons := [place["harness_reason"] for place in model["locations"] if place.get("harness_reason")]:
        return str(reasons[0])
    return f"loads in {human_seconds(model['expected_load_s'])}" if "expected_load_s" in model else ""


def _watch(endpoint: str | None) -> None:
    from rich.console import Group
    from rich.live import Live

    if not animated(sys.stdout):
        _watch_plain(endpoint)
        return
    with Live(refresh_per_second=4, screen=False) as live:
        while True:
            try:
                found = _ask(endpoint)
                top = rich_table(_title(found), NODE_COLUMNS, _node_rows(found))
                live.update(Group(top, rich_table("", MODEL_COLUMNS, _model_rows(found))))
            except NoGateway as error:
                live.update(error.message)
            time.sleep(1.0)


def _watch_plain(endpoint: str | None) -> None:
    """In a pipe: a block of lines each second, only when something changed."""
    before: list[list[str]] = []
    while True:
        found = _ask(endpoint)
        rows = [*_node_rows(found), *_model_rows(found)]
        if rows != before:
            print("\n".join("\t".join(row) for row in rows), flush=True)
            before = rows
        time.sleep(1.0)
