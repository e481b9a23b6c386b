"""A request written in a dialect and read back is the same request, but for the losses that are written down here."""

from __future__ import annotations

import dataclasses

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from helexa.wire.canon import (
    Ask,
    Capabilities,
    Format,
    ImagePart,
    Part,
    Sampling,
    TextPart,
    Thinking,
    ThoughtPart,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from helexa.wire.translate.chat_request import write_chat_request
from helexa.wire.translate.chat_request_in import read_chat
from helexa.wire.translate.messages_request import read_messages
from helexa.wire.translate.messages_request_out import write_messages_request

ANY = Capabilities()

LOSSES_IN_CHAT = {
    "text-glue": "Neighbouring texts of one turn become one text: by a blank line in a user's turn, by nothing in an "
    "assistant's, by a line end in a result.",
    "assistant-order": "In an assistant's turn thoughts come first, then text, then calls, whatever their order was.",
    "result-images": "Images of tool results move to the user's words that follow.",
    "result-failed": "That a tool failed becomes the words in front of its result.",
    "prefill": "A turn to be continued loses its trailing space.",
    "budget": "A thinking budget and the switch for thinking are the engine's own fields, which no chat client sends.",
    "tools-without-parallel": "Whether calls may be parallel is not said when there are no tools.",
}
LOSSES_IN_MESSAGES = {
    "thoughts": "Thoughts are dropped: without their writer's signature they are refused.",
    "image-detail": "The detail wanted of an image has no place.",
    "format-name": "The name of a schema has no place, and a schema is always strict.",
    "default-limit": "A limit must be there, so an absent one becomes the model's.",
    "schema": "A tool without a schema gets the one of an object without properties.",
    "strict": "A tool that says it is not strict says nothing.",
    "switch-on": "Thinking that is switched on without a budget is left to the model, a budget switches it on, and "
    "an effort beside thinking that is switched off is not said.",
    "budget": "A budget beside no thinking is not said.",
}

WORDS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=6)
TEXTS = st.builds(TextPart, WORDS)
IMAGES = st.builds(
    ImagePart, st.sampled_from(["data:image/png;base64,AAAA", "https://x/y.png"]), st.none() | st.just("low")
)
SCHEMAS = st.sampled_from([b'{"type":"object"}', b'{"type":"object","properties":{"a":{}}}']).map(msgspec.Raw)
ARGUMENTS = st.sampled_from(["{}", '{"a":1}', '{"a":{"b":"c"}}'])


@st.composite
def asks(draw: st.DrawFn) -> Ask:
    turns: list[Turn] = []
    results: list[ToolResult] = []
    for number in range(draw(st.integers(1, 4))):
        words: list[Part] = list(draw(st.lists(TEXTS | IMAGES, min_size=0 if results else 1, max_size=3)))
        turns.append(Turn("user", (*results, *words)))
        calls = [ToolCall(f"call_{number}_{n}", draw(WORDS), draw(ARGUMENTS)) for n in range(draw(st.integers(0, 2)))]
        said: list[Part] = list(draw(st.lists(TEXTS | st.builds(ThoughtPart, WORDS), min_size=1, max_size=3)))
        turns.append(Turn("assistant", tuple(draw(st.permutations([*said, *calls])))))
        calls_in_order = turns[-1].calls
        result_parts = st.lists(TEXTS | IMAGES, max_size=2).map(tuple)
        results = [ToolResult(call.id, draw(result_parts), draw(st.booleans())) for call in calls_in_order]
    if results or draw(st.booleans()):
        turns.append(Turn("user", (*results, TextPart("end"))))
    tools = draw(st.lists(st.builds(Tool, WORDS, st.none() | WORDS, st.none() | SCHEMAS, st.none() | st.booleans()),
                          max_size=2, unique_by=lambda tool: tool.name))  # fmt: skip
    choices = [
        ToolChoice("auto"),
        ToolChoice("none"),
        ToolChoice("required"),
        *(ToolChoice("tool", t.name) for t in tools),
    ]
    return Ask(
        model="m",
        system=draw(st.just("") | WORDS),
        turns=tuple(turns),
        tools=tuple(tools),
        choice=draw(st.none() | st.sampled_from(choices)) if tools else None,
        parallel=draw(st.booleans()),
        sampling=Sampling(
            max_tokens=draw(st.none() | st.integers(1, 99)),
            temperature=draw(st.none() | st.sampled_from([0.0, 0.5, 1.0])),
            top_p=draw(st.none() | st.just(0.5)),
            top_k=draw(st.none() | st.just(7)),
            stop=tuple(draw(st.lists(WORDS, max_size=2))),
        ),
        format=draw(st.none() | st.builds(Format, SCHEMAS, WORDS, st.none() | st.booleans())),
        thinking=draw(
            st.builds(
                Thinking,
                st.none() | st.booleans(),
                st.none() | st.just(2048),
                st.none() | st.sampled_from(["low", "high"]),
            )
        ),
        user=draw(st.none() | WORDS),
        stream=draw(st.booleans()),
    )


def _glued(parts: list[Part], glue: str) -> list[Part]:
    out: list[Part] = []
    for part in parts:
        if out and isinstance(part, TextPart) and isinstance(last := out[-1], TextPart):
            out[-1] = TextPart(last.text + glue + part.text)
        else:
            out.append(part)
    return out


