"""Three ways to run one GGUF with the same slots, context and threads: in-process, compiled here, the whole chain."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil
from stream import body

from helexa.http1.client import ConnectFailed, Origin
from helexa.testing.fleet import Fleet, eventually

THREADS = len(os.sched_getaffinity(0))
AS_UP_POLLS = "every_s = 5.0"
"""What `cortex up` writes; tests ask a neuron twenty times as often, and each time is a millisecond of a core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all of them load: `context` tokens for each of `slots` sequences; `options` are the llama engine's."""

    path: str
    slots: int
    context: int
    options: dict[str, Any] = field(default_factory=dict[str, Any])


class Inside:
    """xllamacpp's own `Server`, called from the Python threads of a process that does nothing else."""

    def __init__(self, setting: Setting) -> None:
        asked = json.dumps({name: getattr(setting, name) for name in Setting.__slots__})
        self._process = subprocess.Popen(
            [sys.executable, __file__, asked], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._hear() == "ready"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def streams(self, count: int, tokens: int, numbers: int, **more: object) -> tuple[float, list[float]]:
        """Seconds for so many streams at once, and the seconds to each one's first text."""
        took, firsts = self._ask({"streams": [body(numbers + at, tokens, **more) for at in range(count)]})
        return took, firsts

    def vectors(self, texts: list[str]) -> float:
        """Seconds for the vectors of `texts`, asked for at once."""
        return self._ask({"vectors": {"model": "m", "input": texts}})[0]

    def _ask(self, what: dict[str, object]) -> list[Any]:
        assert self._process.stdin is not None
        print(json.dumps(what), file=self._process.stdin, flush=True)
        return self._hear()

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


def serve_inside(setting: Setting) -> None:
    """The process of `Inside`: a question a line on stdin, its answer on stdout."""
    from helexa.neuron.engines.llama.binding import xl
    from helexa.neuron.engines.llama.engine import make_params
    from helexa.neuron.harness import DeviceRef, LoadOrder

    with tempfile.TemporaryDirectory() as folder:
        order = LoadOrder(
            model_id="m",
            files=(setting.path,),
            devices=(DeviceRef(kind="cpu", index=0, memory_mb=8192, threads=THREADS),),
            socket=f"{folder}/s.sock",
            context=setting.context,
            slots=setting.slots,
            options=setting.options,
        )
        server = xl.Server(make_params(order))
        print('"ready"', flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            told = _threads(server, asked["streams"]) if "streams" in asked else _vectors(server, asked["vectors"])
            print(json.dumps(told), flush=True)


def _threads(server: Any, bodies: list[dict[str, Any]]) -> tuple[float, list[float]]:
    firsts = [0.0] * len(bodies)
    began = time.perf_counter()

    def one(at: int) -> None:
        def hear(chunk: dict[str, Any]) -> bool:
            if not firsts[at] and any(choice["delta"].get("content") for choice in chunk["choices"]):
                firsts[at] = time.perf_counter() - began
            return False

        server.handle_chat_completions(bodies[at], hear)

    threads = [threading.Thread(target=one, args=(at,)) for at in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began, firsts


def _vectors(server: Any, asked: dict[str, Any]) -> tuple[float, int]:
    began = time.perf_counter()
    answer = server.handle_embeddings(asked)
    assert len(answer["data"]) == len(asked["input"]), answer
    return time.perf_counter() - began, len(answer["data"])


@asynccontextmanager
async def native(setting: Setting, folder: Path) -> AsyncGenerator[Origin | None]:
    """llama.cpp's own server, compiled for this processor; None where there is none."""
    program = os.environ.get("BENCH_LLAMA_SERVER", "none")
    if program == "none":
        yield None
        return
    socket, size = str(folder / "native.sock"), str(setting.slots * setting.context)
    sizes = ["--parallel", str(setting.slots), "--ctx-size", size, "--threads", str(THREADS)]
    with (folder / "native.log").open("wb") as log:
        command = ["--model", setting.path, "--host", socket, *sizes]
        process = await asyncio.create_subprocess_exec(program, *command, stdout=log, stderr=log)
    origin = Origin(unix_path=socket, idle_timeout_s=4.0)
    try:
        await eventually(lambda: _healthy(origin), "llama-server", limit_s=60.0)
        yield origin
    finally:
        await origin.aclose()
        process.terminate()
        await process.wait()


async def _healthy(origin: Origin) -> bool:
    try:
        async with await origin.request(b"GET", b"/health") as answer:
            await answer.read(1 << 16)
            return answer.status == 200
    except ConnectFailed:
        return False


@dataclass(frozen=True, slots=True)
class Chain:
    """A gateway and a neuron with the model `m` loaded, and what a client of the gateway asks through."""

    fleet: Fleet
    origin: Origin

    @property
    def neuron_url(self) -> str:
        return self.fleet.neurons["local"].url

    @property
    def engine(self) -> Origin:
        """The socket of the worker itself, without neuron and gateway: what this client alone costs."""
        (worker,) = psutil.Process(self.fleet.neurons["local"].pid).children(recursive=True)
        path = next(each.laddr for each in worker.net_connections("unix") if str(each.laddr).endswith(".sock"))
        return Origin(unix_path=str(path), idle_timeout_s=4.0)

    async def chosen(self) -> str:
        """The engine that serves, and why."""
        entry = (await self.fleet.http.get(f"{self.neuron_url}/models")).json()[0]
        return f"{entry['harness']}: {entry['harness_reason']}"


@asynccontextmanager
async def chain(setting: Setting, folder: Path, harness: str = "llama") -> AsyncGenerator[Chain]:
    """`harness` empty: the neuron chooses."""
    named = f'harness = "{harness}"\n' if harness else ""
    options = ", ".join(f"{name} = {json.dumps(value)}" for name, value in setting.options.items())
    models = (
        f'[[models]]\nid = "m"\nsource = "file:{setting.path}"\ncontext = {setting.context}\npreload = true\n{named}'
        f"options = {{ slots = {setting.slots}{', ' * bool(options)}{options} }}\n"
    )
    neurons = {"local": f'state_dir = "{folder}"\n'}
    async with Fleet(folder, neurons=neurons, models=models, polling=AS_UP_POLLS) as fleet:
        await fleet.until_status("m", "loaded", limit_s=120)
        origin = Origin.from_url(fleet.url)
        try:
            yield Chain(fleet, origin)
        finally:
            await origin.aclose()


if __name__ == "__main__":
    serve_inside(Setting(**json.loads(sys.argv[1])))
