"""What is read of a pass-through request, and the one value that may change in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.base.errors import InvalidRequest
from helexa.wire.peek import PREFIX_BYTES, peek, prefix_of, rewrite_model

KEYS = st.sampled_from(
    ['"model"', '"mod\\u0065l"', '"\\u006dodel"', '"models"', '"Model"', '"a\\"model"', '"x"', '"{"']
)
SPACES = st.text(" \t\r\n", max_size=2)
STRINGS = st.one_of(
    st.text(max_size=6).filter(lambda text: text.isprintable()).map(json.dumps),
    st.sampled_from(['"\\\\"', '"\\""', '"}"', '"[{"', '"model"', '"\\"model\\":\\"x\\""']),
)
SCALARS = st.one_of(STRINGS, st.sampled_from(["null", "true", "1.50", "-2e3"]))


@st.composite
def _objects(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    members = draw(st.lists(st.tuples(KEYS, values), max_size=4))
    return (
        "{" + ",".join(f"{draw(SPACES)}{key}{draw(SPACES)}:{draw(SPACES)}{v}{draw(SPACES)}" for key, v in members) + "}"
    )


VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(_objects(inner), st.lists(inner, max_size=3).map(lambda vs: "[" + " , ".join(vs) + "]")),
    max_leaves=8,
)


@given(st.one_of(_objects(VALUES), VALUES), SPACES)
def test_only_the_value_of_the_top_level_model_changes(document: str, space: str) -> None:
    body = (space + document + space).encode()
    after = rewrite_model(body, "new/ü")
    assert _pairs(after) == _renamed(_pairs(body))
    # Undoing the change by position gives the old bytes back: nothing else moved.
    assert _without_model_values(after) == _without_model_values(body)


class _Pairs(list[Any]):
    """An object with its duplicates."""


def _pairs(body: bytes) -> Any:
    return json.loads(body, object_pairs_hook=_Pairs, parse_float=lambda text: ("number", text))


def _renamed(document: Any) -> Any:
    if not isinstance(document, _Pairs):
        return document
    return _Pairs((key, "new/ü" if key == "model" and isinstance(value, str) else value) for key, value in document)


def _without_model_values(body: bytes) -> str:
    """The text with every string value of a top-level model key cut out, by a plain scan."""
    text, out, depth, position = body.decode(), [], 0, 0
    decoder = json.JSONDecoder()
    cut_next = False
    while position < len(text):
        sign = text[position]
        if sign == '"':
            value, end = decoder.raw_decode(text, position)
            rest = text[end:].lstrip()
            if depth == 1 and rest.startswith(":") and value == "model":
                cut_next = True
            elif cut_next:
                position, cut_next = end, False
                continue
            out.append(text[position:end])
            position = end
            continue
        depth += (sign in "{[") - (sign in "}]")
        cut_next = cut_next and (sign in ": \t\r\n")
        out.append(sign)
        position += 1
    return "".join(out)


@pytest.mark.parametrize(
    ("body", "after"),
    [
        (b'{"model":"a"}', b'{"model":"N"}'),
        (b' {\n "x" : {"model":"keep"}, "model" :\t"a" , "y":[{"model":"keep"}]}', None),
        (b'{"model":"a","model":"b"}', b'{"model":"N","model":"N"}'),
        (b'{"model":5}', b'{"model":5}'),
        (b'{"prompt":"\\"model\\":\\"x\\""}', b'{"prompt":"\\"model\\":\\"x\\""}'),
        (b'["model"]', b'["model"]'),
        (b"", b""),
        (b'"model" x', b'"model" x'),
    ],
)
def test_a_model_is_rewritten_in_place(body: bytes, after: bytes | None) -> None:
    expected = after if after is not None else body.replace(b'"a"', b'"N"')
    assert rewrite_model(body, "N") == expected


def test_a_peek_reads_model_and_stream_and_nothing_else() -> None:
    found = peek(b'{"messages":7,"model":"m","stream":true}')
    assert (found.model, found.stream) == ("m", True)
    assert peek(b'{"model":"m","stream":null}').stream is None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{}", "model"),
        (b'{"model":""}', "model"),
        (b'{"model":3}', "model"),
        (b'{"model":"m","stream":"yes"}', "stream"),
        (b"[]", None),
        (b"", None),
        (b"{", None),
        (b'{"model":"\xff"}', None),
        (b'{"model":"m","x":' + b"[" * 100_000, None),
    ],
)
def test_a_peek_names_what_is_wrong(body: bytes, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        peek(body)
    assert caught.value.param == param


def conversation(*turns: str, key: str = "messages") -> bytes:
    return json.dumps({"model": "m", key: [{"role": "user", "content": text} for text in turns]}).encode()


def test_a_conversation_that_goes_on_keeps_the_prefix_that_it_began_with() -> None:
    long = "once upon a time " * 50
    first, second = conversation(long), conversation(long, "and then?")
    assert prefix_of(first, "/v1/chat/completions") == prefix_of(second, "/v1/chat/completions") is not None
    assert prefix_of(conversation("x" + long), "/v1/chat/completions") != prefix_of(first, "/v1/chat/completions")
    assert len(prefix_of(first, "/v1/chat/completions") or "") == PREFIX_BYTES


@pytest.mark.parametrize(
    ("body", "endpoint"),
    [
        pytest.param(conversation("hi"), "/v1/chat/completions", id="short"),
        pytest.param(conversation("x" * 999), "/v1/embeddings", id="an endpoint without a prompt"),
        pytest.param(conversation("x" * 999, key="prompts"), "/v1/completions", id="no prompt in it"),
        pytest.param(b"x" * 2000 + conversation("x" * 999), "/v1/chat/completions", id="its key comes late"),
    ],
)
def test_what_has_no_long_prompt_at_its_beginning_has_no_prefix(body: bytes, endpoint: str) -> None:
    assert prefix_of(body, endpoint) is None
