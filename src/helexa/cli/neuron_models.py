"""`neuron models ls | rm | gc`: the model cache of this host."""

from __future__ import annotations

import time
from pathlib import Path

from helexa.base.units import human_bytes, human_seconds
from helexa.cli.link import AsJson
from helexa.cli.localhost import ConfigFile, look
from helexa.cli.say import as_json, table

ABANDONED_S = 3600.0


def ls(*, config: ConfigFile = None, json: AsJson = False) -> None:
    """List the models on this disk, with their sizes."""
    now = time.time()
    rows = look(config).library.held()
    if json:
        as_json(
            [
                {"model_id": name, "size_bytes": held.size_bytes, "files": held.files, "used_s": held.used_s,
                 "folder": str(held.folder), "weights": _weights(held.folder)}
                for name, held in rows
            ]
        )  # fmt: skip
        return
    if not rows:
        print("the model cache is empty; neuron pull MODEL fetches one")
        return
    shown = [
        [name, human_bytes(h.size_bytes), _weights(h.folder), f"{human_seconds(now - h.used_s)} ago", str(h.folder)]
        for name, h in rows
    ]
    table("", ("MODEL", "SIZE", "WEIGHTS", "LAST READ", "FOLDER"), shown)


def _weights(folder: Path) -> str:
    """Where a load would find them: `in memory` means nearly all of them are in the page cache."""
    from helexa.neuron.sources.disk import warmth_of

    files = (path for path in folder.rglob("*") if path.suffix in {".gguf", ".safetensors"})
    return "in memory" if warmth_of(files) == "memory" else "on disk"


def rm(model: str, *, config: ConfigFile = None, json: AsJson = False) -> None:
    """Remove a model from the cache. One that is loaded goes on running; its next load fetches it again.

    Parameters
    ----------
    model
        As `neuron models ls` names it.
    """
    held = look(config).library.forget(model)
    if json:
        as_json({"model_id": model, "freed_bytes": held.size_bytes})
        return
    print(f"{model}: {human_bytes(held.size_bytes)} came free")


def gc(*, config: ConfigFile = None, json: AsJson = False) -> None:
    """Remove what downloads left unfinished and nobody has gone on with for an hour."""
    freed = look(config).library.sweep(time.time() - ABANDONED_S)
    if json:
        as_json({"freed_bytes": freed})
        return
    print(f"{human_bytes(freed)} came free")
