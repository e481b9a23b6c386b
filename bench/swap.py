"""What a model that is not loaded costs the one who asks: cold, in another's place, and twenty clients at once.

    make bench-swap              rounds of the bare engine and of the chain in turn; medians and their ratios

The raw time is the engine's own: a process is started with llama.cpp and nothing else, opens the file and answers four
tokens (`bare.py`); what it is without the process's start is told beside it. The chain is a gateway and a neuron asked
over HTTP, with two catalogue names for the same file and memory for one. The engine has one thread on both sides: more
of them spin when the machine has other work, and measure that.

Bars, in multiples of the raw time: cold 1.5, swap 1.3, twenty clients that alternate between the two names 2.9. The
last also holds the twenty answers, so beside it stands what the bare engine takes for the same by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx2
from bare import CONTEXT, SLOTS, THREADS, TOKENS, body
from stream import default_file

from helexa.testing.fleet import Fleet, eventually

CLIENTS = 20
SCRIPT = Path(__file__).with_name("bare.py")
BARS = {"cold": 1.5, "swap": 1.3, "twenty clients": 2.9}
RESIDENT_MB = 250
"""Room for one of them and never for two, also once the neuron has measured how little one takes."""


# -- the bare engine --


async def bare(path: str, *clients: int) -> tuple[float, float]:
    """Seconds from the start of a process to its last answer, and from its first opening of the file."""
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SCRIPT), path, *map(str, clients), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    inside = float(await process.stdout.readline())
    whole = time.monotonic() - began
    await process.wait()
    return whole, inside


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


@dataclass
class Take:
    """Seconds: the bare engine's start to four tokens with its process and without, the chain, and by hand."""

    raw: float
    inside: float
    chain: float
    by_hand: float


async def compare(path: str, folder: Path, rounds: int) -> bool:
    entry = f'source = "file:{path}"\ncontext = {CONTEXT}\noptions = {{ slots = {SLOTS} }}\n'
    models = "".join(f'[[models]]\nid = "{name}"\n{entry}' for name in "ab")
    device = f'[[devices]]\nkind = "cpu"\nindex = 0\nmemory_mb = {RESIDENT_MB}\nthreads = {THREADS}\n'
    cases: dict[str, tuple[Callable[[Fleet], Awaitable[float]], tuple[int, ...]]] = {
        "cold": (cold, (1,)),
        "swap": (swap, (1,)),
        "twenty clients": (crowd, (CLIENTS // 2, CLIENTS // 2)),
    }
    good = True
    async with Fleet(folder, neurons={"local": device}, models=models) as fleet:
        await bare(path, 1), await cold(fleet), await swap(fleet)  # a warm-up of both
        print(f"{'medians':16} {'raw ms':>8} {'chain ms':>9} {'of raw':>7} {'bar':>5} {'inside':>7} {'bare':>6}  loads")
        for name, (take, by_hand) in cases.items():
            before = loads(fleet)
            takes = [
                Take(*await bare(path, 1), await take(fleet), (await bare(path, *by_hand))[0]) for _ in range(rounds)
            ]
            good &= report(name, takes, (loads(fleet) - before) / rounds)
    print("inside: of the raw time without the start of its process, which a neuron's worker has behind it")
    print("bare: the same loads and requests on the bare engine, one after the other, in multiples of raw")
    return good


def report(name: str, takes: list[Take], loaded: float) -> bool:
    def median(of: Callable[[Take], float]) -> float:
        return statistics.median(map(of, takes))

    ratio = median(lambda take: take.chain / take.raw)
    inside = median(lambda take: take.chain / take.inside)
    by_hand = median(lambda take: take.by_hand / take.raw)
    raw_ms, chain_ms = 1000 * median(lambda take: take.raw), 1000 * median(lambda take: take.chain)
    verdict = "PASS" if ratio <= BARS[name] else "FAIL"
    print(
        f"{name:16} {raw_ms:>8.0f} {chain_ms:>9.0f} {ratio:>7.2f} {BARS[name]:>5} {inside:>7.2f} {by_hand:>6.2f}"
        f"  {loaded:g} {verdict}",
        flush=True,
    )
    return verdict == "PASS"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a GGUF file; the embedded default when not given")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="three rounds")
    given = parser.parse_args()
    path = given.model or default_file()
    with tempfile.TemporaryDirectory() as folder:
        return 0 if asyncio.run(compare(path, Path(folder), 3 if given.quick else given.rounds)) else 1


if __name__ == "__main__":
    sys.exit(main())
