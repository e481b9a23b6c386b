"""The engine room's bars: what an engine does through the whole chain, beside the same engine alone.

    make bench-engine                              every part
    make bench-engine ARGS="streams gap --quick"   some of them, few rounds
    make bench-engine ARGS="crowd --model FILE.gguf"

* streams:   tokens per second and first token through the chain (client, gateway, neuron, engine), beside in-process
* crowd:     the engine that the neuron chooses for 16 slots, beside llama.cpp's own server compiled for this processor
* gap:       the longest silence of a stream while a prompt of 4,000 tokens is taken in
* turns:     first token of the second turn of a long conversation, beside its first
* vectors:   embeddings in batches of 32, beside in-process
* leaving:   how long a slot stays taken after its client has left
* endurance: memory and slots over 10,000 requests, 3 in 10 of whose clients leave at random

Contestants take turns round by round, ratios are taken within a round, and the median of the rounds is told: compare
within a run, never between two.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from contestants import Chain, Inside, Setting, chain, native
from stream import JSON_BODY, PATH, Heard, body, default_file, listen, together

from helexa.http1.client import Origin
from helexa.testing.fleet import eventually

CHAIN_RATIO, FIRST_TOKEN_MS = 0.97, 3.0
NATIVE_RATIO, INSIDE_RATIO = 1.0, 1.8
CROWD_GAIN = 2.4
GAP_MS = 250.0
SECOND_TURN = 0.15
VECTORS_RATIO = 0.95
FREED_MS = 100.0
DRIFT = 0.02
TOKENS, BATCH = 64, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What was asked for on the command line, and a folder to work in."""

    path: str
    quick: bool
    folder: Path

    def rounds(self, usual: int) -> int:
        return 2 if self.quick else usual


def verdict(held: bool, text: str, bar: str) -> bool:
    print(f"{'PASS' if held else 'FAIL'}  {text} (bar {bar})", flush=True)
    return held


def paired(ours: list[float], theirs: list[float]) -> float:
    """How many times as fast as `theirs` we were: the median over rounds of seconds against seconds."""
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))


# Throughput -----------------------------------------------------------------------------------------------------------


async def streams(run: Run) -> list[bool]:
    setting = Setting(path=run.path, slots=16, context=1024)
    held: list[bool] = []
    with Inside(setting) as inside:
        async with chain(setting, run.folder) as whole:
            for count in (1, 8, 16):
                held.append(await _beside_inside(inside, whole, count, run.rounds(30 if count == 1 else 5)))
            held.append(await _first_token(inside, whole, 20 if run.quick else 60))
    return held


async def _beside_inside(inside: Inside, whole: Chain, count: int, rounds: int) -> bool:
    """Every other round goes backwards, so that nobody is always the first or the last."""
    socket = whole.engine
    asks: list[tuple[str, Callable[[int], Awaitable[float]]]] = [
        ("in-process", lambda numbers: asyncio.to_thread(lambda: inside.streams(count, TOKENS, numbers)[0])),
        ("engine", lambda numbers: together(socket, count, TOKENS, numbers)),
        ("chain", lambda numbers: together(whole.origin, count, TOKENS, numbers)),
    ]
    taken: dict[str, list[float]] = {name: [] for name, _ in asks}
    for number in range(rounds + 1):
        for name, ask in asks if number % 2 else reversed(asks):
            taken[name].append(await ask(100 * number))
    await socket.aclose()
    through, engine, alone = (taken[name][1:] for name in ("chain", "engine", "in-process"))  # a warm-up of each
    told = [count * TOKENS / statistics.median(column) for column in (through, alone)]
    low, ratio, high = statistics.quantiles((b / a for a, b in zip(through, alone, strict=True)), n=4)
    print(f"      {count} streams: this client on the engine's own socket, of in-process: {paired(engine, alone):.3f}")
    rates = f"{told[0]:.0f} tokens/s through the chain, {told[1]:.0f} in-process"
    text = f"{count} streams: {rates}, ratio {ratio:.3f} (half the rounds: {low:.2f} to {high:.2f})"
    return verdict(ratio >= CHAIN_RATIO, text, str(CHAIN_RATIO))


