"""What loads were measured to take, in memory and in a small file that survives a restart."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec

from helexa.neuron.core.measured import Circumstances, Measurement, Measurements

log = logging.getLogger(__name__)


class Notebook:
    """The measurements of this host; `path` None keeps them for this run only."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._table = _read(path) if path else Measurements()
        self._lock = threading.Lock()

    def measurements(self) -> Measurements:
        """All that are kept."""
        return self._table

    def note(
        self, of: Circumstances, predicted_mb: int, measured_mb: int, load_s: Mapping[str, float] | None = None
    ) -> None:
        """Keep one more. Blocking: it waits for the disk; one that does not take it is told of in the log."""
        with self._lock:
            self._table = self._table.noted(of, predicted_mb, measured_mb, load_s)
            try:
                if self._path:
                    _write(self._path, self._table)
            except OSError as error:
                log.warning("what was measured is lost with this run: %s: %s", self._path, error.strerror)


def _read(path: Path) -> Measurements:
    try:
        return Measurements.of(msgspec.json.decode(path.read_bytes(), type=list[Measurement]))
    except FileNotFoundError:
        return Measurements()
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        log.warning("%s cannot be read, so memory is predicted without it: %s", path, error)
        return Measurements()


def _write(path: Path, table: Measurements) -> None:
    """Beside it and renamed, so that a reader finds the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(list(table.kept.values())), indent=1))
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
