"""Where engines keep the KV cache of idle conversations while their model is unloaded: a folder a model, a byte budget.

The folders are this daemon's own and go with it: what people said is not kept longer than the process that heard it.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from pathlib import Path

import msgspec

from helexa.base.units import MIB
from helexa.neuron.core.plan import LoadPlan


class Shelf:
    """`budget_mb` bounds all folders together; over it, those go first that were written the longest time ago."""

    def __init__(self, root: Path, budget_mb: int) -> None:
        self._root, self._budget_bytes = root, budget_mb * MIB
        root.mkdir(mode=0o700, exist_ok=True)

    def place(self, plan: LoadPlan, files: tuple[str, ...]) -> tuple[str, int]:
        """The folder of a plan, the same one whenever that plan is executed, and how many tokens it may take."""
        key = [plan.harness, files, plan.context, plan.slots, sorted(plan.options.items())]
        folder = self._root / hashlib.sha256(msgspec.json.encode(key)).hexdigest()[:24]
        tokens = plan.context * plan.slots
        bytes_per_token = sum(share.kv_mb for share in plan.shares) * MIB / max(1, tokens)
        if not bytes_per_token:
            return "", 0
        folder.mkdir(mode=0o700, exist_ok=True)
        room = min(self._budget_bytes, shutil.disk_usage(self._root).free // 2)
        return str(folder), int(room / bytes_per_token)

    def prune(self) -> None:
        """Hold the budget. A worker may be writing or clearing up meanwhile: what is gone by now takes no room."""
        total = 0
        with contextlib.suppress(FileNotFoundError):
            for folder in sorted(self._root.iterdir(), key=_written, reverse=True):
                total += sum(file.stat().st_size for file in folder.iterdir())
                if total > self._budget_bytes:
                    _empty(folder)

    def clear(self) -> None:
        """Keep nothing from here on: an engine writes only to a folder that is there."""
        for folder in self._root.iterdir():
            shutil.rmtree(folder, ignore_errors=True)


def _written(folder: Path) -> float:
    return max((file.stat().st_mtime for file in folder.iterdir()), default=0.0)


def _empty(folder: Path) -> None:
    """Its model may still be loaded, and may want to write to it: the folder itself stays."""
    for file in folder.iterdir():
        file.unlink(missing_ok=True)
