"""`cortex serve`: the gateway in the foreground."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def serve(*, config: Annotated[Path | None, Parameter(name=("--config", "-c"))] = None) -> None:
    """Serve the fleet that a cortex.toml describes, until SIGTERM or Ctrl-C. SIGHUP reloads it.

    Parameters
    ----------
    config
        The cortex.toml; /etc/cortex/cortex.toml when not given.
    """
    import asyncio
    import os

    from helexa.base import descriptors, log
    from helexa.cli.check import the_default
    from helexa.cli.say import fail
    from helexa.gateway import app
    from helexa.gateway.config import DEFAULT_PATH, load_cortex

    path = config or the_default(DEFAULT_PATH)
    found = load_cortex(path, os.environ)
    log.set_up(found.log.style, found.log.level)
    descriptors.allow_many()

    def ready(addresses: list[str]) -> None:
        print(f"cortex listens on {', '.join(addresses)}", flush=True)

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(app.run(path, ready))
    except OSError as error:
        fail(f"cannot listen on {found.gateway.listen}: {error.strerror or error}")


def _loop_factory() -> Callable[[], AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # a platform without it: asyncio's own loop costs a sixth more a request
        return None
    return uvloop.new_event_loop
