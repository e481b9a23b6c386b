"""`neuron serve` as a process: it comes up, ends when told to, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import psutil
import pytest

from helexa.base import lifeline
from helexa.http1.client import Origin
from helexa.testing.fleet import free_port
from helexa.testing.hub import MockHub
from tests.neuron.helpers import PATIENCE_S, names, until

CONFIG = """
listen = "127.0.0.1"
[[harnesses]]
name = "echo"
[[devices]]
kind = "cpu"
memory_mb = 500
[[default_models]]
model_id = "m"
harness = "echo"
options = { tokens_per_s = 20.0 }
"""


class Daemon:
    """A running `neuron serve` and a client of it."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.origin = Origin(host="127.0.0.1", port=port)
        self.family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]

    async def loaded(self) -> None:
        async with await self.origin.request(b"GET", b"/events") as answer:
            heard = b""
            async for piece in answer.chunks():
                heard += piece
                if b'"status":"loaded"' in heard:
                    return

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    path = tmp_path / "neuron.toml"
    path.write_text(CONFIG)
    path.chmod(0o600)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "helexa.cli.neuron", "serve", "--config", str(path), "--port", str(free_port())),
        stdout=PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | {"TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": ""},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            line = (await process.stdout.readline()).decode()
            daemon = Daemon(process, int(line.rsplit(":", 1)[1]))
            await daemon.loaded()
        yield daemon
        await daemon.origin.aclose()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _gone(processes: list[psutil.Process]) -> list[psutil.Process]:
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, timeout=PATIENCE_S)
    return alive


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_with_status_0_and_no_process_or_file_left(
    daemon: Daemon, number: int, tmp_path: Path
) -> None:
    workers = daemon.workers()
    assert len(workers) == 1
    daemon.process.send_signal(number)
    assert await asyncio.wait_for(daemon.process.wait(), PATIENCE_S) == 0
    assert await _gone(workers) == []
    assert names(tmp_path) == ["neuron.toml"]


async def test_killing_the_daemon_takes_its_workers_along(daemon: Daemon) -> None:
    workers = daemon.workers()
    daemon.process.kill()
    await daemon.process.wait()
    assert await _gone(workers) == []


async def test_an_answer_under_way_is_finished_before_the_end(daemon: Daemon) -> None:
    body = msgspec.json.encode(
        {"model": "m", "stream": True, "messages": [{"role": "user", "content": "one two three four five six"}]}
    )
    async with await daemon.origin.request(b"POST", b"/v1/chat/completions", (), body) as answer:
        daemon.process.terminate()
        text = await answer.read(1 << 20)
    assert text.endswith(b"data: [DONE]\n\n")
    assert await asyncio.wait_for(daemon.process.wait(), PATIENCE_S) == 0


async def test_a_port_that_is_taken_is_said_plainly(daemon: Daemon, tmp_path: Path) -> None:
    port = daemon.origin._port  # pyright: ignore[reportPrivateUsage]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "helexa.cli.neuron", "serve", "-c", str(tmp_path / "neuron.toml"), "-p", str(port)),
        stdout=PIPE,
        stderr=PIPE,
    )
    _, errors = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 1
    assert b"cannot listen" in errors


async def test_a_wrong_key_is_named_with_the_nearest_right_one(tmp_path: Path) -> None:
    path = tmp_path / "neuron.toml"
    path.write_text("prot = 1\n")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "helexa.cli.neuron", "serve", "-c", str(path)), stdout=PIPE, stderr=PIPE
    )
    _, errors = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 1
    assert b"did you mean `port`" in errors


async def test_a_hub_that_does_not_answer_holds_up_no_end(tmp_path: Path) -> None:
    path = tmp_path / "neuron.toml"
    with MockHub() as hub:
        held = hub.hold(path="/api/models/*")
        path.write_text(
            f'port = {free_port()}\n[[harnesses]]\nname = "llama"\n[[devices]]\nkind = "cpu"\nmemory_mb = 500\n'
            f'[sources.lab]\nendpoint = "{hub.url}"\n[[default_models]]\nmodel_id = "lab:org/m"\n'
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "helexa.cli.neuron", "serve", "-c", str(path)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=os.environ | {"TMPDIR": str(tmp_path), "XDG_STATE_HOME": str(tmp_path), "HELEXA_CACHE": str(tmp_path)},
        )
        try:
            await until(lambda: bool(hub.seen))
            process.terminate()
            assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
        finally:
            held.set()
            with contextlib.suppress(ProcessLookupError):
                process.kill()


STUCK = """
import asyncio, importlib, sys
from pathlib import Path
from helexa.neuron.config import load
from helexa.neuron.keeper import Keeper

run = importlib.import_module("helexa.neuron.app.run")

async def hang(self, within_s):
    await asyncio.Event().wait()

run.HARD_END_S = float(sys.argv[2])
Keeper.close = hang
sys.exit(run.main(load(Path(sys.argv[1]), {}), ready=lambda url: print(url, flush=True)))
"""


@pytest.mark.parametrize("how", ["signal", "second signal", "lifeline"])
async def test_a_drain_that_hangs_ends_hard_and_takes_the_workers_along(tmp_path: Path, how: str) -> None:
    """Every restart ended in a supervisor's SIGKILL once, and the code that was to prevent it had never been run."""
    path = tmp_path / "neuron.toml"
    path.write_text(f'port = {free_port()}\nlisten = "127.0.0.1"\n[[harnesses]]\nname = "echo"\n')
    read, write = os.pipe()
    hard_end_s = 60.0 if how == "second signal" else 0.5  # whoever signals twice is not to wait for it
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STUCK, str(path), str(hard_end_s)),
        stdout=PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        pass_fds=(read,),
        env=os.environ | {"TMPDIR": str(tmp_path), lifeline.VARIABLE: str(read)},
    )
    os.close(read)
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        await process.stdout.readline()
        workers = psutil.Process(process.pid).children(recursive=True)
        if how == "lifeline":
            os.close(write)
        else:
            process.terminate()
        if how == "second signal":
            await asyncio.to_thread(_terminate_until_gone, process.pid)
        status = await process.wait()
    assert status == (128 + signal.SIGTERM if how == "second signal" else 70)
    assert await _gone(workers) == []
    if how != "lifeline":
        os.close(write)


def _terminate_until_gone(pid: int) -> None:
    """Signals that arrive together are one: send them until one was the second."""
    with contextlib.suppress(psutil.NoSuchProcess):  # it may be gone between any two looks
        process = psutil.Process(pid)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            process.terminate()