async def _first_token(inside: Inside, whole: Chain, rounds: int) -> bool:
    """A prompt that the engine has seen, so that the way is much of what is timed."""
    again = {"cache_prompt": True}
    alone: list[float] = []
    added: list[float] = []
    for _ in range(rounds + 1):
        alone += inside.streams(1, 1, 7, **again)[1]
        added.append((await listen(whole.origin, body(7, 1, **again))).first_s - alone[-1])
    typical, more = (1000 * statistics.median(column[1:]) for column in (alone, added))
    text = f"first token: {typical:.1f} ms in-process, {more:+.2f} ms through the chain"
    return verdict(more < FIRST_TOKEN_MS, text, f"{FIRST_TOKEN_MS} ms")


async def crowd(run: Run) -> list[bool]:
    setting = Setting(path=run.path, slots=16, context=1024)
    taken: dict[str, dict[int, list[float]]] = {}
    with Inside(setting) as inside:
        async with chain(setting, run.folder, harness="") as whole, native(setting, run.folder) as server:
            print(f"chosen is {await whole.chosen()}")
            await listen(whole.origin, body(0, 4))
            asked: dict[str, Callable[[int, int], Awaitable[float]]] = {
                "chain": lambda count, numbers: together(whole.origin, count, TOKENS, numbers),
                "in-process": lambda count, numbers: asyncio.to_thread(
                    lambda: inside.streams(count, TOKENS, numbers)[0]
                ),
            }
            if server is not None:
                asked["llama-server"] = lambda count, numbers: together(server, count, TOKENS, numbers)
            for number in range(run.rounds(5)):
                for count in (1, 8, 16):
                    for name, ask in asked.items():
                        took = await ask(count, 1000 * number + 100 * count)
                        taken.setdefault(name, {}).setdefault(count, []).append(took)
    return _crowd_told(taken)


def _crowd_told(taken: dict[str, dict[int, list[float]]]) -> list[bool]:
    for name, found in taken.items():
        told = ", ".join(f"{count * TOKENS / statistics.median(took):.0f} at {count}" for count, took in found.items())
        print(f"tokens/s of {name}: {told}")
    other, bar = ("llama-server", NATIVE_RATIO) if "llama-server" in taken else ("in-process", INSIDE_RATIO)
    held: list[bool] = []
    for count in (8, 16):
        ratio = paired(taken["chain"][count], taken[other][count])
        held.append(verdict(ratio >= bar, f"{count} streams: {ratio:.2f} times as fast as {other}", str(bar)))
    gain = 16 * paired(taken["chain"][16], taken["chain"][1])
    held.append(verdict(gain >= CROWD_GAIN, f"16 streams make {gain:.2f} times the tokens of one", str(CROWD_GAIN)))
    return held


# One conversation and its neighbours ----------------------------------------------------------------------------------

ENGINES = ("llama", "openvino")


async def on_each(run: Run, slots: int, part: Callable[[Run, Chain], Awaitable[bool]]) -> list[bool]:
    """The same part for each engine that runs on a CPU."""
    held: list[bool] = []
    for harness in ENGINES:
        folder = run.folder / harness
        folder.mkdir()
        async with chain(Setting(path=run.path, slots=slots, context=6144), folder, harness) as whole:
            print(f"{harness}:")
            held.append(await part(run, whole))
    return held


def prose(tokens: int, number: int) -> str:
    """About so many tokens that no prompt began with before."""
    words = (
        "the",
        "ship",
        "went",
        "out",
        "to",
        "sea",
        "and",
        "came",
        "back",
        "with",
        "salt",
        "on",
        "its",
        "old",
        "sails",
    )
    chosen = random.Random(number)
    return f"Log {number}: " + " ".join(chosen.choice(words) for _ in range(tokens))


async def gap(run: Run) -> list[bool]:
    return await on_each(run, 4, _longest_gap)


async def _longest_gap(run: Run, whole: Chain) -> bool:
    """One stream decodes when a long prompt arrives, which is answered by one token."""
    rounds = [await _gaps(whole, number) for number in range(run.rounds(3))]
    worst, usual, prompt, tokens = (statistics.median(column) for column in zip(*rounds, strict=True))
    text = (
        f"longest silence of a stream while {tokens:.0f} tokens are taken in: {1000 * worst:.0f} ms"
        f" ({1000 * usual:.0f} ms alone; the prompt took {prompt:.1f} s)"
    )
    return verdict(1000 * worst <= GAP_MS, text, f"{GAP_MS:.0f} ms")


