"""A file's own chat template is tried before an engine sees it: one that never ends, or fills the memory, is refused.

llama.cpp renders templates while it loads, without bounds: a loop of a thousand million rounds keeps its worker busy
for as long as somebody lets it, and deep nesting kills it, with every other model on that device.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

_TOOL: dict[str, Any] = {"name": "look", "description": "Look", "parameters": {"type": "object", "properties": {}}}
_CALL: dict[str, Any] = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": {}}}
_GREETING = [{"role": "user", "content": "Hello"}]
_WORK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    *_GREETING,
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "tool_call_id": "call_1", "name": "look", "content": "Nothing"},
    {"role": "assistant", "content": "Nothing.", "reasoning_content": "I looked."},
    *_GREETING,
]
# a bomb may wait for tools, or for a conversation that is under way
_CONVERSATIONS: Sequence[dict[str, Any]] = (
    {"messages": _GREETING},
    {"messages": _WORK, "tools": [{"type": "function", "function": _TOOL}], "enable_thinking": True},
)


def prepare() -> None:
    """Import ahead what the first template needs: it would be a sixth of a small model's load. Blocking."""
    problem("")


@lru_cache(maxsize=32)
def problem(source: str) -> str | None:
    """What is wrong with a template, None when it is bounded. Mistakes of other kinds are the engine's to tell, and so
    is everything where Jinja is not installed. Blocking: up to two seconds of a processor."""
    if importlib.util.find_spec("jinja2") is None:
        return None
    from helexa.neuron.core.chat.sandbox import BUDGET, Budget
    from helexa.neuron.core.chat.template import MAX_SOURCE

    if len(source) > MAX_SOURCE:
        return f"it is longer than {MAX_SOURCE} characters"
    token = BUDGET.set(Budget(time.thread_time))
    try:
        return next(filter(None, (_excess(source, each) for each in _CONVERSATIONS)), None)
    finally:
        BUDGET.reset(token)


def _excess(source: str, variables: dict[str, Any]) -> str | None:
    """What a template does too much of in one conversation."""
    from helexa.neuron.core.chat.sandbox import Exhausted, Sandbox

    try:
        compiled = Sandbox(datetime.now).from_string(source)
        for _ in compiled.generate(**variables, add_generation_prompt=True, bos_token="", eos_token=""):
            pass
    except (Exhausted, RecursionError, MemoryError, OverflowError) as error:
        return "it nests too deep" if isinstance(error, RecursionError) else str(error) or "it makes too much"
    except Exception:  # noqa: BLE001 - a template's own mistakes have any type, and are no danger
        return None
    return None
