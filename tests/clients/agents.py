"""How each agent is told of the gateway: its own configuration, as docs/clients.md shows it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from tests.clients.stage import AIDER, CLAUDE, CLIENTS, NODE, OPENCODE, PI, SDK, Run, Stage

APIS = {"chat": "openai-completions", "responses": "openai-responses", "messages": "anthropic-messages"}
PACKAGES = {"chat": "@ai-sdk/openai-compatible", "responses": "@ai-sdk/openai", "messages": "@ai-sdk/anthropic"}
TOOLS = """
def look(at: str) -> str:
    "What is to be seen there."
    return f"The {at} is blue."

def wait() -> str:
    "Let a moment pass."
    return "A moment has passed."
"""


async def opencode(stage: Stage, dialect: str, task: str, model: str, prompt: str) -> Run:
    """`opencode run`, with an opencode.json in the folder that it works in."""
    provider = {
        "npm": PACKAGES[dialect],
        "options": {"baseURL": f"{stage.address}/v1", "apiKey": "none"},
        "models": {model: {"tool_call": True, "reasoning": True, "limit": {"context": 8192, "output": 1024}}},
    }
    settings = {
        "model": f"cortex/{model}",
        "small_model": f"cortex/{model}",
        "provider": {"cortex": provider},
        "permission": {"*": "allow"},
        "autoupdate": False,
    }
    (stage.work / "opencode.json").write_text(json.dumps(settings))
    return await stage.run("opencode", dialect, task, OPENCODE, "run", prompt, OPENCODE_DISABLE_MODELS_FETCH="1")


async def claude(stage: Stage, task: str, model: str, prompt: str, *more: str) -> Run:
    """`claude -p`, told everything by its environment."""
    return await stage.run(
        "claude code",
        "messages",
        task,
        *(CLAUDE, "--model", model, "--permission-mode", "acceptEdits", *more, "-p", prompt),
        ANTHROPIC_BASE_URL=stage.address,
        ANTHROPIC_AUTH_TOKEN="none",
        CLAUDE_CODE_MAX_CONTEXT_TOKENS="32768",
        CLAUDE_CODE_MAX_OUTPUT_TOKENS="8192",
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
    )


async def pi(stage: Stage, dialect: str, task: str, model: str, prompt: str, *more: str, output: int = 1024) -> Run:
    """`pi -p`, with a models.json in its home, and a reserve that leaves room in a small window."""
    provider = {
        "baseUrl": stage.address if dialect == "messages" else f"{stage.address}/v1",
        "api": APIS[dialect],
        "apiKey": "none",
        "models": [{"id": model, "reasoning": True, "contextWindow": 8192, "maxTokens": output}],
    }
    folder = stage.home / ".pi" / "agent"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "models.json").write_text(json.dumps({"providers": {"cortex": provider}}))
    (folder / "settings.json").write_text(json.dumps({"compaction": {"reserveTokens": 1024}}))
    command = (NODE, PI, "--provider", "cortex", "--model", model, *more, "-p", prompt)
    return await stage.run("pi", dialect, task, *command, PI_OFFLINE="1")


async def aider(stage: Stage, task: str, model: str, messages: Sequence[str], *files: str) -> Run:
    """An aider session, which has no tools: the model's edits are text. Its settings are the docs' own."""
    (settings,) = re.findall(r"```yaml\n(- name: openai/MODEL\n.*?)```", CLIENTS.read_text(), re.DOTALL)
    (stage.work / ".aider.model.settings.yml").write_text(settings.replace("MODEL", model))
    return await stage.run(
        "aider",
        "chat",
        task,
        AIDER,
        *("--model", f"openai/{model}", "--no-git", "--map-tokens", "0", "--yes-always"),
        *("--no-pretty", "--no-check-update", "--no-show-model-warnings", "--no-show-release-notes"),
        *("--analytics-disable", "--no-fancy-input"),
        *files,
        typed="".join(f"{message}\n" for message in messages),
        OPENAI_API_BASE=f"{stage.address}/v1",
        OPENAI_API_KEY="none",
    )


async def llm(stage: Stage, dialect: str, task: str, model: str, prompt: str) -> Run:
    """`llm`, with an extra-openai-models.yaml in its folder and two functions as tools."""
    folder = stage.home / "llm"
    folder.mkdir()
    (folder / "extra-openai-models.yaml").write_text(
        f"- model_id: cortex\n  model_name: {model}\n  api_base: {stage.address}/v1\n"
        f"  supports_tools: true\n  supports_schema: true\n  responses: {str(dialect == 'responses').lower()}\n"
    )
    (stage.work / "tools.py").write_text(TOOLS)
    command = (SDK / "llm", "-m", "cortex", "--functions", "tools.py", "--hide-reasoning", prompt)
    return await stage.run("llm", dialect, task, *command, LLM_USER_PATH=str(folder))
