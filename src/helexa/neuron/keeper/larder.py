"""Weights of models that were unloaded, locked in the host's memory: whatever else the host reads, they are not pushed
out of the page cache, and the next load of the model maps or copies them from there."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from helexa.base.resident import MappedFile
from helexa.base.units import MIB

log = logging.getLogger(__name__)


class Larder:
    """`budget_mb` bounds all files together (0: none are kept); over it, those go first that were put in the longest
    time ago. Methods block, and may be called from any thread."""

    def __init__(self, budget_mb: int = 0) -> None:
        self._budget_bytes = budget_mb * MIB
        self._held: dict[str, tuple[MappedFile, int]] = {}
        self._guard = threading.Lock()

    @property
    def held_mb(self) -> int:
        """What is locked now, in MiB."""
        return sum(size for _, size in tuple(self._held.values())) // MIB

    def keep(self, files: Sequence[str]) -> None:
        """Lock the files of a model, all of them or none; what is not in memory is read."""
        if not self._budget_bytes:
            return
        with self._guard:
            try:
                sizes = {file: Path(file).stat().st_size for file in files if file not in self._held}
                self._make_room(sum(sizes.values()), spare=files)
                for file, size in sizes.items():
                    self._held[file] = _locked(file, size), size
            except (OSError, ValueError) as error:
                log.warning("%s is not locked in memory: %s", files[0], error)
                self._drop(files)

    def release(self, files: Sequence[str]) -> None:
        """Let go of files: their model is loaded, or gone for good."""
        with self._guard:
            self._drop(files)

    def close(self) -> None:
        """Let go of everything."""
        self.release(tuple(self._held))

    def _make_room(self, needed_bytes: int, spare: Sequence[str]) -> None:
        total = needed_bytes + sum(size for _, size in self._held.values())
        for file in [each for each in self._held if each not in spare]:
            if total > self._budget_bytes:
                total -= self._held[file][1]
                self._drop((file,))
        if total > self._budget_bytes:
            raise ValueError(f"it is larger than warm.locked_mb = {self._budget_bytes // MIB}")

    def _drop(self, files: Sequence[str]) -> None:
        for file in files:
            mapped, _ = self._held.pop(file, (None, 0))
            if mapped is not None:
                mapped.close()


def _locked(file: str, size: int) -> MappedFile:
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        mapped = MappedFile(descriptor, 0, size)
    finally:
        os.close(descriptor)
    try:
        mapped.lock()
    except OSError:
        mapped.close()
        raise
    return mapped
