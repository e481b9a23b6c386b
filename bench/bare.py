"""The bare engine, for bench-swap: `python bare.py FILE CLIENTS [CLIENTS ...]`.

Imports llama.cpp's binding, and for each number in turn opens FILE, answers so many clients at once and lets it go.

Prints the seconds from the first opening to the last answer; who started the process knows what the start took besides.
"""

import gc
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

TOKENS, CONTEXT, SLOTS, THREADS = 4, 512, 4, 1


def body(model: str) -> dict[str, object]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": "Tell a story about a lighthouse."}],
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "seed": 1,
    }


def opened(engine: Any, path: str) -> Any:
    """A server on this file; what is not said here is as llama.cpp has it."""
    params = engine.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel = CONTEXT * SLOTS, SLOTS
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
    params.verbosity = 0
    return engine.Server(params)


def chat(server: Any) -> None:
    answers: list[Any] = []
    server.handle_chat_completions(body("m"), answers.append)
    answer = json.loads(answers[-1]) if isinstance(answers[-1], str) else answers[-1]
    assert answer["usage"]["completion_tokens"] == TOKENS, answer


def turn(engine: Any, path: str, clients: int) -> float:
    """When the last of them was answered."""
    server = opened(engine, path)
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(chat, [server] * clients))
    answered = time.monotonic()
    del server
    gc.collect()
    return answered


if __name__ == "__main__":
    import xllamacpp

    began = time.monotonic()
    ends = [turn(xllamacpp, sys.argv[1], int(clients)) for clients in sys.argv[2:]]
    print(ends[-1] - began, flush=True)
    os._exit(0)  # nothing more is measured, and the engine's threads need not be taken down
