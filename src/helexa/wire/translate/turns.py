"""Puts a conversation in the order a chat template needs: one leading system prompt, calls followed by their results.

Shared by every dialect that is read. What clients do that templates do not survive:

* Claude Code and Codex put system messages in the middle. They are folded into the neighbouring user text where they
  stand. Hoisting them to the front would change the prompt's prefix with every new one, and the engine would prefill
  the whole conversation again.
* Parallel results come back in any order, and in two messages instead of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from helexa.base.errors import InvalidRequest
from helexa.wire.canon import Part, TextPart, ToolCall, ToolResult, Turn

_OPEN, _CLOSE = "<system-reminder>", "</system-reminder>"


class Words(Protocol):
    """How a dialect's own server words what is wrong with tool results."""

    def missing(self, calls: Sequence[ToolCall]) -> InvalidRequest:
        """Calls without a result."""
        ...

    def orphan(self, result: ToolResult) -> InvalidRequest:
        """A result without a call before it."""
        ...

    def twice(self, at: str, call_id: str) -> InvalidRequest:
        """A second result, or a second call, with the same id."""
        ...


def settle(turns: Iterable[Turn], words: Words, *, mid_system: bool = False) -> tuple[str, tuple[Turn, ...]]:
    """The leading system text, and the other turns folded, merged and paired."""
    system, rest = _leading_system(list(turns))
    folded = _folded(rest, keep=mid_system)
    return system, tuple(_paired(folded, words))


def reminder(text: str) -> str:
    """A system message's text as it stands inside a user's turn."""
    return text if text.lstrip().startswith(_OPEN) else f"{_OPEN}\n{text}\n{_CLOSE}"


def joined(parts: Iterable[Part], glue: str) -> str:
    """The text of the text parts."""
    return glue.join([part.text for part in parts if isinstance(part, TextPart)])


def _leading_system(turns: list[Turn]) -> tuple[str, list[Turn]]:
    count = 0
    while count < len(turns) and turns[count].role == "system":
        count += 1
    return "\n\n".join(filter(None, (joined(turn.parts, "\n\n") for turn in turns[:count]))), turns[count:]


def _folded(turns: list[Turn], *, keep: bool) -> list[Turn]:
    """Consecutive turns of one speaker are one turn, as Anthropic has it and strict templates demand."""
    out: list[Turn] = []
    for turn in turns:
        if turn.role == "system" and not (keep and _can_stand(out)):
            turn = Turn("user", (TextPart(reminder(joined(turn.parts, "\n\n"))),))
        if out and out[-1].role == turn.role:
            out[-1] = Turn(turn.role, out[-1].parts + turn.parts)
        else:
            out.append(turn)
    return out


def _can_stand(before: list[Turn]) -> bool:
    """A system turn may not come between calls and their results."""
    return not before[-1].calls if before else True


def _paired(turns: list[Turn], words: Words) -> list[Turn]:
    out: list[Turn] = []
    calls: tuple[ToolCall, ...] = ()
    for turn in turns:
        out.append(_with_results_first(turn, calls, words) if calls or turn.results else turn)
        calls = turn.calls
    if calls:
        raise words.missing(calls)
    return out


def _with_results_first(turn: Turn, calls: tuple[ToolCall, ...], words: Words) -> Turn:
    """The turn after `calls`, its results first and in the order of the calls."""
    wanted = {call.id: call for call in calls}
    if len(wanted) < len(calls):
        raise words.twice(calls[-1].at, calls[-1].id)
    found: dict[str, ToolResult] = {}
    for result in turn.results:
        if result.call_id in found:
            raise words.twice(result.at, result.call_id)
        if result.call_id not in wanted:
            raise words.orphan(result)
        found[result.call_id] = result
    if absent := [call for call in calls if call.id not in found]:
        raise words.missing(absent)
    rest = (part for part in turn.parts if not isinstance(part, ToolResult))
    return Turn(turn.role, (*(found[call.id] for call in calls), *rest))
