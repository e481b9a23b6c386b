"""Every field of every dialect mistyped in turn, over HTTP: 400 in the right envelope naming the field, never 500."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.wire.test_mistyped import BODIES, WRONG, paths_in, replaced

from .conftest import COLD, WARM, Edge

PATHS = {
    "messages": "/v1/messages",
    "responses": "/v1/responses",
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
}
FULL = [(dialect, body) for name, dialect, body in BODIES if name.startswith("full") or dialect == "completions"]


def named(path: str, document: dict[str, Any]) -> str:
    """The field that an error answer names; the envelope must be the dialect's."""
    if path.startswith("/v1/messages"):
        assert document["type"] == "error"
        assert document["request_id"]
        assert document["error"]["type"] == "invalid_request_error"
        return document["error"]["message"].partition(":")[0]
    assert set(document) == {"error"}
    assert document["error"]["type"] == "invalid_request_error"
    return document["error"]["param"] or ""


@pytest.mark.parametrize(("dialect", "body"), FULL, ids=[dialect for dialect, _ in FULL])
async def test_a_mistyped_field_is_refused_by_name_or_passes_and_nothing_fails(
    edge: Edge, dialect: str, body: dict[str, Any]
) -> None:
    body = {**body, "model": WARM}
    refused = 0
    for path in paths_in(body):
        for wrong in WRONG:
            answer = await edge.post(PATHS[dialect], json.dumps(replaced(body, path, wrong)).encode())
            assert answer.status_code in (200, 400, 404), (path, wrong, answer.text)
            if answer.status_code == 400:
                refused += 1
                field = named(PATHS[dialect], answer.json())
                assert field or path == ("model",), (path, wrong, answer.text)
    assert refused > 50


OUT_OF_RANGE = [
    ("temperature", "-0.1"),
    ("temperature", '"hot"'),
    ("temperature", "1e999"),
    ("top_p", "1.5"),
    ("max_tokens", "-5"),
    ("max_tokens", "0"),
    ("max_tokens", "1.5"),
    ("max_tokens", "99999999999999999999"),
    ("stream", '"yes"'),
    ("messages", "[]"),
    ("model", '""'),
]


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
@pytest.mark.parametrize(("field", "value"), OUT_OF_RANGE)
async def test_a_value_out_of_range_is_refused_by_name_and_wakes_no_cold_model(
    edge: Edge, path: str, field: str, value: str
) -> None:
    fields = {"model": f'"{COLD}"', "max_tokens": "5", "messages": '[{"role":"user","content":"x"}]', field: value}
    body = "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"
    answer = await edge.post(path, body.encode())
    assert answer.status_code == 400
    assert named(path, answer.json()) == field
    assert not edge.neuron.asked("/models/load")


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions", "/v1/responses", "/v1/embeddings"])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b'{"model":NaN}', b"\xff\xfe", b'{"model":"\xff"}'])
async def test_what_is_not_json_is_refused_in_the_dialects_envelope(edge: Edge, path: str, body: bytes) -> None:
    answer = await edge.post(path, body)
    assert answer.status_code == 400
    named(path, answer.json())