async def _gaps(whole: Chain, number: int) -> tuple[float, float, float, int]:
    """The longest gap beside the prompt and before it, how long the prompt took (seconds), and its tokens."""
    heard = Heard()
    speaking = asyncio.create_task(listen(whole.origin, body(number, 5000), heard))

    async def speaks() -> bool:
        return len(heard.spoken) >= 40

    await eventually(speaks, "a stream that decodes")
    newcomer = await listen(
        whole.origin, body(number, 1, text=prose(4000, number), stream_options={"include_usage": True})
    )
    assert not speaking.done(), "the stream ended before the prompt was taken in"
    speaking.cancel()
    await asyncio.gather(speaking, return_exceptions=True)
    beside = longest([at for at in heard.spoken if at >= newcomer.asked])
    before = longest([at for at in heard.spoken if at < newcomer.asked])
    return beside, before, newcomer.first_s, newcomer.usage["prompt_tokens"]


def longest(times: list[float]) -> float:
    return max(later - earlier for earlier, later in pairwise(times))


async def turns(run: Run) -> list[bool]:
    return await on_each(run, 4, _second_turn)


async def _second_turn(run: Run, whole: Chain) -> bool:
    rounds = [await _conversation(whole, number) for number in range(run.rounds(5))]
    first, second, prompt, cached = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(later / earlier for earlier, later, _, _ in rounds)
    text = (
        f"second turn of a conversation of {prompt:.0f} tokens, {cached:.0f} of them reused: first token after"
        f" {1000 * second:.0f} ms, {ratio:.3f} of the first turn's {1000 * first:.0f} ms"
    )
    return verdict(ratio <= SECOND_TURN, text, str(SECOND_TURN))


async def _conversation(whole: Chain, number: int) -> tuple[float, float, int, int]:
    """Seconds to the first token of the first and the second turn; the second's tokens, and how many were reused."""
    again = {"cache_prompt": True, "stream_options": {"include_usage": True}}
    asked = body(number, 32, text=prose(1950, number), **again)
    first = await listen(whole.origin, asked)
    asked["messages"] += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "And then?"}]
    second = await listen(whole.origin, asked)
    usage = second.usage
    return first.first_s, second.first_s, usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


# Vectors --------------------------------------------------------------------------------------------------------------


async def vectors(run: Run) -> list[bool]:
    setting = Setting(path=run.path, slots=4, context=512, options={"embeddings": True, "pooling": "mean"})
    alone: list[float] = []
    through: list[float] = []
    with Inside(setting) as inside:
        async with chain(setting, run.folder) as whole:
            for number in range(run.rounds(15) + 1):
                texts = [prose(30, 100 * number + at) for at in range(BATCH)]
                alone.append(inside.vectors(texts))
                through.append(await _vectors(whole.origin, texts))
    ratio = paired(through[1:], alone[1:])
    rates = [BATCH / statistics.median(column[1:]) for column in (through, alone)]
    text = f"vectors: {rates[0]:.0f}/s through the chain, {rates[1]:.0f}/s in-process, ratio {ratio:.3f}"
    return [verdict(ratio >= VECTORS_RATIO, text, str(VECTORS_RATIO))]


async def _vectors(origin: Origin, texts: list[str]) -> float:
    began = time.perf_counter()
    asked = json.dumps({"model": "m", "input": texts}).encode()
    async with await origin.request(b"POST", b"/v1/embeddings", JSON_BODY, asked) as answer:
        said = json.loads(await answer.read(1 << 24))
    assert len(said["data"]) == len(texts), said
    return time.perf_counter() - began


# Clients that leave ---------------------------------------------------------------------------------------------------


async def leaving(run: Run) -> list[bool]:
    return await on_each(run, 1, _freed)


async def _freed(run: Run, whole: Chain) -> bool:
    """One slot: a client leaves it, and the next one's first token tells when it was free."""
    asks: dict[str, Callable[[int], dict[str, Any]]] = {
        "while it streams": lambda number: body(number, 4000),
        "not streamed": lambda number: body(number, 4000, stream=False),
        "before the first token": lambda number: body(number, 10, text=prose(4000, number)),
    }
    alone = statistics.median([(await listen(whole.origin, body(100 + at, 1))).first_s for at in range(9)])
    worst: dict[str, float] = {}
    for kind, asked in asks.items():
        late = [await _left(whole, asked(200 + at), 300 + at) - alone for at in range(4 if run.quick else 10)]
        worst[kind] = 1000 * max(0.0, *late)
    told = ", ".join(f"{kind} {ms:.0f} ms" for kind, ms in worst.items())
    return verdict(
        max(worst.values()) <= FREED_MS, f"a slot is free again after its client left: {told}", f"{FREED_MS:.0f} ms"
    )


