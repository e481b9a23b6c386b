"""Every field of every dialect, mistyped in turn: a request or an InvalidRequest that names the field, nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.base.errors import InvalidRequest
from helexa.wire.checks import check_chat, check_completions, check_embeddings
from helexa.wire.translate import count_tokens_request, open_messages, open_responses, responses_count_request

from .shared import all_fixtures, counter, encode, nothing_stored

READERS: dict[str, Callable[[bytes], object]] = {
    "messages": lambda body: open_messages(body, ids=counter()),
    "count_tokens": count_tokens_request,
    "responses": lambda body: open_responses(body, ids=counter(), now=0, lookup=nothing_stored),
    "chat": check_chat,
    "completions": check_completions,
    "embeddings": check_embeddings,
}
WRONG: list[Any] = [None, True, 5, -1.5, "zzz", "", [], {}, [5], {"q": 1}]
BODIES = [(name, dialect, body) for name, dialect, body in all_fixtures() if name != "anthropic_thread"]
BODIES += [
    ("completion", "completions", {"model": "m", "prompt": ["a", [1, 2]], "stop": ["x"], "n": 2, "stream": True}),
    ("full messages", "messages", {
        "model": "m", "max_tokens": 9, "system": [{"type": "text", "text": "s"}], "stop_sequences": ["a"],
        "temperature": 1, "top_p": 0.5, "top_k": 3, "metadata": {"user_id": "u"}, "stream": False,
        "thinking": {"type": "enabled", "budget_tokens": 1024}, "mcp_servers": [], "container": None, "thread": None,
        "output_config": {"effort": "max", "format": {"type": "json_schema", "schema": {}}},
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "tools": [{"type": "bash_20250124", "name": "bash"}, {"name": "f", "input_schema": {}, "strict": True}],
        "messages": [{"role": "user", "content": [
            {"type": "document", "title": "t", "source": {"type": "text", "data": "d", "media_type": "text/plain"}},
            {"type": "search_result", "title": "t", "source": "s", "content": [{"type": "text", "text": "x"}]},
            {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
        ]}, {"role": "system", "clear_at": "never", "content": [
            {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": {
                "name": "g", "input_schema": {}, "defer_loading": False}}},
            {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "f"}},
        ]}],
    }),
    ("full responses", "responses", {
        "model": "m", "instructions": "i", "max_output_tokens": 9, "temperature": 1, "top_p": 1, "store": True,
        "metadata": {"k": "v"}, "parallel_tool_calls": False, "user": "u", "previous_response_id": None,
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}},
        "reasoning": {"effort": "low", "summary": "auto"}, "tool_choice": {"type": "function", "name": "f"},
        "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": None}],
        "input": [{"type": "additional_tools", "tools": [{"type": "function", "name": "g", "parameters": {}}]},
                  {"role": "user", "content": [{"type": "input_image", "image_url": "https://x/y", "detail": "low"}]},
                  {"type": "custom_tool_call", "call_id": "c", "name": "n", "input": "i"},
                  {"type": "custom_tool_call_output", "call_id": "c", "output": "o"}],
    }),
    ("full chat", "chat", {
        "model": "m", "n": 1, "stop": "x", "logit_bias": {"5": 1}, "seed": 1, "logprobs": True, "top_logprobs": 2,
        "stop_token_ids": [1], "repeat_last_n": -1, "dry_penalty_last_n": 64, "mirostat": 2, "typical_p": 1,
        "xtc_probability": 0, "xtc_threshold": 0.1, "reasoning_format": "none", "chat_template_kwargs": {"a": 1},
        "stream_options": {"include_usage": True}, "reasoning_effort": "low", "modalities": ["text"], "audio": None,
        "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}],
    }),
]  # fmt: skip


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if path and path[-1] in ("input_schema", "parameters", "schema", "logit_bias", "metadata"):
        return
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from paths_in(inner, (*path, key))


def replaced(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    body = copy.deepcopy(body)
    place = body
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return body


# Where one field contradicts another, the other one may be named.
_PARTNERS = {
    "tools": "tool_choice",
    "content": "tool_use_id",
    "type": "call_id",
    "call_id": "input",
    "name": "tool_choice",
}


def _refused_param(dialect: str, body: bytes) -> str | None:
    """The field a refusal names; None when the body was read. Anything but an InvalidRequest comes out as itself."""
    try:
        READERS[dialect](body)
    except InvalidRequest as error:
        return error.param or "nothing"
    return None


def _names(param: str, path: tuple[Any, ...]) -> bool:
    dotted = ".".join(map(str, path))
    if dotted.startswith(param) or param.startswith(dotted):
        return True
    return any(part in _PARTNERS for part in path) or path[0] in ("messages", "input")


@pytest.mark.parametrize(("name", "dialect", "body"), BODIES, ids=[name for name, _, _ in BODIES])
def test_every_field_mistyped_in_turn_is_read_or_refused_by_name(name: str, dialect: str, body: dict[str, Any]) -> None:
    READERS[dialect](encode(body))
    strictly_named = total = 0
    for path in paths_in(body):
        for wrong in WRONG:
            param = _refused_param(dialect, encode(replaced(body, path, wrong)))
            if param is None:
                continue
            total += 1
            assert _names(param, path), (path, wrong, param)
            dotted = ".".join(map(str, path))
            strictly_named += dotted.startswith(param) or param.startswith(dotted)
    assert total
    assert strictly_named / total > 0.9


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.sampled_from(sorted(READERS)), JSON | st.dictionaries(st.sampled_from(["model", "input", "messages"]), JSON))
def test_any_json_at_all_is_read_or_refused(dialect: str, document: Any) -> None:
    _refused_param(dialect, encode(document))


@given(st.sampled_from(sorted(READERS)), st.binary(max_size=50))
def test_any_bytes_at_all_are_read_or_refused(dialect: str, body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        READERS[dialect](body)


def test_invalid_utf8_hidden_in_a_skipped_value_is_refused_or_left_alone_but_never_a_crash() -> None:
    body = encode({"model": "m", "max_tokens": 5, "messages": [{"role": "assistant", "content": [
        {"type": "tool_use", "id": "t", "name": "n", "input": {"a": "QQ"}}]}]}).replace(b"QQ", b"\xff")  # fmt: skip
    with pytest.raises(InvalidRequest):
        open_messages(body, ids=counter())


@pytest.mark.parametrize("dialect", ["messages", "responses", "chat"])
def test_half_a_surrogate_pair_is_refused(dialect: str) -> None:
    body = b'{"model":"m","max_tokens":5,"%b":[{"role":"user","content":"\\ud800"}]}'
    with pytest.raises(InvalidRequest):
        READERS[dialect](body % (b"input" if dialect == "responses" else b"messages"))


def test_a_responses_count_reads_what_a_response_reads() -> None:
    body = encode({"model": "m", "input": "hi", "stream": True})
    assert b'"stream"' not in responses_count_request(body, lookup=nothing_stored)
