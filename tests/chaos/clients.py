"""Clients that ask in three dialects, streamed and not, and judge how each answer ended.

An answer is `whole` (all of the text that was asked for), `error` (a stream that had begun ends in its dialect's error
event) or `refused` (a typed error before the first byte). Anything else is an AssertionError: a connection that breaks,
an end that looks clean and is not, silence.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from helexa.http1.client import Answer, Origin
from tests.wire.grammar import messages_grammar, responses_grammar

Ending = Literal["whole", "error", "refused"]

JSON = [(b"content-type", b"application/json")]
SILENCE_S = 30.0
"""A stream that waits is given a sign of life each second; the machine that runs this may be slow."""
ANSWER_S = 60.0
"""Longer than the gateway lets anybody wait."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to ask: where, with which body, and how to judge a streamed and a whole answer (text heard, whole?)."""

    name: str
    path: str
    stream: bool
    body: Callable[[str, str], dict[str, Any]]
    streamed: Callable[[bytes], tuple[str, bool]]
    whole: Callable[[dict[str, Any]], str]


@dataclass(slots=True)
class Told:
    """How one request ended. `status` is its HTTP status, `said` the text that came."""

    kind: str
    model: str
    ending: Ending
    status: int
    said: str = ""
    reason: str = ""
    decision: str = ""


@dataclass(slots=True)
class Tally:
    """What became of everybody."""

    all: list[Told] = field(default_factory=list[Told])

    def count(self, ending: Ending) -> int:
        return sum(told.ending == ending for told in self.all)

    def refusals(self) -> list[Told]:
        return [told for told in self.all if told.ending == "refused"]

    def __str__(self) -> str:
        kinds = sorted({told.kind for told in self.all})
        counts = ", ".join(f"{self.count(ending)} {ending}" for ending in ("whole", "error", "refused"))
        return f"{len(self.all)} requests of {len(kinds)} kinds: {counts}"


async def ask(origin: Origin, kind: Kind, model: str, text: str) -> Told:
    """One request to its end. Raises UpstreamError for a connection that breaks or falls silent."""
    body = msgspec.json.encode(kind.body(model, text) | {"stream": kind.stream})
    answer = await origin.request(b"POST", kind.path.encode(), JSON, body, head_timeout_s=ANSWER_S)
    found = await answer.read(1 << 22, idle_timeout_s=SILENCE_S)
    decision = (answer.header(b"x-cortex-decision") or b"").decode()
    if answer.status != 200:
        return Told(kind.name, model, "refused", answer.status, reason=_refusal(answer, found), decision=decision)
    if not kind.stream:
        said = kind.whole(json.loads(found))
        assert said == text, f"{kind.name}: {said!r} instead of {text!r}"
        return Told(kind.name, model, "whole", 200, said)
    said, whole = kind.streamed(found)
    assert text == said if whole else text.startswith(said), f"{kind.name}: {said!r} instead of {text!r}"
    return Told(kind.name, model, "whole" if whole else "error", 200, said, "" if whole else found[-400:].decode())


def _refusal(answer: Answer, body: bytes) -> str:
    """The message of a typed error; one that may be tried again says when."""
    error = json.loads(body)["error"]
    assert isinstance(error["message"], str)
    assert error["message"]
    assert answer.status in (422, 429, 502, 503, 504, 529), (answer.status, body)
    if answer.status in (429, 503, 529):
        assert int(answer.header(b"retry-after") or b"0") >= 1, (answer.status, answer.headers, body)
    return error["message"]


def chat_grammar(stream: bytes) -> tuple[str, bool]:
    """(chunk | comment)* then `[DONE]` after a finish_reason, or one error event and nothing after it."""
    assert stream.endswith(b"\n\n"), stream[-200:]
    events = [line[6:] for line in stream.decode().split("\n\n") if line.startswith("data: ")]
    said, finish = "", None
    for at, event in enumerate(events):
        last = at == len(events) - 1
        if event == "[DONE]":
            assert last, "something follows [DONE]"
            assert finish == "stop", f"[DONE] without an end: {finish}"
            return said, True
        chunk = json.loads(event)
        if "error" in chunk:
            assert last, "something follows the error"
            assert chunk["error"]["message"]
            return said, False
        for choice in chunk["choices"]:
            said += choice["delta"].get("content") or ""
            finish = choice["finish_reason"] or finish
    raise AssertionError(f"the stream just stopped: {stream[-200:]!r}")


def _messages_streamed(stream: bytes) -> tuple[str, bool]:
    heard = messages_grammar(stream)
    return heard.text, heard.complete


def _responses_streamed(stream: bytes) -> tuple[str, bool]:
    heard = responses_grammar(stream)
    return heard.text, heard.complete


def _chat_body(model: str, text: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}]}


def _messages_body(model: str, text: str) -> dict[str, Any]:
    return _chat_body(model, text) | {"max_tokens": 4096}


def _responses_body(model: str, text: str) -> dict[str, Any]:
    return {"model": model, "input": text}


def _message(answer: dict[str, Any]) -> str:
    return "".join(block["text"] for block in answer["content"])


def _response(answer: dict[str, Any]) -> str:
    assert answer["status"] == "completed"
    return "".join(part["text"] for item in answer["output"] for part in item["content"])


KINDS = tuple(
    Kind(f"{name}{' streamed' if stream else ''}", path, stream, body, streamed, whole)
    for name, path, body, streamed, whole in (
        (
            "chat",
            "/v1/chat/completions",
            _chat_body,
            chat_grammar,
            lambda answer: answer["choices"][0]["message"]["content"],
        ),
        ("messages", "/v1/messages", _messages_body, _messages_streamed, _message),
        ("responses", "/v1/responses", _responses_body, _responses_streamed, _response),
    )
    for stream in (True, False)
)
