"""What a load order may ask of the echo engine."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from helexa.neuron.core.options import ECHO, read
from helexa.neuron.harness import BadOption

_FAIL = re.compile(r"(?P<bare>load|fault)|(?P<how>step|crash|hang|fault|freeze):(?P<after>\d+|load)")


class ToolCall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call that the model makes when the request has tools. `arguments` is an object, or its JSON text."""

    name: str
    arguments: dict[str, Any] | str = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoOptions:
    """`memory_mb` it is said to use (MiB); `load_s` a load takes; 0 tokens a second means as fast as it goes; `reply`
    is said instead of the user's own last words, and of several the first that the conversation does not hold yet, at
    last the last; `thoughts` come before it.

    `fail`: "load" the load fails; "fault" the load meets a device fault; "step:N" a typed error after N tokens;
    "crash:N" the process dies after N tokens; "hang:N" it steps no more; "fault:N" it aborts with a driver's words, as
    llama.cpp does; "freeze:N" the whole process stands still. "load" for N: while it loads.
    """

    memory_mb: int = 64
    load_s: float = 0.0
    tokens_per_s: float = 0.0
    prefill_tokens_per_s: float = 0.0
    reply: str | list[str] | None = None
    thoughts: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list[ToolCall])
    fail: str = ""

    @property
    def failure(self) -> Failure | None:
        """What `fail` says. Raises BadOption when it says nothing known."""
        if not self.fail:
            return None
        match = _FAIL.fullmatch(self.fail)
        if match is None:
            raise BadOption(
                "fail",
                KNOWN,
                f"`{self.fail}` is not load, fault or one of step, crash, hang, fault, freeze with :N",
            )
        if match["bare"]:
            return Failure(how=match["bare"], after=-1)
        return Failure(how=match["how"], after=-1 if match["after"] == "load" else int(match["after"]))


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """How it fails, and after how many tokens (-1: while it loads)."""

    how: str
    after: int


KNOWN = tuple(ECHO)
_INSIDE: Final[dict[str, Any]] = {"reply": str | list[str], "tool_calls": list[ToolCall]}
"""What is in the lists, which the table of options does not tell."""


def parse(options: dict[str, Any]) -> EchoOptions:
    """The options of an order. Raises BadOption for one that is not known, or a value it cannot be."""
    given = read(options, ECHO)
    for name in _INSIDE.keys() & given.keys():
        try:
            given[name] = msgspec.convert(given[name], _INSIDE[name])
        except msgspec.ValidationError as error:
            raise BadOption(name, KNOWN, str(error)) from None
    parsed = EchoOptions(**given)
    _ = parsed.failure
    return parsed
