"""The event grammars of the Messages and Responses streams, written from the contract and not from the translators.

Each checker takes the bytes a client would get, asserts that they are a sentence of the grammar, and returns what a
client would have put together from them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


def frames(stream: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Named events with their JSON; comments are skipped. Every frame must be whole."""
    assert stream == b"" or stream.endswith(b"\n\n")
    out: list[tuple[str, dict[str, Any]]] = []
    for block in stream.decode().split("\n\n")[:-1]:
        lines = block.split("\n")
        if all(line.startswith(":") for line in lines):
            continue
        assert len(lines) == 2, block
        assert lines[0].startswith("event: "), block
        assert lines[1].startswith("data: "), block
        out.append((lines[0][7:], json.loads(lines[1][6:])))
    return out


@dataclass
class Heard:
    """What a client put together."""

    thoughts: str = ""
    text: str = ""
    calls: list[tuple[str, str, str]] = field(default_factory=list)  # id, name, arguments
    blocks: list[str] = field(default_factory=list)
    ending: str = ""
    final: dict[str, Any] = field(default_factory=dict)
    start: dict[str, Any] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return self.ending not in ("error", "response.failed", "")


_DELTAS = {"text": ("text_delta", "text"), "thinking": ("thinking_delta", "thinking")}


def messages_grammar(stream: bytes) -> Heard:
    """message_start ping* (block_start delta* block_stop)* (message_delta message_stop | error)."""
    heard = Heard()
    events = frames(stream)
    for name, data in events:
        assert data["type"] == name
    names = [name for name, _ in events]
    if names == ["error"]:
        heard.ending, heard.final = "error", events[0][1]
        return heard
    assert names[0] == "message_start"
    assert names.count("message_start") == 1
    message = events[0][1]["message"]
    assert message["content"] == []
    assert message["stop_reason"] is None
    assert message["role"] == "assistant"
    heard.start = message
    rest = [(name, data) for name, data in events[1:] if name != "ping"]
    index = 0
    while rest and rest[0][0] == "content_block_start":
        rest = _block(rest, index, heard)
        index += 1
    _messages_ending(rest, heard)
    return heard


def _block(rest: list[tuple[str, dict[str, Any]]], index: int, heard: Heard) -> list[tuple[str, dict[str, Any]]]:
    block = rest[0][1]["content_block"]
    assert rest[0][1]["index"] == index
    kind, pieces, at = block["type"], [], 1
    signed = False
    while at < len(rest) and rest[at][0] == "content_block_delta":
        assert rest[at][1]["index"] == index
        delta = rest[at][1]["delta"]
        assert not signed
        if delta["type"] == "signature_delta":
            assert kind == "thinking"
            signed = True
        elif kind == "tool_use":
            assert delta["type"] == "input_json_delta"
            pieces.append(delta["partial_json"])
        else:
            assert delta["type"] == _DELTAS[kind][0]
            pieces.append(delta[_DELTAS[kind][1]])
        assert signed or pieces[-1] != ""
        at += 1
    if at == len(rest) or rest[at][0] == "error":
        assert at < len(rest), "a block was left open and nothing said why"
        _keep(kind, block, "".join(pieces), heard)
        return rest[at:]
    assert rest[at] == ("content_block_stop", {"type": "content_block_stop", "index": index})
    assert signed == (kind == "thinking")
    _keep(kind, block, "".join(pieces), heard)
    return rest[at + 1 :]


def _keep(kind: str, block: dict[str, Any], said: str, heard: Heard) -> None:
    heard.blocks.append(kind)
    if kind == "text":
        assert block["text"] == ""
        heard.text += said
    elif kind == "thinking":
        assert block["thinking"] == ""
        heard.thoughts += said
    else:
        assert kind == "tool_use"
        assert block["input"] == {}
        assert block["id"]
        heard.calls.append((block["id"], block["name"], said))


