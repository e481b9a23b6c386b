"""Folders: of the state, and private ones for sockets and KV caches; what killed daemons left behind is removed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from helexa.base.config import under_home
from helexa.base.errors import ConfigError

PREFIX = "helexa-neuron-"
_LOCK = "lock"
LONGEST_SOCKET = 107
"""Bytes that the kernel allows a socket's path."""


def state_folder(environ: Mapping[str, str], state_dir: str | None) -> Path:
    """Where small files that outlive a run are kept: `state_dir` of the configuration, else systemd's
    `$STATE_DIRECTORY`, else `$XDG_STATE_HOME/helexa`, else `~/.local/state/helexa`."""
    service = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    base = environ.get("XDG_STATE_HOME") or "~/.local/state"
    return under_home(state_dir or service or f"{base}/helexa")


@contextmanager
def socket_folder(environ: Mapping[str, str]) -> Generator[Path]:
    """A private folder with a short path. Raises ConfigError where there is none."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    base = Path(runtime if runtime and os.access(runtime, os.W_OK) else tempfile.gettempdir())
    with private_folder(base) as folder:
        if len(os.fsencode(folder / "1234567.sock")) > LONGEST_SOCKET:
            problem = "is too long for the path of a socket; set XDG_RUNTIME_DIR or TMPDIR to a shorter folder"
            raise ConfigError(path=base, problem=problem)
        yield folder


@contextmanager
def private_folder(base: Path) -> Generator[Path]:
    """A folder in `base` that only this user can enter, for as long as the block lasts. A lock in it says that its
    owner lives; process ids would not do, as containers share folders. The lock has its name only once it is held, or
    a daemon that starts at the same moment would take it for a dead one's and remove the folder."""
    _sweep(base)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    try:
        with (folder / "starting").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            Path(lock.name).rename(folder / _LOCK)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(base: Path) -> None:
    for folder in base.glob(PREFIX + "*"):
        with suppress(FileNotFoundError):  # its owner has just cleared it up
            if folder.lstat().st_uid == os.getuid() and _abandoned(folder / _LOCK):
                shutil.rmtree(folder, ignore_errors=True)


def _abandoned(lock: Path) -> bool:
    """Whether nobody holds the lock. One that is not there yet belongs to a daemon that is just starting."""
    try:
        with lock.open("rb+") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
