"""`cortex chat`: talk to a model in the terminal, streaming; tokens per second and time to first token at the end."""

from __future__ import annotations

import sys
from typing import Annotated, Any

from cyclopts import Parameter

from helexa.base.errors import HelexaError
from helexa.cli.link import Endpoint
from helexa.cli.talk import Score, first_model, stream


def chat(
    *prompt: str,
    model: Annotated[str | None, Parameter(name=("--model", "-m"))] = None,
    system: Annotated[str | None, Parameter(name=("--system", "-s"))] = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    endpoint: Endpoint = None,
) -> None:
    """Talk to a model. With a PROMPT (or a piped one) answer once; without, hold a conversation until Ctrl-D.

    Parameters
    ----------
    model
        A model id or alias; the first loaded model when not given.
    system
        A system prompt.
    """
    chosen = model or first_model(endpoint)
    options = {"max_tokens": max_tokens, "temperature": temperature}
    body = {"model": chosen, **{name: value for name, value in options.items() if value is not None}}
    messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    once = " ".join(prompt) or ("" if sys.stdin.isatty() else sys.stdin.read().strip())
    if once:
        _turn(endpoint, body, [*messages, {"role": "user", "content": once}])
        return
    print(f"{chosen}; Ctrl-D ends, Ctrl-C stops an answer")
    while (said := _read()) is not None:
        if not said.strip():
            continue
        messages.append({"role": "user", "content": said})
        try:
            messages.append({"role": "assistant", "content": _turn(endpoint, body, messages)})
        except HelexaError as error:
            messages.pop()
            print(f"error: {error.message}", file=sys.stderr)


def _read() -> str | None:
    try:
        return input("> ")
    except EOFError:
        print()
        return None


def _turn(endpoint: str | None, body: dict[str, Any], messages: list[dict[str, str]]) -> str:
    """One answer, printed as it comes. Ctrl-C stops it and keeps what there is."""
    score, text = Score(), ""
    try:
        for piece in stream(endpoint, {**body, "messages": messages}, score):
            print(piece, end="", flush=True)
            text += piece
    except KeyboardInterrupt:
        print(" [stopped]", end="")
    print()
    print(score.line(), file=sys.stderr)
    return text
