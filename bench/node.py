"""What a node costs, and whether it stays that way: the bars of a neuron's life, measured in one run.

    make bench-node              all parts;  --part idle|health|cold|cycles  for one;  --quick  for a short look

* idle: memory and processor time of a neuron without models, daemon and workers together
* health: how fast `/health` is answered while every slot of a device decodes on every core
* cold: a load to its first token through the neuron, beside llama.cpp alone in a fresh process, in turn; ratios
* cycles: loads and unloads; memory, descriptors and threads of daemon and worker, the first cycles beside the last
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
from stream import default_file

from helexa.http1.client import Origin
from helexa.neuron.discovery import cpu
from helexa.testing.fleet import Daemon, eventually, free_port

IDLE_RSS_MB, IDLE_CPU_PERCENT = 120.0, 0.5
HEALTH_P99_MS = 5.0
COLD_RATIO = 1.15
CYCLES_DRIFT = 0.02
WARM_UP = 40
"""Cycles until the allocators have their size, and idle connections are closed."""
CONTEXT, SLOTS = 2048, 2
SPEC = {"model_id": "m", "context": CONTEXT, "options": {"slots": SLOTS, "threads": 1}}
"""One thread on both sides of a comparison: several spin when the machine has other work, and measure that."""
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Say hello."}], "stream": True, "temperature": 0}


class Node:
    """A running `neuron serve` and a client of it."""

    def __init__(self, daemon: Daemon, origin: Origin) -> None:
        self.daemon, self._origin = daemon, origin

    async def get(self, path: str) -> Any:
        async with await self._origin.request(b"GET", path.encode()) as answer:
            return json.loads(await answer.read(1 << 22))

    async def post(self, path: str, body: object) -> bytes:
        async with await self._origin.request(b"POST", path.encode(), (), json.dumps(body).encode()) as answer:
            said = await answer.read(1 << 22)
            assert answer.status == 200, said
            return said

    async def first_token(self) -> None:
        """Ask for an answer and leave once its first token is there."""
        body = json.dumps(CHAT | {"max_tokens": 4}).encode()
        heard = b""
        async with await self._origin.request(b"POST", b"/v1/chat/completions", (), body) as answer:
            async for piece in answer.chunks():
                heard += piece
                if spoken(heard):
                    return
        raise AssertionError(heard)

    def family(self) -> list[psutil.Process]:
        """Daemon and workers."""
        daemon = psutil.Process(self.daemon.pid)
        return [daemon, *daemon.children(recursive=True)]

    async def settled(self) -> None:
        """Every worker is ready."""

        async def ready() -> bool:
            devices = (await self.get("/health"))["devices"]
            return all(device["worker_state"] == "ready" for device in devices)

        await eventually(ready, "ready workers", limit_s=60.0)


def spoken(heard: bytes) -> bool:
    """Whether a chat stream has said a word yet: its first frame only names the role."""
    frames = [frame for frame in heard.split(b"\n\n")[:-1] if frame.startswith(b"data: {")]
    deltas = [json.loads(frame[6:])["choices"][0]["delta"] for frame in frames]
    return any(delta.get("content") for delta in deltas)


@asynccontextmanager
async def node(folder: Path, text: str = "") -> AsyncGenerator[Node]:
    """A neuron of its own, ended with the block."""
    port = free_port()
    config = folder / f"n{port}.toml"
    config.write_text(f'port = {port}\nlisten = "127.0.0.1"\nstate_dir = "{folder}"\n{text}')
    daemon = Daemon("helexa.cli.neuron", config, f"http://127.0.0.1:{port}")
    daemon.start()
    origin = Origin(host="127.0.0.1", port=port)
    try:
        await eventually(lambda: listens(daemon), "a neuron", limit_s=60.0)
        found = Node(daemon, origin)
        await found.settled()
        yield found
    finally:
        await origin.aclose()
        await daemon.stop()


async def listens(daemon: Daemon) -> bool:
    return "listens on" in daemon.log.read_text()


# Parts ----------------------------------------------------------------------------------------------------------------


async def idle(folder: Path, quick: bool) -> list[bool]:
    """A neuron with nothing to do, some seconds after its start."""
    watched_s = 10.0 if quick else 60.0
    async with node(folder) as one:
        await asyncio.sleep(5.0)
        before = cpu_s(one.family())
        await asyncio.sleep(watched_s)
        percent = 100 * (cpu_s(one.family()) - before) / watched_s
        daemon, *workers = [process.memory_info().rss / 2**20 for process in one.family()]
    total = daemon + sum(workers)
    text = f"idle memory: {total:.0f} MiB ({daemon:.0f} the daemon, {sum(workers):.0f} its {len(workers)} workers)"
    return [
        verdict(total <= IDLE_RSS_MB, text, f"{IDLE_RSS_MB:.0f} MB"),
        verdict(percent <= IDLE_CPU_PERCENT, f"idle processor: {percent:.2f} % of a core", f"{IDLE_CPU_PERCENT} %"),
    ]


def cpu_s(family: list[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in family))


async def health(folder: Path, quick: bool, path: str) -> list[bool]:
    """`/health` while every slot decodes on every core. The client has a connection of its own: it waits for nobody."""
    async with node(folder) as one:
        every_core = {"slots": SLOTS, "threads": cpu.processors()}
        await one.post("/models/load", SPEC | {"source": f"file:{path}", "options": every_core})
        body = CHAT | {"max_tokens": 1500, "ignore_eos": True, "stream": False}
        asks = [asyncio.create_task(one.post("/v1/chat/completions", body)) for _ in range(SLOTS)]
        await eventually(lambda: busy(one), "a device that decodes", limit_s=30.0)
        took = [await timed(lambda: one.get("/health")) for _ in range(300 if quick else 2000)]
        still = await busy(one)
        for ask in asks:
            ask.cancel()
        await asyncio.gather(*asks, return_exceptions=True)
    p50, p99 = (1000 * sorted(took)[int(len(took) * share)] for share in (0.5, 0.99))
    text = f"/health beside {SLOTS} streams: p50 {p50:.2f} ms, p99 {p99:.2f} ms" + ("" if still else " (they ended)")
    return [verdict(p99 <= HEALTH_P99_MS, text, f"{HEALTH_P99_MS:.0f} ms")]


async def busy(one: Node) -> bool:
    models = (await one.get("/health"))["models"]
    return any(model["in_flight"] == SLOTS for model in models)


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


async def cold(folder: Path, quick: bool, path: str) -> list[bool]:
    """In turn, each time in fresh processes with the weights in the page cache."""
    await asyncio.to_thread(Path(path).read_bytes)
    rounds = [await cold_round(folder, path) for _ in range(3 if quick else 9)]
    ratio = statistics.median(ours / alone for ours, alone in rounds)
    ours, alone = (1000 * statistics.median(column) for column in zip(*rounds, strict=True))
    text = f"load to first token: {ours:.0f} ms through the neuron, {alone:.0f} ms llama.cpp alone, ratio {ratio:.3f}"
    return [verdict(ratio <= COLD_RATIO, text, str(COLD_RATIO))]


async def cold_round(folder: Path, path: str) -> tuple[float, float]:
    command = [sys.executable, __file__, "--alone", path]
    said = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True)
    async with node(folder) as one:

        async def load_and_ask() -> None:
            await one.post("/models/load", SPEC | {"source": f"file:{path}"})
            await one.first_token()

        await asyncio.sleep(1.0)  # workers have imported their engines by then
        return await timed(load_and_ask), float(said.stdout)


def alone(path: str) -> None:
    """llama.cpp by itself: prints the seconds from the load's begin to the first token."""
    from helexa.neuron.engines.llama.binding import xl
    from helexa.neuron.engines.llama.engine import make_params
    from helexa.neuron.harness import DeviceRef, LoadOrder

    with tempfile.TemporaryDirectory() as folder:
        device = DeviceRef(kind="cpu", index=0, memory_mb=4096, threads=1)
        order = LoadOrder(
            model_id="m", files=(path,), devices=(device,), socket=f"{folder}/s.sock", context=CONTEXT, slots=SLOTS
        )
        firsts: list[float] = []

        def hear(chunk: dict[str, Any]) -> bool:
            if any(choice["delta"].get("content") for choice in chunk["choices"]):
                firsts.append(time.perf_counter())
            return bool(firsts)

        began = time.perf_counter()
        server = xl.Server(make_params(order))
        server.handle_chat_completions(CHAT | {"max_tokens": 4}, hear)
        print(firsts[0] - began)
        del server


