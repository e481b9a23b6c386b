"""What a model that is not loaded costs the one who asks: cold, in another's place, and twenty clients at once.

    make bench-swap              rounds of the bare engine and of the chain in turn; medians and their ratios

The raw time is the engine's own: a process that has llama.cpp imported opens the file, answers four tokens and lets it
go. The chain is a gateway and a neuron asked over HTTP, with two catalogue names for the same file and memory for one.
The engine has one thread on both sides: more of them spin when the machine has other work, and measure that.
Bars, in multiples of the raw time: cold 1.5, swap 1.3, twenty clients that alternate between the two names 2.9. The
last also holds the twenty answers, so beside it stands what the bare engine takes for the same by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
from stream import default_file

from helexa.testing.fleet import Fleet, eventually

TOKENS, CONTEXT, SLOTS, CLIENTS = 4, 512, 4, 20
BARS = {"cold": 1.5, "swap": 1.3, "twenty clients": 2.9}
RESIDENT_MB = 250
"""Room for one of them and never for two, also once the neuron has measured how little one takes."""


def body(model: str) -> dict[str, object]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": "Tell a story about a lighthouse."}],
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "seed": 1,
    }


# -- the bare engine --


def bare(path: str) -> None:
    """The baseline's process: answers each line `1 10 10` on stdin with the seconds that took: the engine started,
    asked by so many at once and let go, for each of the numbers in turn."""
    from helexa.neuron.engines.llama.binding import xl
    from helexa.neuron.engines.llama.engine import make_params
    from helexa.neuron.harness import DeviceRef, LoadOrder

    device = DeviceRef(kind="cpu", index=0, memory_mb=4096, threads=1)

    def turn(clients: int, socket: str) -> float:
        """Seconds to the last answer."""
        order = LoadOrder(model_id="m", files=(path,), devices=(device,), socket=socket, context=CONTEXT, slots=SLOTS)
        server = xl.Server(make_params(order))
        with ThreadPoolExecutor(clients) as pool:
            for answer in pool.map(chat, [server] * clients):
                assert answer["usage"]["completion_tokens"] == TOKENS, answer
        answered = time.monotonic()
        del server
        gc.collect()
        return answered

    print("ready", flush=True)
    for line in sys.stdin:
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            ends = [turn(int(clients), f"{folder}/{number}.sock") for number, clients in enumerate(line.split())]
        print(ends[-1] - began, flush=True)


def chat(server: Any) -> Any:
    answers: list[Any] = []
    server.handle_chat_completions(body("m"), answers.append)
    return json.loads(answers[-1]) if isinstance(answers[-1], str) else answers[-1]


class Bare:
    """The baseline's process as the bench holds it."""

    def __init__(self, path: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--bare", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    async def take(self, *clients: int) -> float:
        print(*clients, file=self._process.stdin, flush=True)
        return float(await asyncio.to_thread(self._line))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


# -- the chain --


async def asked(fleet: Fleet, model: str) -> httpx2.Response:
    answer = await fleet.http.post("/v1/chat/completions", json=body(model))
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == TOKENS, answer.text
    return answer


async def timed(work: Awaitable[object]) -> float:
    began = time.monotonic()
    await work
    return time.monotonic() - began


async def emptied(fleet: Fleet) -> None:
    """Nothing is loaded any more."""
    for model in "ab":
        await fleet.http.post("/cortex/v1/unload", json={"model": model})

    async def gone() -> bool:
        return not (await fleet.node("local"))["models"]

    await eventually(gone, "nothing loaded")


async def cold(fleet: Fleet) -> float:
    await emptied(fleet)
    return await timed(asked(fleet, "a"))


async def swap(fleet: Fleet) -> float:
    """The other's weights are in memory and idle."""
    there = [place["model"] for place in (await fleet.node("local"))["models"]]
    return await timed(asked(fleet, "b" if there == ["a"] else "a"))


async def crowd(fleet: Fleet) -> float:
    await emptied(fleet)
    return await timed(asyncio.gather(*(asked(fleet, "ab"[number % 2]) for number in range(CLIENTS))))


def loads(fleet: Fleet) -> int:
    """Loads so far: each has its line in the gateway's log."""
    return fleet.cortex.log.read_text().count(" load ")


async def compare(path: str, folder: Path, rounds: int) -> bool:
    models = "".join(f'[[models]]\nid = "{name}"\nsource = "file:{path}"\ncontext = {CONTEXT}\n' for name in "ab")
    device = f'[[devices]]\nkind = "cpu"\nindex = 0\nmemory_mb = {RESIDENT_MB}\nthreads = 1\n'
    engine = Bare(path)
    cases: dict[str, tuple[Callable[[Fleet], Awaitable[float]], tuple[int, ...]]] = {
        "cold": (cold, (1,)),
        "swap": (swap, (1,)),
        "twenty clients": (crowd, (CLIENTS // 2, CLIENTS // 2)),
    }
    good = True
    try:
        async with Fleet(folder, neurons={"local": device}, models=models) as fleet:
            await engine.take(1), await cold(fleet), await swap(fleet)  # a warm-up of both
            print(f"{'medians':16} {'raw ms':>8} {'chain ms':>9} {'of raw':>7} {'bar':>5} {'bare':>6}  loads")
            for name, (take, by_hand) in cases.items():
                before = loads(fleet)
                takes = [(await engine.take(1), await take(fleet), await engine.take(*by_hand)) for _ in range(rounds)]
                good &= report(name, takes, (loads(fleet) - before) / rounds)
    finally:
        engine.close()
    print("bare: the same loads and requests on the bare engine, one after the other, in multiples of raw")
    return good


def report(name: str, takes: list[tuple[float, float, float]], loaded: float) -> bool:
    ratio = statistics.median(chain / raw for raw, chain, _ in takes)
    bare = statistics.median(by_hand / raw for raw, _, by_hand in takes)
    raw, chain, _ = (statistics.median(column) * 1000 for column in zip(*takes, strict=True))
    verdict = "PASS" if ratio <= BARS[name] else "FAIL"
    print(
        f"{name:16} {raw:>8.0f} {chain:>9.0f} {ratio:>7.2f} {BARS[name]:>5} {bare:>6.2f}  {loaded:g} {verdict}",
        flush=True,
    )
    return verdict == "PASS"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a GGUF file; the embedded default when not given")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="three rounds")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare:
        bare(given.bare)
        return 0
    path = given.model or default_file()
    with tempfile.TemporaryDirectory() as folder:
        return 0 if asyncio.run(compare(path, Path(folder), 3 if given.quick else given.rounds)) else 1


if __name__ == "__main__":
    sys.exit(main())