async def _left(whole: Chain, asked: dict[str, Any], number: int) -> float:
    """Seconds from a client's leaving to the first token of the next one."""
    leaver = asyncio.create_task(_take_in(whole.origin, asked))
    await asyncio.sleep(random.Random(number).uniform(0.5, 1.0))
    assert not leaver.done(), "answered before the client could leave"
    leaver.cancel()
    left = time.perf_counter()
    await asyncio.gather(leaver, return_exceptions=True)
    return (await listen(whole.origin, body(number, 1))).spoken[0] - left


async def _take_in(origin: Origin, asked: dict[str, Any]) -> bytes:
    """The whole answer, streamed or not."""
    async with await origin.request(b"POST", PATH, JSON_BODY, json.dumps(asked).encode()) as answer:
        return await answer.read(1 << 24)


# Endurance ------------------------------------------------------------------------------------------------------------

CLIENTS, LOOKS, LEAVERS = 16, 50, 0.3


async def endurance(run: Run) -> list[bool]:
    """Memory in the second tenth of the requests beside the last tenth, and every slot at work after them."""
    count = 1000 if run.quick else 10_000
    async with chain(Setting(path=run.path, slots=8, context=512), run.folder) as whole:
        seen: list[dict[str, float]] = []
        for look in range(LOOKS):
            numbers = iter(range(look * count // LOOKS, (look + 1) * count // LOOKS))
            await asyncio.gather(*(_visits(whole.origin, numbers) for _ in range(CLIENTS)))
            await whole.fleet.until_idle()
            seen.append(memory_mib(whole))
        await whole.fleet.until_neurons_idle()
        alone = await together(whole.origin, 1, TOKENS, 1)
        crowd_s = await together(whole.origin, 8, TOKENS, 2)
    return [*_memory_told(seen, count), _slots_told(alone, crowd_s)]


async def _visits(origin: Origin, numbers: Iterator[int]) -> None:
    """A client that asks one thing after the other, and does not always wait for the answer."""
    for number in numbers:
        chance = random.Random(number)
        asked = body(number % 4, 2, stream=chance.random() < 0.5, cache_prompt=True)
        patience_s = chance.uniform(0.0, 0.3) if chance.random() < LEAVERS else 60.0
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                said = await _take_in(origin, asked)
                assert b'"content"' in said, said


def memory_mib(whole: Chain) -> dict[str, float]:
    neuron = psutil.Process(whole.fleet.neurons["local"].pid)
    workers = {f"worker {at}": worker for at, worker in enumerate(neuron.children(recursive=True))}
    family = {"gateway": psutil.Process(whole.fleet.cortex.pid), "neuron": neuron, **workers}
    return {name: process.memory_info().rss / 2**20 for name, process in family.items()}


def _memory_told(seen: list[dict[str, float]], count: int) -> list[bool]:
    held: list[bool] = []
    tenth = LOOKS // 10
    for name in seen[0]:
        old, new = (statistics.median(look[name] for look in some) for some in (seen[tenth : 2 * tenth], seen[-tenth:]))
        drift = new / old - 1
        text = f"{count} requests, {name}: {old:.1f} -> {new:.1f} MiB ({drift:+.1%})"
        held.append(verdict(abs(drift) <= DRIFT, text, f"{DRIFT:.0%}"))
    return held


def _slots_told(alone_s: float, crowd_s: float) -> bool:
    """Eight at once that took as long as eight in turn would tell of slots that are gone."""
    text = f"after them 8 streams at once take {crowd_s / alone_s:.1f} times as long as one"
    return verdict(crowd_s < 7.5 * alone_s, text, "7.5")


PARTS: dict[str, Callable[[Run], Awaitable[list[bool]]]] = {
    "streams": streams,
    "crowd": crowd,
    "gap": gap,
    "turns": turns,
    "vectors": vectors,
    "leaving": leaving,
    "endurance": endurance,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--model", help="a GGUF file; the embedded default when not given")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    path = given.model or default_file()
    held: list[bool] = []
    for name in given.parts or PARTS:
        print(f"\n{name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            held += asyncio.run(PARTS[name](Run(path=path, quick=given.quick, folder=Path(folder))))
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
