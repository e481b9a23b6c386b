"""`cortex explain`: why a request was served, made to wait, or refused."""

from __future__ import annotations

import time
from urllib.parse import quote

from helexa.base.units import human_seconds
from helexa.cli.link import AsJson, Endpoint, call
from helexa.cli.say import as_json, weighed


def explain(decision: str, *, endpoint: Endpoint = None, json: AsJson = False) -> None:
    """Explain a past decision.

    Parameters
    ----------
    decision
        What a response's `x-cortex-decision` header said.
    """
    found = call("GET", endpoint, f"/cortex/v1/decisions/{quote(decision, safe='')}")
    if json:
        as_json(found)
        return
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found["at"]))
    outcome, _, reason = found["outcome"].partition(": ")
    where = f" on {found['node']}" if found["node"] else ""
    waited = f" after {human_seconds(found['waited_s'])}" if found["waited_s"] is not None else ""
    print(f"{found['model']}, asked for at {at}: {outcome}{where}{waited}")
    if reason:
        print(f"  {reason}")
    for action in found["actions"]:
        again = f" ({action['times']} times, last at +{action['last_s']:.3f} s)" if "times" in action else ""
        print(f"  +{action['after_s']:.3f} s  {action['what']}{again}")
    weighed(found, told=reason)