def _messages_ending(rest: list[tuple[str, dict[str, Any]]], heard: Heard) -> None:
    names = [name for name, _ in rest]
    if names == ["error"]:
        heard.ending, heard.final = "error", rest[0][1]
        return
    assert names == ["message_delta", "message_stop"]
    heard.ending, heard.final = "message_stop", rest[0][1]
    assert set(heard.final["usage"]) >= {
        "input_tokens",
        "output_tokens",
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
    }
    assert heard.final["usage"]["output_tokens"] >= 1
    assert heard.final["delta"]["stop_reason"]


_PARTS = {
    "response.output_text": ("text", "output_text"),
    "response.refusal": ("refusal", "refusal"),
    "response.reasoning_text": ("text", "reasoning_text"),
    "response.reasoning_summary_text": ("text", "summary_text"),
    "response.function_call_arguments": ("arguments", ""),
}


def responses_grammar(stream: bytes) -> Heard:
    """created (queued|in_progress)* (added item-events done)* (completed|incomplete|failed)."""
    heard = Heard()
    events = frames(stream)
    for number, (name, data) in enumerate(events):
        assert data["type"] == name
        assert data["sequence_number"] == number
    assert events[0][0] == "response.created"
    heard.start = events[0][1]["response"]
    assert heard.start["status"] == "in_progress"
    assert heard.start["output"] == []
    rest = events[1:]
    while rest[0][0] in ("response.queued", "response.in_progress"):
        assert rest[0][1]["response"]["id"] == heard.start["id"]
        rest = rest[1:]
    items: list[dict[str, Any]] = []
    while rest and rest[0][0] == "response.output_item.added":
        rest = _item(rest, items)
    assert len(rest) == 1, [name for name, _ in rest]
    heard.ending, heard.final = rest[0][0], rest[0][1]["response"]
    assert heard.ending == f"response.{heard.final['status']}"
    assert heard.final["id"] == heard.start["id"]
    assert heard.final["output"] == items
    if heard.complete:
        assert heard.final["usage"]["total_tokens"] >= 0
        assert heard.final["error"] is None
    else:
        assert heard.ending == "response.failed"
        assert heard.final["error"]["code"]
    for item in items:
        _keep_item(item, heard)
    return heard


def _item(rest: list[tuple[str, dict[str, Any]]], items: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    index = len(items)
    added = rest[0][1]
    assert added["output_index"] == index
    assert added["item"]["status"] == "in_progress"
    pieces: list[str] = []
    said = None
    for at, (name, data) in enumerate(rest[1:], 1):
        if name == "response.failed":
            return rest[at:]
        assert data["output_index"] == index
        if name == "response.output_item.done":
            item = data["item"]
            assert item["id"] == added["item"]["id"]
            assert item["status"] in ("completed", "incomplete")
            assert said is not None
            assert _said(item) == said
            items.append(item)
            return rest[at + 1 :]
        assert data["item_id"] == added["item"]["id"]
        family, _, step = name.rpartition(".")
        if family in ("response.content_part", "response.reasoning_summary_part"):
            assert step in ("added", "done")
            assert (said is None) == (step == "added")
            continue
        key, _ = _PARTS[family]
        if step == "delta":
            assert data["delta"]
            pieces.append(data["delta"])
        else:
            assert step == "done"
            said = data[key]
            assert said == "".join(pieces)
    raise AssertionError("an item was left open and nothing said why")


def _said(item: dict[str, Any]) -> str:
    if item["type"] == "function_call":
        return item["arguments"]
    parts = item["content"] or item.get("summary") or []
    return "".join(part.get("text", part.get("refusal")) for part in parts)


def _keep_item(item: dict[str, Any], heard: Heard) -> None:
    heard.blocks.append(item["type"])
    if item["type"] == "function_call":
        assert item["call_id"]
        heard.calls.append((item["call_id"], item["name"], item["arguments"]))
    elif item["type"] == "reasoning":
        heard.thoughts += _said(item)
    else:
        heard.text += _said(item)
