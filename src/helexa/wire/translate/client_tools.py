"""Schemas of the typed tools that the client runs itself: Anthropic's models know them by name, others must be told."""

from __future__ import annotations

import msgspec

from helexa.wire.canon import Tool


def _tool(name: str, description: str, required: list[str], **properties: object) -> Tool:
    schema = {"type": "object", "properties": properties, "required": required}
    return Tool(name, description, msgspec.Raw(msgspec.json.encode(schema)))


def _text(description: str) -> dict[str, str]:
    return {"type": "string", "description": description}


_INSERT_LINE = {"type": "integer", "description": "Line after which to insert; 0 is the start of the file"}
_RANGE = {"type": "array", "items": {"type": "integer"}, "description": "First and last line; -1 is the last line"}

_BASH = _tool(
    "bash",
    "Run a command in a persistent bash session.",
    [],
    command=_text("The command to run; required unless restarting"),
    restart={"type": "boolean", "description": "Start a new session instead"},
)

_EDITOR = _tool(
    "str_replace_based_edit_tool",
    "View, create and edit text files.",
    ["command", "path"],
    command={"type": "string", "enum": ["view", "create", "str_replace", "insert"]},
    path=_text("Absolute path of a file or folder"),
    file_text=_text("Content of the file to create"),
    old_str=_text("Text to replace; must occur exactly once"),
    new_str=_text("Text to put in its place"),
    insert_line=_INSERT_LINE,
    insert_text=_text("Text to insert"),
    view_range=_RANGE,
)

_MEMORY = _tool(
    "memory",
    "Read and write notes below /memories.",
    ["command"],
    command={"type": "string", "enum": ["view", "create", "str_replace", "insert", "delete", "rename"]},
    path=_text("Path below /memories"),
    file_text=_text("Content of the file to create"),
    old_str=_text("Text to replace; must occur exactly once"),
    new_str=_text("Text to put in its place"),
    insert_line=_INSERT_LINE,
    insert_text=_text("Text to insert"),
    old_path=_text("Path to rename"),
    new_path=_text("New path"),
    view_range=_RANGE,
)

CLIENT_TOOLS = {"bash": _BASH, "text_editor": _EDITOR, "memory": _MEMORY}
"""By the tool's type without its date."""
