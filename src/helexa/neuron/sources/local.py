"""`file:`: a GGUF file or a folder of weights on this host, used where it lies."""

from __future__ import annotations

import asyncio
import errno
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from helexa.base.ids import SourceId
from helexa.neuron.core.listing import Listing
from helexa.neuron.core.plan import RemoteFile, Warmth
from helexa.neuron.harness import Report
from helexa.neuron.sources.contract import Source, fetch_failed
from helexa.neuron.sources.disk import warmth_of

_SHARD = re.compile(r"-\d{5}-of-(?P<count>\d{5})\.gguf$", re.I)
_DEEPEST = 2
_MOST_FILES = 10_000


class LocalFiles:
    """The `file:` scheme. Names in a listing are relative to the folder that was named, or that holds the file."""

    @property
    def home(self) -> Path:
        return Path("/")

    async def listing(self, source: SourceId, model_id: str) -> Listing:
        return await asyncio.to_thread(_look, source, model_id)

    async def warmth(self, source: SourceId, files: Sequence[RemoteFile]) -> Warmth:
        folder = _folder(Path(source.name))
        return await asyncio.to_thread(warmth_of, [folder / file.name for file in files])

    async def head(self, source: SourceId, file: RemoteFile, length: int) -> bytes:
        return await asyncio.to_thread(first_bytes, _folder(Path(source.name)) / file.name, length)

    async def fetch(
        self, source: SourceId, files: Sequence[RemoteFile], model_id: str, report: Report
    ) -> tuple[Path, ...]:
        folder = _folder(Path(source.name))
        paths = tuple(folder / file.name for file in files)
        for path in paths:
            if not path.is_file():
                raise fetch_failed(model_id, f"{path} is gone", transient=False)
        return paths


def first_bytes(path: Path, length: int) -> bytes:
    """The first `length` bytes of a file, or all of a shorter one."""
    with path.open("rb") as file:
        return file.read(length)


def _look(source: SourceId, model_id: str) -> Listing:
    path = Path(source.name)
    if not path.is_absolute():
        raise fetch_failed(model_id, f"`{source}`: the path must be absolute", transient=False)
    try:
        found = _held(path)
        files = tuple(RemoteFile(name=str(each.relative_to(_folder(path))), size_bytes=_size(each)) for each in found)
    except OSError as error:
        raise fetch_failed(model_id, f"{path}: {error.strerror}", transient=False) from error
    return Listing(source=source, files=files)


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _size(path: Path) -> int:
    return path.stat().st_size


def _held(path: Path) -> list[Path]:
    """The files that count: the named one with its fellow shards, or what a folder holds, not too deep."""
    if path.is_dir():
        return sorted(_walk(path, _DEEPEST))[:_MOST_FILES]
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be read for ever
        raise OSError(errno.EINVAL, "neither a file nor a folder")
    shard = _SHARD.search(path.name)
    if not shard:
        return [path]
    prefix = path.name[: shard.start()]
    pattern = re.compile(re.escape(prefix) + rf"-\d{{5}}-of-{shard['count']}\.gguf", re.I)
    return sorted(each for each in path.parent.iterdir() if pattern.fullmatch(each.name) and each.is_file())


def _walk(folder: Path, deep: int) -> list[Path]:
    found: list[Path] = []
    for each in folder.iterdir():
        if each.is_file():
            found.append(each)
        elif each.is_dir() and deep > 1 and not each.name.startswith("."):
            found.extend(_walk(each, deep - 1))
    return found


_: type[Source] = LocalFiles
