"""The fleet that tests run: none of its daemons outlives the process that started it, and its ports are its own."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import psutil

from helexa.testing.fleet import BLOCK, PORTS, free_port

LIMIT_S = 30.0
OWNER = """
import sys, time
from pathlib import Path
from helexa.testing.fleet import Daemon, free_port

port = free_port()
config = Path(sys.argv[1]) / "n1.toml"
config.write_text(f'port = {port}\\nlisten = "127.0.0.1"\\n[[harnesses]]\\nname = "echo"\\n')
daemon = Daemon("helexa.cli.neuron", config, f"http://127.0.0.1:{port}")
daemon.start()
while "listens on" not in daemon.log.read_text():
    time.sleep(0.02)
print(daemon.pid, flush=True)
sys.stdin.read()
"""


async def test_a_daemon_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    owner = await asyncio.create_subprocess_exec(sys.executable, "-c", OWNER, str(tmp_path), stdin=PIPE, stdout=PIPE)
    assert owner.stdout is not None
    async with asyncio.timeout(LIMIT_S):
        daemon = psutil.Process(int(await owner.stdout.readline()))
        family = [daemon, *daemon.children(recursive=True)]
        owner.kill()
        await owner.wait()
        _, alive = await asyncio.to_thread(psutil.wait_procs, family, timeout=LIMIT_S)
    assert alive == []


async def test_two_processes_never_get_the_same_port() -> None:
    ours = {free_port() for _ in range(BLOCK)}
    code = f"from helexa.testing.fleet import free_port; print(*[free_port() for _ in range({BLOCK})])"
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=PIPE)
    async with asyncio.timeout(LIMIT_S):
        told, _ = await other.communicate()
    theirs = {int(port) for port in told.split()}
    assert ours | theirs <= set(PORTS)
    assert not ours & theirs
