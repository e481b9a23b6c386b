"""Fields of a request that an engine does not see to. Most are only named to the client; where the loss of one would
change what the answer means, the request is refused. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from helexa.wire import intake

_OTHER_ENGINE: Final = 'the engine of this model cannot do it; its profile may set harness = "llama"'
_FORM: Final = "is not supported by the engine of this model; a chat says it as response_format"
_BIAS: Final = "is not supported by this server; say it as logit_bias"
_CHAT: Final = "is for chat completions; the llama engine holds a completion to a schema by json_schema"
_NOT_HERE: Final = "is not supported by this server"
MEANT: Final[Mapping[str, str]] = {
    **dict.fromkeys(("logit_bias", "top_logprobs", "n_probs", "parse_special"), _OTHER_ENGINE),
    **dict.fromkeys(("json_schema", "structured_outputs", "guided_json", "guided_regex", "guided_choice"), _FORM),
    "guided_grammar": _FORM,
    **dict.fromkeys(("bad_words", "allowed_token_ids"), _BIAS),
    **dict.fromkeys(("suffix", "echo", "prompt_logprobs"), _NOT_HERE),
    **dict.fromkeys(("response_format", "tools"), _CHAT),
    "n_cache_reuse": "what other conversations left is not a client's to take; a profile may set cache_reuse",
    "best_of": "no more answers are made than are given; say it as n",
    "dimensions": "the vectors of this model have one size; leave it out",
}
"""Why a field is refused, where an engine does not know it."""
_ANY_FORM: Final = {"type": "text"}
OF_CHATS: Final = frozenset(
    ("messages", "tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort",
     "enable_thinking", "chat_template_kwargs", "add_generation_prompt", "continue_final_message")
)  # fmt: skip
"""Nothing comes of these in a completion, whatever the engine honours in a chat."""


def check(fields: Mapping[str, object], unheard: Iterable[str]) -> None:
    """Raises InvalidRequest naming a field among the `unheard` whose loss would change the meaning. One that asks for
    nothing passes: many clients send every field that there is."""
    for name in unheard:
        if name in MEANT and _asks(name, fields):
            raise intake.refuse(name, MEANT[name])


def _asks(name: str, fields: Mapping[str, object]) -> bool:
    if name == "best_of":
        return fields[name] not in (None, fields.get("n") or 1)
    return bool(fields[name]) and fields[name] != _ANY_FORM