async def cycles(folder: Path, quick: bool, path: str) -> list[bool]:
    """Loads and unloads: of the echo engine, and of the real one, which also answers each time."""
    echo = {"model_id": "e", "harness": "echo"}
    real = SPEC | {"source": f"file:{path}"}
    return [
        *await endured(folder, "echo", echo, real, 100 if quick else 1000, ask=False),
        *await endured(folder, "llama", real, real, 20 if quick else 1000, ask=True),
    ]


async def endured(
    folder: Path, name: str, spec: dict[str, object], real: dict[str, object], count: int, *, ask: bool
) -> list[bool]:
    """The first tenth of the cycles after a warm-up beside the last: an allocator's ups and downs are in both."""
    window = max(5, count // 10)
    async with node(folder) as one:
        # the daemon's threads come as they are needed; from here on all of them are there
        await asyncio.gather(*(one.post("/models/preflight", real) for _ in range(32)))
        seen: list[list[dict[str, int]]] = []
        for _ in range(WARM_UP + count):
            await one.post("/models/load", spec)
            if ask:
                await one.first_token()
            await one.post("/models/unload", {"model_id": spec["model_id"], "drain_s": 10})
            seen.append([footprint(process) for process in one.family()])
    found: list[bool] = []
    for at, role in enumerate(("daemon", *["worker"] * (len(seen[0]) - 1))):
        old, new = typical(seen[WARM_UP : WARM_UP + window], at), typical(seen[-window:], at)
        held = all(new[what] - old[what] <= CYCLES_DRIFT * old[what] for what in old)
        told = ", ".join(f"{what} {old[what]} -> {new[what]}" for what in old)
        found.append(verdict(held, f"{count} cycles of {name}, {role}: {told}", f"+{CYCLES_DRIFT:.0%}"))
    return found


def typical(seen: list[list[dict[str, int]]], at: int) -> dict[str, int]:
    """The medians of one process over some cycles."""
    return {what: int(statistics.median(look[at][what] for look in seen)) for what in seen[0][at]}


def footprint(process: psutil.Process) -> dict[str, int]:
    return {
        "RSS KiB": process.memory_info().rss >> 10,
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
    }


def verdict(held: bool, text: str, bar: str) -> bool:
    print(f"{'PASS' if held else 'FAIL'}  {text} (bar {bar})", flush=True)
    return held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a GGUF file; the embedded default when not given")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--part", choices=("idle", "health", "cold", "cycles"))
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        alone(given.alone)
        return
    path = given.model or default_file()
    parts: dict[str, Callable[[Path], Awaitable[list[bool]]]] = {
        "idle": lambda folder: idle(folder, given.quick),
        "health": lambda folder: health(folder, given.quick, path),
        "cold": lambda folder: cold(folder, given.quick, path),
        "cycles": lambda folder: cycles(folder, given.quick, path),
    }
    held: list[bool] = []
    for name, part in parts.items():
        if given.part in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                held += asyncio.run(part(Path(folder)))  # type: ignore[arg-type]
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
