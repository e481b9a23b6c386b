"""pip as a subprocess: the user's index, proxy, certificates and cache are whatever pip is set up with."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

_COMMON = ("--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--ignore-requires-python")
_TAIL_LINES = 8
_STOP_WITHIN_S = 5.0
_LONGEST_LINE = 1 << 24
_NETWORK = (
    "connection broken",
    "connection error",
    "connectionerror",
    "timed out",
    "timeout",
    "max retries",
    "http error 5",
)
"""What pip says when the network was in the way, rather than the name or the package."""
_NOT_PASSED_ON = ("FORCE_COLOR", "TTY_COMPATIBLE", "PIP_VERBOSE", "PIP_QUIET")
"""What is read here is to be plain and no more than was asked for, however the user likes to read pip."""


class PipFailed(Exception):
    """pip did not do it; `cause` is what it said last, `transient` whether another try may help."""

    def __init__(self, cause: str, *, transient: bool = False) -> None:
        self.cause, self.transient = cause, transient
        super().__init__(cause)


class WheelRef(msgspec.Struct, frozen=True, kw_only=True):
    """A wheel that pip would fetch; `url` may lack credentials, `sha256` may be unknown."""

    name: str
    version: str
    url: str
    sha256: str | None = None


async def locate(requirement: str) -> WheelRef:
    """Which wheel `requirement` resolves to. Fetches the package's metadata at most. Raises PipFailed."""
    lines: list[str] = []
    await _run("install", "--dry-run", "--ignore-installed", "--quiet", "--report=-", requirement, hear=lines.append)
    try:
        report: dict[str, Any] = msgspec.json.decode("\n".join(lines))
        item = report["install"][0]
        hashes = item["download_info"].get("archive_info", {}).get("hashes", {})
        return WheelRef(
            name=item["metadata"]["name"],
            version=item["metadata"]["version"],
            url=item["download_info"]["url"],
            sha256=hashes.get("sha256"),
        )
    except (msgspec.DecodeError, LookupError, TypeError, AttributeError) as error:
        raise PipFailed(f"pip's report cannot be read: {error}") from error


async def download(requirement: str, into: Path, tell: Callable[[int, int], None]) -> Path:
    """Fetch one wheel, without what it depends on, into `into`. `tell` hears (bytes done, bytes in all).

    A wheel that lies there whole is not fetched again. Raises PipFailed.
    """

    def hear(line: str) -> None:
        match line.split():
            case ["Progress", done, "of", total] if done.isdigit() and total.isdigit():
                tell(int(done), int(total))
            case _:
                pass

    await _run("download", f"--progress-bar={_progress_bar()}", f"--dest={into}", requirement, hear=hear)
    return await asyncio.to_thread(_newest_wheel, into)


def _progress_bar() -> str:
    """How pip tells of its progress in figures; one before 24.1, as Python 3.11 and 3.12 bring along, cannot."""
    version = importlib.metadata.version("pip").split(".")
    return "raw" if tuple(int(part) for part in version[:2] if part.isdigit()) >= (24, 1) else "off"


def _newest_wheel(folder: Path) -> Path:
    wheels = sorted(folder.glob("*.whl"), key=lambda path: path.stat().st_mtime)
    if not wheels:
        raise PipFailed("pip downloaded no wheel")
    return wheels[-1]


async def _run(command: str, *arguments: str, hear: Callable[[str], None]) -> None:
    """Run pip; `hear` gets each line that it writes to stdout. Raises PipFailed unless pip succeeds."""
    if importlib.util.find_spec("pip") is None:
        raise PipFailed("pip is not installed beside helexa; install it with: python -m ensurepip")
    environ = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}
    with tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pip", command, *_COMMON, *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=errors, limit=_LONGEST_LINE,
            env=environ,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                hear(line.decode(errors="replace").strip())
            code = await process.wait()
        finally:
            await _stop(process)
        if code != 0:
            errors.seek(0)
            raise _failure(errors.read().decode(errors="replace"), code)


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End pip when its reader left early, and wait until it has gone."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_WITHIN_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _failure(said: str, code: int) -> PipFailed:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")]
    cause = "; ".join((errors or lines)[-_TAIL_LINES:]) or f"pip ended with exit status {code}"
    return PipFailed(cause, transient=any(word in said.lower() for word in _NETWORK))
