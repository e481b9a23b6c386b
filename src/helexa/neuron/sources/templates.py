"""A file's own chat template is tried before an engine sees it: one that never ends, or fills the memory, is refused.

llama.cpp renders templates while it loads, without bounds: a loop of a thousand million rounds keeps its worker busy
for as long as somebody lets it, and deep nesting kills it, with every other model on that device.
"""

from __future__ import annotations

import importlib.util
import time
from datetime import datetime
from functools import lru_cache

_CONVERSATION = [{"role": "user", "content": "Hello"}]


@lru_cache(maxsize=32)
def problem(source: str) -> str | None:
    """What is wrong with a template, None when it is bounded. Mistakes of other kinds are the engine's to tell, and so
    is everything where Jinja is not installed. Blocking: up to two seconds of a processor."""
    if importlib.util.find_spec("jinja2") is None:
        return None
    from helexa.neuron.core.chat.sandbox import BUDGET, Budget, Exhausted, Sandbox
    from helexa.neuron.core.chat.template import MAX_SOURCE

    if len(source) > MAX_SOURCE:
        return f"it is longer than {MAX_SOURCE} characters"
    token = BUDGET.set(Budget(time.thread_time))
    try:
        compiled = Sandbox(datetime.now).from_string(source)
        for _ in compiled.generate(messages=_CONVERSATION, add_generation_prompt=True, bos_token="", eos_token=""):
            pass
    except (Exhausted, RecursionError, MemoryError, OverflowError) as error:
        return "it nests too deep" if isinstance(error, RecursionError) else str(error) or "it makes too much"
    except Exception:  # noqa: BLE001 - a template's own mistakes have any type, and are no danger
        return None
    finally:
        BUDGET.reset(token)
    return None
