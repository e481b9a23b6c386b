"""The properties of the fuzzer, asked by hypothesis in every run of the suite."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.shared import all_fixtures
from tests.wire.test_mistyped import BODIES, JSON, WRONG, paths_in, replaced

from .properties import PROPERTIES

REAL = [body for _, _, body in all_fixtures()] + [body for _, _, body in BODIES]
NAMES = sorted(PROPERTIES)


@st.composite
def nearly_real(draw: st.DrawFn) -> bytes:
    """A real client's request with one value replaced and one byte damaged, or not."""
    body: Any = draw(st.sampled_from(REAL))
    if draw(st.booleans()):
        body = replaced(body, draw(st.sampled_from(list(paths_in(body)))), draw(st.sampled_from(WRONG) | JSON))
    raw = json.dumps(body, ensure_ascii=draw(st.booleans())).encode()
    at = draw(st.integers(0, len(raw)))
    return raw[:at] + draw(st.sampled_from([b"", b"", b"\\", b'"', b"}", b",", b"\xff", b"1", b"\0"])) + raw[at:]


@pytest.mark.parametrize("name", NAMES)
@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_it_holds_for_any_bytes(name: str, data: bytes) -> None:
    PROPERTIES[name](data)


@pytest.mark.parametrize("name", ["checked", "messages", "responses", "rewritten"])
@given(nearly_real())
@settings(max_examples=100, deadline=None)
def test_it_holds_for_what_is_nearly_a_request(name: str, data: bytes) -> None:
    PROPERTIES[name](data)
