"""`cortex config check`: what would be wrong, before it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from helexa.base.words import counted
from helexa.cli.link import AsJson
from helexa.cli.say import as_json, fail


def check(config: Annotated[Path | None, Parameter(name=("--config", "-c"))] = None, *, json: AsJson = False) -> None:
    """Read cortex.toml and the models.toml it names, as `cortex serve` would, and say what they hold.

    Parameters
    ----------
    config
        The cortex.toml; /etc/cortex/cortex.toml when not given.
    """
    from helexa.gateway.app import read_files
    from helexa.gateway.config import DEFAULT_PATH

    path = config or the_default(DEFAULT_PATH)
    found, models = read_files(path)
    if json:
        as_json(
            {"ok": True, "neurons": len(found.neurons), "models": len(models.models), "aliases": len(models.aliases)}
        )
        return
    print(f"{path}: {counted(len(found.neurons), 'neuron')}, listens on {found.gateway.listen}")
    where = path.parent / found.models_config
    print(f"{where}: {counted(len(models.models), 'model')}, {counted(len(models.aliases), 'alias')}")
    if bool(os.environ.get("CORTEX_GATEWAY__LISTEN")):
        print("note: CORTEX_GATEWAY__LISTEN is set and wins over the file")


def the_default(path: Path) -> Path:
    """Where the file is when nobody named one."""
    if not path.exists():
        fail(f"there is no {path}; name yours with --config (examples/cortex.toml shows every key)")
    return path