def _after_chat(ask: Ask) -> Ask:
    turns = [_user_after_chat(turn) if turn.role == "user" else _assistant_after_chat(turn) for turn in ask.turns]
    if turns[-1].role == "assistant":
        *rest, last = turns[-1].parts
        trimmed = TextPart(last.text.rstrip()) if isinstance(last, TextPart) else last
        turns[-1] = Turn("assistant", (*rest, trimmed))
    return dataclasses.replace(
        ask,
        turns=tuple(turn for turn in turns if turn.parts),
        thinking=Thinking(effort=ask.thinking.effort),
        parallel=ask.parallel or not ask.tools,
    )


def _user_after_chat(turn: Turn) -> Turn:
    results, images = [], []
    for result in turn.results:
        text = ("[tool error] " if result.failed else "") + result.text
        results.append(ToolResult(result.call_id, (TextPart(text),) if text else ()))
        images += result.images
    words = [part for part in turn.parts if not isinstance(part, ToolResult)]
    return Turn("user", (*results, *_glued([*images, *words], "\n\n")))


def _assistant_after_chat(turn: Turn) -> Turn:
    thought = "".join(part.text for part in turn.parts if isinstance(part, ThoughtPart))
    text = "".join(part.text for part in turn.parts if isinstance(part, TextPart))
    parts: list[Part] = [ThoughtPart(thought)] if thought else []
    parts += [TextPart(text)] if text else []
    return Turn("assistant", (*parts, *turn.calls))


@given(asks())
def test_a_chat_request_read_back_is_the_request_but_for_the_written_losses(ask: Ask) -> None:
    read = read_chat(write_chat_request(ask), can=ANY).ask
    assert _comparable(read) == _comparable(_after_chat(ask))


def _after_messages(ask: Ask) -> Ask:
    thinking = Thinking(effort=ask.thinking.effort)
    if ask.thinking.on is False:
        thinking = Thinking(on=False)
    elif ask.thinking.budget_tokens:
        thinking = Thinking(True, ask.thinking.budget_tokens, ask.thinking.effort)
    turns = tuple(Turn(turn.role, tuple(_after_messages_part(part) for part in turn.parts)) for turn in ask.turns)
    turns = tuple(
        Turn(turn.role, tuple(part for part in turn.parts if not isinstance(part, ThoughtPart))) for turn in turns
    )
    no_schema = msgspec.Raw(b'{"type":"object","properties":{}}')
    return dataclasses.replace(
        ask,
        turns=_merged([turn for turn in turns if turn.parts]),
        tools=tuple(dataclasses.replace(t, schema=t.schema or no_schema, strict=t.strict or None) for t in ask.tools),
        choice=_choice_after_messages(ask),
        parallel=ask.parallel or not ask.tools or bool(ask.choice and ask.choice.mode == "none"),
        sampling=dataclasses.replace(ask.sampling, max_tokens=ask.sampling.max_tokens or 32_000),
        format=Format(ask.format.schema) if ask.format else None,
        thinking=thinking,
    )


def _choice_after_messages(ask: Ask) -> ToolChoice | None:
    """A wish for one call at a time has no place of its own: it needs a choice to stand in."""
    return ToolChoice("auto") if ask.tools and not ask.choice and not ask.parallel else ask.choice


def _after_messages_part(part: Part) -> Part:
    if isinstance(part, ImagePart):
        return ImagePart(part.url)
    if isinstance(part, ToolResult):
        inner = tuple(ImagePart(p.url) if isinstance(p, ImagePart) else p for p in part.parts)
        return dataclasses.replace(part, parts=inner)
    return part


def _merged(turns: list[Turn]) -> tuple[Turn, ...]:
    out: list[Turn] = []
    for turn in turns:
        if out and out[-1].role == turn.role:
            out[-1] = Turn(turn.role, out[-1].parts + turn.parts)
        else:
            out.append(turn)
    return tuple(out)


@given(asks())
def test_a_messages_request_read_back_is_the_request_but_for_the_written_losses(ask: Ask) -> None:
    if ask.thinking.on is False:
        ask = dataclasses.replace(ask, thinking=Thinking(on=False))
    read = read_messages(write_messages_request(ask), can=ANY).ask
    assert _comparable(read) == _comparable(_after_messages(ask))


def _comparable(ask: Ask) -> Ask:
    """Raw JSON compares by identity."""
    tools = tuple(dataclasses.replace(tool, schema=bytes(tool.schema) if tool.schema else None) for tool in ask.tools)
    wanted = dataclasses.replace(ask.format, schema=bytes(ask.format.schema or b"")) if ask.format else None
    return dataclasses.replace(ask, tools=tools, format=wanted)


@given(asks())
def test_writing_what_was_read_gives_the_same_bytes_again(ask: Ask) -> None:
    once = write_chat_request(ask)
    again = write_chat_request(dataclasses.replace(read_chat(once, can=ANY).ask, thinking=ask.thinking))
    assert msgspec.json.decode(again) == msgspec.json.decode(once)


def test_every_loss_is_in_the_reference() -> None:
    from .shared import FIXTURES

    page = (FIXTURES.parents[2] / "docs/reference/dialects.md").read_text()
    told = " ".join(page.split())
    for loss in (*LOSSES_IN_CHAT.values(), *LOSSES_IN_MESSAGES.values()):
        assert loss in told
