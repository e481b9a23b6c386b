"""Random upstream streams: what an engine might say, in any of the ways engines say it, cut into any chunks."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from .shared import DONE, encode, usage

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=8)
ARGUMENTS = st.sampled_from(["", "{}", '{"a":1}', '{"a":{"b":[1,2]},"c":"}"}', '{"é":"\\"x\\" ☃"}', '{ "a" : "{}" }'])


@dataclass(frozen=True)
class Script:
    """An answer, streamed and whole. `tail` closes a stream that ends well."""

    pieces: tuple[bytes, ...]
    tail: bytes
    whole: bytes
    thoughts: str
    text: str
    calls: tuple[tuple[str, str, str], ...]
    finish: str

    @property
    def stream(self) -> bytes:
        return b"".join(self.pieces) + self.tail


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    """Thoughts and words in any mixture, then calls whose pieces come in turn or interleaved."""
    newline = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    finish = draw(st.sampled_from(["stop", "length", "content_filter", "tool_calls"]))
    # Cut off before its arguments began, a call is left out of a whole answer: that has a test of its own.
    arguments = ARGUMENTS.filter(bool) if finish == "length" else ARGUMENTS
    calls = [
        (f"call_{n}", draw(st.sampled_from(["add", "bash"])), draw(arguments)) for n in range(draw(st.integers(0, 3)))
    ]
    said = draw(st.lists(st.tuples(st.sampled_from(["content", "reasoning_content", "reasoning"]), WORDS), max_size=6))
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None}] if draw(st.booleans()) else []
    deltas += [{key: words} for key, words in said]
    deltas += draw(_call_pieces(calls))
    if draw(st.booleans()):
        deltas += [{"content": ""}, {"tool_calls": []}]
    late = draw(WORDS) if draw(st.booleans()) else ""
    if late:
        deltas.append({"content": late})
    counted = draw(st.booleans())
    parts = [_frame({"choices": [{"index": 0, "delta": delta}]}, newline, draw(st.booleans())) for delta in deltas]
    thoughts = "".join(words for key, words in said if key != "content")
    text = "".join(words for key, words in said if key == "content") + late
    return Script(
        pieces=tuple(parts),
        tail=_tail(finish, newline, counted=counted, done=draw(st.booleans())),
        whole=_whole(thoughts, text, calls, finish, counted=counted),
        thoughts=thoughts,
        text=text,
        calls=tuple((id, name, arguments or "{}") for id, name, arguments in calls),
        finish=finish,
    )


@st.composite
def _call_pieces(draw: st.DrawFn, calls: list[tuple[str, str, str]]) -> list[dict[str, Any]]:
    queues: list[list[dict[str, Any]]] = []
    for index, (id, name, arguments) in enumerate(calls):
        cuts = sorted(draw(st.lists(st.integers(0, len(arguments)), max_size=3)))
        bounds = [0, *cuts, len(arguments)]
        pieces = [arguments[a:b] for a, b in itertools.pairwise(bounds)]
        first = {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": pieces[0]}}
        queues.append([first, *({"index": index, "function": {"arguments": piece}} for piece in pieces[1:])])
    out: list[dict[str, Any]] = []
    interleave = draw(st.booleans())
    opened = 0
    while any(queues):
        ready = [q for n, q in enumerate(queues) if q and n <= opened]
        queue = draw(st.sampled_from(ready)) if interleave else ready[0]
        opened = max(opened, queues.index(queue) + 1) if interleave else len(queues)
        out.append({"tool_calls": [queue.pop(0)]})
    return out


def _frame(document: dict[str, Any], newline: str, comment: bool = False) -> bytes:
    before = f": busy{newline}{newline}" if comment else ""
    return before.encode() + b"data: " + encode(document) + (newline * 2).encode()


def _tail(finish: str, newline: str, *, counted: bool, done: bool) -> bytes:
    out = _frame({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}, newline)
    if counted:
        out += _frame({"choices": [], "usage": usage()}, newline)
    return out + (DONE if done else b"")


def _whole(thoughts: str, text: str, calls: list[tuple[str, str, str]], finish: str, *, counted: bool) -> bytes:
    message: dict[str, Any] = {"role": "assistant", "content": text or None, "reasoning_content": thoughts or None}
    message["tool_calls"] = [
        {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for id, name, arguments in calls
    ]
    document: dict[str, Any] = {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}
    return encode(document | ({"usage": usage()} if counted else {}))


def chunkings(stream: bytes) -> st.SearchStrategy[list[bytes]]:
    """`stream` cut anywhere, inside characters and line ends too."""
    cuts = st.lists(st.integers(0, len(stream)), max_size=12).map(sorted)
    return cuts.map(lambda at: [stream[a:b] for a, b in zip([0, *at], [*at, len(stream)], strict=True)])
