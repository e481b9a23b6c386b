"""Mapping A, second half: the inner form as the chat-completions request a neuron gets.

The same conversation must give the same bytes next time, or the engine's prefix cache is lost: text is joined one
way whether the client sent a string or blocks, and nothing here depends on anything but the `Ask`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from helexa.wire import openai_chat as shapes
from helexa.wire.canon import Ask, ImagePart, TextPart, ThoughtPart, Tool, ToolCall, Turn
from helexa.wire.translate.turns import joined

FAILED = "[tool error] "

_ENCODER = msgspec.json.Encoder()
_WITH_USAGE = shapes.StreamOptions(include_usage=True)


def write_chat_request(ask: Ask) -> bytes:
    """The body for `POST /v1/chat/completions`; a streamed one always asks for usage."""
    return _ENCODER.encode(chat_request(ask))


def chat_request(ask: Ask) -> shapes.RequestOut:
    """The same, before it is bytes."""
    sampling, prefill = ask.sampling, bool(ask.turns) and ask.turns[-1].role == "assistant"
    return shapes.RequestOut(
        model=ask.model,
        messages=_messages(ask),
        tools=[_tool(tool) for tool in ask.tools] or None,
        tool_choice=_choice(ask),
        parallel_tool_calls=None if ask.parallel or not ask.tools else False,
        response_format=_format(ask),
        max_tokens=sampling.max_tokens,
        stop=list(sampling.stop) or None,
        verbose=True if sampling.stop else None,  # llama.cpp says which of them it met in its details alone
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        reasoning_effort=ask.thinking.effort,
        thinking_budget_tokens=ask.thinking.budget_tokens,
        chat_template_kwargs=_template_options(ask, prefill=prefill),
        add_generation_prompt=False if prefill else None,
        continue_final_message=True if prefill else None,
        user=ask.user,
        stream=True if ask.stream else None,
        stream_options=_WITH_USAGE if ask.stream else None,
    )


def _template_options(ask: Ask, *, prefill: bool) -> shapes.TemplateOptions | None:
    # A prefilled answer has begun, so there is no room left for a thought before it.
    on = False if prefill else ask.thinking.on
    return None if on is None else shapes.TemplateOptions(enable_thinking=on)


def _messages(ask: Ask) -> list[shapes.MessageOut]:
    out = [shapes.MessageOut("system", ask.system)] if ask.system else []
    for turn in ask.turns:
        if turn.role == "assistant":
            out.append(_assistant(turn))
        elif turn.role == "system":
            out.append(shapes.MessageOut("system", joined(turn.parts, "\n\n")))
        else:
            out += _user(turn)
    if ask.turns and ask.turns[-1].role == "assistant":
        out[-1] = _continued(out[-1])
    return out


def _continued(message: shapes.MessageOut) -> shapes.MessageOut:
    """A prefill: models that continue after trailing space start their next word wrongly."""
    content = message.content
    trimmed = content.rstrip() if isinstance(content, str) else content
    return msgspec.structs.replace(message, content=trimmed)


def _assistant(turn: Turn) -> shapes.MessageOut:
    # Joined without glue: these are the pieces of what one generation wrote.
    thought = "".join(part.text for part in turn.parts if isinstance(part, ThoughtPart))
    calls = [_call(part) for part in turn.parts if isinstance(part, ToolCall)]
    return shapes.MessageOut("assistant", joined(turn.parts, ""), thought or None, calls or None)


def _call(call: ToolCall) -> shapes.CallOut:
    return shapes.CallOut(call.id, shapes.FunctionOut(call.name, call.arguments))


def _user(turn: Turn) -> Iterable[shapes.MessageOut]:
    """Tool messages come before the words of the same turn; the images of results come with the words."""
    results = turn.results
    for result in results:
        text = f"{FAILED}{result.text}" if result.failed else result.text
        yield shapes.MessageOut("tool", text, tool_call_id=result.call_id)
    images = [image for result in results for image in result.images]
    said = [part for part in turn.parts if isinstance(part, TextPart | ImagePart)]
    if images or said or not results:
        yield shapes.MessageOut("user", _content([*images, *said]))


def _content(parts: list[TextPart | ImagePart]) -> str | list[shapes.TextOut | shapes.ImageOut]:
    """One string if there is only text. Neighbouring texts are one text, so a part more or less changes no bytes."""
    out: list[shapes.TextOut | shapes.ImageOut] = []
    texts: list[str] = []
    for part in parts:
        if isinstance(part, TextPart):
            texts.append(part.text)
        else:
            _flush(texts, out)
            out.append(shapes.ImageOut(shapes.ImageUrl(part.url, part.detail)))
    if not out:
        return "\n\n".join(texts)
    _flush(texts, out)
    return out


def _flush(texts: list[str], out: list[shapes.TextOut | shapes.ImageOut]) -> None:
    if texts:
        out.append(shapes.TextOut("\n\n".join(texts)))
        texts.clear()


def _tool(tool: Tool) -> shapes.ToolOut:
    return shapes.ToolOut(shapes.FunctionToolOut(tool.name, tool.description, tool.schema, tool.strict))


def _choice(ask: Ask) -> str | shapes.ChoiceOut | None:
    if ask.choice is None:
        return None
    if ask.choice.name is not None:
        return shapes.ChoiceOut(shapes.NamedFunction(ask.choice.name))
    return ask.choice.mode


def _format(ask: Ask) -> shapes.ResponseFormat | None:
    wanted = ask.format
    if wanted is None:
        return None
    if wanted.schema is None:
        return shapes.ResponseFormat("json_object")
    return shapes.ResponseFormat("json_schema", shapes.JsonSchema(wanted.name, wanted.schema, wanted.strict))
