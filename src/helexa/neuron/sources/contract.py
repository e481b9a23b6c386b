"""What every source promises to the library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from helexa.base.errors import Refused
from helexa.base.ids import SourceId
from helexa.neuron.core.listing import Listing
from helexa.neuron.core.plan import RemoteFile, Warmth
from helexa.neuron.core.preflight import refusal
from helexa.neuron.harness import Report


class HeadUnavailable(Exception):
    """The first bytes of a file cannot be had without fetching all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A model on this disk. `name` is what follows the scheme in its id; `used_s` is when it was last read (seconds
    since 1970), as far as the file system keeps that."""

    name: str
    folder: Path
    size_bytes: int
    files: int
    used_s: float


class Source(Protocol):
    """One scheme. Every method may raise Refused (`repo_fetch_failed` with its cause; `transient` says whether another
    try may help). None of them blocks the event loop."""

    @property
    def home(self) -> Path:
        """The folder on whose disk this source's downloads land."""
        ...

    async def listing(self, source: SourceId, model_id: str) -> Listing:
        """One look at what there is. Fetches nothing where the source can be looked at without."""
        ...

    async def warmth(self, source: SourceId, files: Sequence[RemoteFile]) -> Warmth:
        """Where `files` are: in the page cache, on disk, or (one of them) still to be fetched."""
        ...

    async def head(self, source: SourceId, file: RemoteFile, length: int) -> bytes:
        """The first `length` bytes of `file`, fewer when it is shorter. Raises HeadUnavailable."""
        ...

    async def fetch(
        self, source: SourceId, files: Sequence[RemoteFile], model_id: str, report: Report
    ) -> tuple[Path, ...]:
        """Absolute paths of `files` in order, on disk and verified; what is there already is not fetched again."""
        ...


@runtime_checkable
class Cache(Protocol):
    """A source that keeps what it fetched. For the command line: these block."""

    def held(self) -> tuple[Held, ...]:
        """What this source's cache holds whole."""
        ...

    def forget(self, held: Held) -> None:
        """Take one out of the cache."""
        ...

    def sweep(self, before_s: float) -> int:
        """Remove what downloads left unfinished and nobody has written to since `before_s` (seconds since 1970);
        returns the bytes that came free."""
        ...


def fetch_failed(model_id: str, cause: str, *, transient: bool, suggestion: str = "") -> Refused:
    """The refusal of a source that could not be read."""
    facts = {"suggestion": suggestion} if suggestion else {}
    detail = f"{suggestion} ({cause})" if suggestion else cause
    return refusal("repo_fetch_failed", model_id, detail, cause=cause, transient=transient, **facts)
