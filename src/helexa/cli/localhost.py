"""This host without its daemon: what `neuron discover`, `preflight`, `pull` and `models` look at."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from helexa.neuron.app.host import HostView
    from helexa.neuron.config import NeuronConfig
    from helexa.neuron.sources.library import Library

ConfigFile = Annotated[
    Path | None, Parameter(name=("--config", "-c"), help="The neuron.toml; else /etc/neuron/neuron.toml.")
]
Option = Annotated[list[str] | None, Parameter(name=("--option", "-o"), negative="", help="An engine's: KEY=VALUE.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalHost:
    """The configuration, the devices and the model cache."""

    config: NeuronConfig
    view: HostView
    library: Library


def look(path: Path | None) -> LocalHost:
    """Read the configuration and ask the drivers; blocking. Raises ConfigError."""
    from helexa.neuron import registry
    from helexa.neuron.app.folder import state_folder
    from helexa.neuron.app.host import HostView
    from helexa.neuron.config import load
    from helexa.neuron.discovery.host import survey
    from helexa.neuron.keeper import Notebook
    from helexa.neuron.sources.library import from_config

    config = load(path, os.environ, insecure_ok=True)
    harnesses = registry.offered((entry.name for entry in config.harnesses), config.harness)
    notebook = Notebook(state_folder(os.environ, config.state_dir) / "measured.json")
    return LocalHost(
        config=config,
        view=HostView(config, survey(), harnesses, boot_id=""),
        library=from_config(config, os.environ, lambda: {h.name: h.info() for h in harnesses}, notebook.measurements),
    )


def options_of(texts: list[str] | None) -> dict[str, Any]:
    """`KEY=VALUE`s; a value is read as TOML where it is that (8, true, [0, 1]), else it is a text."""
    import tomllib

    from helexa.base.errors import InvalidRequest

    found: dict[str, Any] = {}
    for text in texts or []:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise InvalidRequest(f"`{text}` is not KEY=VALUE", param="option")
        try:
            found[key] = tomllib.loads(f"v = {value}")["v"]
        except tomllib.TOMLDecodeError:
            found[key] = value
    return found
