"""`neuron serve`: the daemon in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def serve(
    *,
    config: Annotated[Path | None, Parameter(name=("--config", "-c"))] = None,
    port: Annotated[int | None, Parameter(name=("--port", "-p"))] = None,
    listen: str | None = None,
    insecure_permissions: Annotated[bool, Parameter(negative="")] = False,
    log_style: Literal["human", "json"] = "human",
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO",
) -> None:
    """Serve this host until SIGTERM or Ctrl-C: the first drains, a second one ends at once.

    Parameters
    ----------
    config
        The neuron.toml; /etc/neuron/neuron.toml when not given, and defaults when there is none.
    port
        Listen here instead of where the file says.
    listen
        Listen on this address instead of the file's.
    insecure_permissions
        Accept a file that holds a token and is world-readable.
    log_style
        Lines for people, or one JSON object each.
    log_level
        DEBUG also shows what the engines write.
    """
    import os

    import msgspec

    from helexa.base import descriptors, log
    from helexa.cli.say import fail
    from helexa.neuron import app
    from helexa.neuron.config import load, problems

    found = load(config, os.environ, insecure_ok=insecure_permissions)
    given = {"port": port, "listen": listen}
    found = msgspec.structs.replace(found, **{name: value for name, value in given.items() if value is not None})
    if problem := next(problems(found), None):
        fail(problem)
    log.set_up(log_style, log_level)
    descriptors.allow_many()
    try:
        app.main(found, ready=lambda url: print(f"neuron listens on {url}", flush=True))
    except OSError as error:
        fail(f"cannot listen on {found.listen}:{found.port}: {error.strerror or error}")
