"""`cortex load | unload | pin | drain | plan`: the operator's verbs."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any
from urllib.parse import quote

from cyclopts import Parameter

from helexa.base.units import human_seconds
from helexa.cli.link import AsJson, Endpoint, call
from helexa.cli.say import as_json, fail, stage, weighed

Node = Annotated[str | None, Parameter(name=("--node", "-n"))]


def load(
    model: str, *, endpoint: Endpoint = None, wait: bool = True, timeout: float = 600.0, json: AsJson = False
) -> None:
    """Load a model somewhere it fits, evicting what is cheapest to lose.

    Parameters
    ----------
    model
        A model id or alias.
    wait
        Wait until it is loaded, showing how far it is.
    timeout
        Seconds to wait at most.
    """
    call("POST", endpoint, "/cortex/v1/load", {"model": model})
    found = _follow(model, endpoint, timeout) if wait else _entry(model, endpoint)
    if json:
        as_json(found)
    elif wait:
        print(f"{found['id']} is loaded on {', '.join(place['node'] for place in found['locations'])}")


def _follow(model: str, endpoint: str | None, timeout_s: float) -> dict[str, Any]:
    end, shown = time.monotonic() + timeout_s, ""
    while time.monotonic() < end:
        found = _entry(model, endpoint)
        if found["loaded"]:
            return found
        if found["status"] in ("failed", "infeasible"):
            fail(f"{model}: {found.get('reason', found['status'])}")
        why = f": {found['reason']}" if found.get("reason") else ""
        line = f"{found['id']}: {stage(found['loading']) if found.get('loading') else found['status'] + why}"
        if line != shown:
            print(line, file=sys.stderr, flush=True)
            shown = line
        time.sleep(0.2)
    return fail(f"{model} is not loaded after {timeout_s:.0f} s; it goes on loading: cortex status --watch")


def _entry(model: str, endpoint: str | None) -> dict[str, Any]:
    return call("GET", endpoint, f"/v1/models/{quote(model, safe='')}")


def unload(model: str, *, endpoint: Endpoint = None, node: Node = None, json: AsJson = False) -> None:
    """Take a model off every node, or off one; refused while it has requests in flight.

    Parameters
    ----------
    model
        A model id or alias.
    node
        Only off this one.
    """
    found = call("POST", endpoint, "/cortex/v1/unload", {"model": model, "node": node})
    as_json(found) if json else print(f"unloading {found['model']}")


def pin(
    model: str,
    *,
    endpoint: Endpoint = None,
    node: Node = None,
    off: Annotated[bool, Parameter(negative="")] = False,
    json: AsJson = False,
) -> None:
    """Never evict a loaded model; --off lets it go again.

    Parameters
    ----------
    model
        A model id or alias.
    node
        Only on this one.
    off
        Let it be evicted again.
    """
    found = call("POST", endpoint, "/cortex/v1/pin", {"model": model, "node": node, "pinned": not off})
    as_json(found) if json else print(
        f"{found['model']} {'unpinned' if off else 'pinned'} on {', '.join(found['nodes'])}"
    )


def drain(
    node: str, *, endpoint: Endpoint = None, off: Annotated[bool, Parameter(negative="")] = False, json: AsJson = False
) -> None:
    """Send no new work to a node; what runs there ends by itself. --off takes it back into service.

    Parameters
    ----------
    node
        Its name in cortex.toml.
    off
        Take it back into service.
    """
    found = call("POST", endpoint, "/cortex/v1/drain", {"node": node, "drain": not off})
    as_json(found) if json else print(f"{node} {'is back in service' if off else 'gets no new work'}")


def plan(model: str, *, endpoint: Endpoint = None, json: AsJson = False) -> None:
    """What would happen if a request for this model came now: a dry run of the planner itself.

    Parameters
    ----------
    model
        A model id or alias.
    """
    found = call("POST", endpoint, "/cortex/v1/plan", {"model": model})
    if json:
        as_json(found)
        return
    for action in found["actions"]:
        print(_planned(action))
    if found["waits"]:
        print(f"it would wait for {found['waits_for']}")
        if "expected_load_s" in found:
            print(f"expected to load in {human_seconds(found['expected_load_s'])}")
    weighed(found, told=" ".join(action.get("message", "") for action in found["actions"]))


def _planned(action: dict[str, Any]) -> str:
    match action["action"]:
        case "seat":
            return f"served at once on {action['node']}"
        case "load":
            devices = ", ".join(map(str, action["devices"]))
            return f"load {action['model']} on {action['node']}" + (f", device {devices}" if devices else "")
        case "unload":
            return f"unload {action['model']} from {action['node']} ({action['reason']})"
        case "refuse":
            return f"refused: {action['message']}"
        case other:
            return str(other)
