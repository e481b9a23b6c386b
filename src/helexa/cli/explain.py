"""`cortex explain`: why a request was served, made to wait, or refused."""

from __future__ import annotations

import time

from helexa.base.units import human_mib, human_seconds
from helexa.cli.link import AsJson, Endpoint, call
from helexa.cli.say import as_json


def explain(decision: str, *, endpoint: Endpoint = None, json: AsJson = False) -> None:
    """Explain a past decision.

    Parameters
    ----------
    decision
        What a response's `x-cortex-decision` header said.
    """
    found = call("GET", endpoint, f"/cortex/v1/decisions/{decision}")
    if json:
        as_json(found)
        return
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found["at"]))
    where = f" on {found['node']}" if found["node"] else ""
    waited = f" after {human_seconds(found['waited_s'])}" if found["waited_s"] is not None else ""
    print(f"{found['model']}, asked for at {at}: {found['outcome']}{where}{waited}")
    for action in found["actions"]:
        print(f"  +{action['after_s']:.3f} s  {action['what']}")
    for one in found["candidates"]:
        need = f" (needs {human_mib(one['needed_mb'])})" if one["needed_mb"] else ""
        print(f"  {one['node']}: {one['verdict']}{need}; {one['detail']}")
    if found["not_weighed"]:
        print(f"  {found['not_weighed']} more nodes were no likelier and are not weighed in full")
