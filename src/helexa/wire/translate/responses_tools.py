"""Tools of the Responses dialect: flat functions, and Codex's namespaces of them.

A namespaced tool is offered to the model as `namespace__name`, and a call to it goes back as `{namespace, name}`;
Codex answers "unsupported call" to every other spelling. What only the vendor can run is skipped: refusing it would
refuse Codex.
"""

from __future__ import annotations

from helexa.base.errors import InvalidRequest
from helexa.wire import intake
from helexa.wire import openai_responses as shapes
from helexa.wire.canon import Capabilities, Tool, ToolChoice


class Names:
    """Names as the model sees them, and back."""

    def __init__(self) -> None:
        self._flat: dict[tuple[str, str], str] = {}
        self._full: dict[str, tuple[str, str]] = {}
        self._plain: set[str] = set()

    def reserve(self, name: str) -> None:
        """A plain function's name, which no flattened one may take."""
        self._plain.add(name)

    def flat(self, namespace: str | None, name: str) -> str:
        """The one name the model sees; two different tools never get the same."""
        if not namespace:
            return name
        if known := self._flat.get((namespace, name)):
            return known
        flat = f"{namespace}__{name}"
        while flat in self._plain or flat in self._full:
            flat += "_"
        self._flat[namespace, name] = flat
        self._full[flat] = (namespace, name)
        return flat

    def full(self, flat: str) -> tuple[str | None, str]:
        """`(namespace, name)` as the client knows it."""
        return self._full.get(flat, (None, flat))


def read_tools(
    tools: list[tuple[str, shapes.Tool]], names: Names, can: Capabilities, notices: set[str]
) -> tuple[Tool, ...]:
    """The functions among `tools`, each with where it stands, namespaces flattened; what was skipped is added to
    `notices`."""
    for _, tool in tools:
        if tool.type == "function" and tool.name:
            names.reserve(tool.name)
    out: list[Tool] = []
    for at, tool in tools:
        if tool.type == "function":
            out.append(_function(tool, None, names, at))
        elif tool.type == "namespace":
            out += _namespace(tool, names, at, notices)
        elif can.hosted_tools == "refuse":
            raise intake.refuse(f"{at}.type", f"this server does not run tools of type '{tool.type}'")
        else:
            notices.add(f"{at}.type")
    return tuple(out)


def _namespace(tool: shapes.Tool, names: Names, at: str, notices: set[str]) -> list[Tool]:
    if not tool.name:
        raise intake.refuse(f"{at}.name", "Field required")
    out: list[Tool] = []
    for index, inner in enumerate(tool.tools or ()):
        here = f"{at}.tools.{index}"
        if inner.type == "function":
            out.append(_function(inner, tool.name, names, here))
        else:
            notices.add(f"{here}.type")
    return out


def _function(tool: shapes.Tool, namespace: str | None, names: Names, at: str) -> Tool:
    if not tool.name:
        raise intake.refuse(f"{at}.name", "Field required")
    schema = intake.an_object(tool.parameters, f"{at}.parameters") if intake.given(tool.parameters) else None
    return Tool(names.flat(namespace, tool.name), tool.description, schema, tool.strict)


def read_choice(
    choice: str | shapes.Choice | None, tools: tuple[Tool, ...], names: Names
) -> tuple[tuple[Tool, ...], ToolChoice | None]:
    """The tools that may be used, and how. A choice that names what cannot be offered is refused."""
    if choice is None:
        return tools, None
    if isinstance(choice, str):
        return tools, _mode(choice, tools, "tool_choice")
    if choice.type == "allowed_tools":
        allowed = {tool.name for tool in choice.tools or ()}
        kept = tuple(tool for tool in tools if names.full(tool.name)[1] in allowed)
        return kept, _mode(choice.mode or "auto", kept, "tool_choice.mode")
    if choice.type != "function":
        raise intake.refuse("tool_choice.type", f"this server does not run tools of type '{choice.type}'")
    if not choice.name:
        raise intake.refuse("tool_choice.name", "Field required")
    return tools, _named(names.flat(choice.namespace, choice.name), tools)


def _mode(mode: str, tools: tuple[Tool, ...], at: str) -> ToolChoice | None:
    match mode:
        case "auto" | "none":
            return ToolChoice(mode) if tools else None
        case "required":
            if not tools:
                raise intake.refuse(at, "there is no tool this server can offer")
            return ToolChoice(mode)
        case _:
            raise intake.refuse(at, f"must be auto, none or required, not '{mode}'")


def _named(name: str, tools: tuple[Tool, ...]) -> ToolChoice:
    if all(tool.name != name for tool in tools):
        raise _absent(name)
    return ToolChoice("tool", name)


def _absent(name: str) -> InvalidRequest:
    return intake.refuse("tool_choice.name", f"the tool '{name}' is not among the tools this server can offer")
