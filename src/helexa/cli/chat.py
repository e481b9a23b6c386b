"""`cortex chat`: talk to a model in the terminal, streaming; tokens per second and time to first token at the end."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

from cyclopts import Parameter

from helexa.base.errors import HelexaError
from helexa.cli.link import AsJson, Endpoint
from helexa.cli.say import as_json, fail
from helexa.cli.talk import Score, first_model, stream


def chat(
    *prompt: str,
    model: Annotated[str | None, Parameter(name=("--model", "-m"))] = None,
    system: Annotated[str | None, Parameter(name=("--system", "-s"))] = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    endpoint: Endpoint = None,
    json: AsJson = False,
) -> None:
    """Talk to a model. With a PROMPT (or a piped one) answer once; without, hold a conversation until Ctrl-D.

    Parameters
    ----------
    model
        A model id or alias; the first loaded model when not given.
    system
        A system prompt.
    max_tokens
        The longest answer, in tokens.
    temperature
        0: always the likeliest token; the model's own when not given.
    """
    chosen = model or first_model(endpoint)
    options = {"max_tokens": max_tokens, "temperature": temperature}
    body = {"model": chosen, **{name: value for name, value in options.items() if value is not None}}
    messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    typed = os.fsencode(" ".join(prompt)).decode(errors="replace")  # the shell may hand over any bytes
    once = typed or ("" if sys.stdin.isatty() else sys.stdin.read().strip())
    if once:
        asked = {**body, "messages": [*messages, {"role": "user", "content": once}]}
        if json:
            _told(endpoint, asked)
        elif not _turn(endpoint, asked)[1]:
            raise KeyboardInterrupt
        return
    if json:
        fail("--json tells of one answer: give a prompt, or pipe one in", 2)
    print(f"{chosen}; Ctrl-D ends, Ctrl-C stops an answer")
    while (said := _read()) is not None:
        if not said.strip():
            continue
        messages.append({"role": "user", "content": said})
        try:
            text, _ = _turn(endpoint, {**body, "messages": messages})
            messages.append({"role": "assistant", "content": text})
        except HelexaError as error:
            messages.pop()
            print(f"error: {error.message}", file=sys.stderr)


def _read() -> str | None:
    try:
        return input("> ")
    except EOFError:
        print()
        return None
    except KeyboardInterrupt:
        print()
        raise


def _told(endpoint: str | None, body: dict[str, Any]) -> None:
    """One answer and what it cost, as JSON."""
    score = Score()
    text = "".join(stream(endpoint, body, score))
    cost = {"tokens": score.tokens, "tokens_per_s": score.tokens_per_s, "ttft_s": score.ttft_s}
    as_json({"model": body["model"], "text": text, **cost, "usage": score.usage})


def _turn(endpoint: str | None, body: dict[str, Any]) -> tuple[str, bool]:
    """One answer, printed as it comes, and whether it is whole: Ctrl-C stops it and keeps what there is."""
    score, text, whole = Score(), "", True
    try:
        for piece in stream(endpoint, body, score):
            print(piece, end="", flush=True)
            text += piece
    except KeyboardInterrupt:
        print(" [stopped]", end="")
        whole = False
    print(flush=True)
    print(score.line(), file=sys.stderr)
    return text, whole
