"""From tokens to events: however the stream is cut, the same answer comes out."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.neuron.core.chat.answer import Answer, opens_thoughts, style_of
from helexa.neuron.core.chat.detokenize import Detokenizer
from helexa.neuron.core.chat.stops import Stops
from helexa.wire.canon import Text, Thought, ToolDelta

HERMES = '<tool_call>\n{"name": "get", "arguments": {"q": "x"}}\n</tool_call>'
CODER = (
    "<tool_call>\n<function=get>\n<parameter=q>\nx\n</parameter>\n"
    "<parameter=n>\n3\n</parameter>\n</function>\n</tool_call>"
)
DEEPSEEK_R1 = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get\n```json\n"
    '{"q": "x"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
)
DEEPSEEK_V31 = (
    '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get<｜tool▁sep｜>{"q": "x"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
)
LLAMA = '{"name": "get", "parameters": {"q": "x"}}'
MISTRAL = '[TOOL_CALLS] [{"name": "get", "arguments": {"q": "x"}, "id": "abc123def"}]'
MISTRAL_NEW = '[TOOL_CALLS]get[ARGS]{"q": "x"}'
HARMONY = (
    "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.get "
    '<|constrain|>json<|message|>{"q": "x"}<|call|>'
)
FAMILIES = [
    ("hermes", HERMES),
    ("hermes", HERMES.replace("\n</tool_call>", "")),
    ("deepseek", DEEPSEEK_R1),
    ("deepseek", DEEPSEEK_V31),
    ("llama3", LLAMA),
    ("llama3", "<|python_tag|>" + LLAMA),
    ("mistral", MISTRAL),
    ("mistral", MISTRAL_NEW),
    ("harmony", HARMONY),
    ("json", '{"name": "get", "arguments": {"q": "x"}}'),
    ("demanded", '{"name": "get", "arguments": {"q": "x"}}'),
    ("demanded", '[{"name": "get", "arguments": {"q": "x"}}]'),
]


def an_answer(family: str, *, thinking: bool | None = None, stops: Sequence[str] = ()) -> Answer:
    ids = (f"call_{number}" for number in itertools.count())
    return Answer(family, lambda: next(ids), thinking=thinking, stops=stops)


def told(answer: Answer, pieces: Sequence[str]) -> tuple[str, str, list[dict[str, Any]]]:
    """What was thought, what was said, and the calls, put together again from the events."""
    events = [event for piece in pieces for event in answer.feed(piece)] + answer.end()
    calls: list[dict[str, Any]] = []
    for event in events:
        if isinstance(event, ToolDelta):
            if event.name is not None:
                assert event.index == len(calls)
                calls.append({"id": event.id, "name": event.name, "arguments": ""})
            calls[event.index]["arguments"] += event.arguments
    thought = "".join(event.text for event in events if isinstance(event, Thought))
    said = "".join(event.text for event in events if isinstance(event, Text))
    return thought, said, [call | {"arguments": json.loads(call["arguments"])} for call in calls]


def cut(draw: Callable[..., Any], text: str) -> list[str]:
    at = sorted(draw(st.sets(st.integers(0, len(text)), max_size=12)))
    return [text[a:b] for a, b in itertools.pairwise([0, *at, len(text)])]


SHARDS = [
    HERMES, CODER, DEEPSEEK_R1, DEEPSEEK_V31, LLAMA, MISTRAL, MISTRAL_NEW, HARMONY, "<tool_call>", "</tool_call>", "{",
    "}", "<think>", "</think>", " ", "\n", "words", '"', "<|channel|>", "<|message|>", "<|end|>", "final", ";", "STOP",
    "ST", "é", "[TOOL_CALLS]", "<|python_tag|>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<", "to=functions.f",
]  # fmt: skip


@given(st.data(), st.sampled_from(["", "hermes", "deepseek", "llama3", "mistral", "harmony", "json"]))
def test_any_cut_of_any_text_gives_the_same_answer(data: st.DataObject, family: str) -> None:
    text = "".join(data.draw(st.lists(st.sampled_from(SHARDS), max_size=10)))
    thinking = data.draw(st.sampled_from([None, True, False]))
    stops = data.draw(st.sampled_from([(), ("STOP",), ("S", "STOP"), ("words\n", "ds")]))
    whole = told(an_answer(family, thinking=thinking, stops=stops), [text])
    assert told(an_answer(family, thinking=thinking, stops=stops), cut(data.draw, text)) == whole
    assert told(an_answer(family, thinking=thinking, stops=stops), list(text)) == whole


@pytest.mark.parametrize(("family", "text"), FAMILIES)
def test_every_family_is_understood(family: str, text: str) -> None:
    _, said, calls = told(an_answer(family), list(text))
    assert said == ""
    assert [(call["name"], call["arguments"]) for call in calls] == [("get", {"q": "x"})]


def test_a_call_that_ends_with_the_answer_is_made_once() -> None:
    """Its end was read again and again, for calls without end."""
    for arguments in ("", '{"q": 1}'):
        _, said, calls = told(an_answer("harmony"), [f"<|channel|>commentary to=functions.f<|message|>{arguments}"])
        assert (said, len(calls)) == ("", 1)


def test_parameters_in_tags_keep_their_types() -> None:
    assert told(an_answer("hermes"), [CODER])[2][0]["arguments"] == {"q": "x", "n": 3}


def test_text_before_calls_stays_and_parallel_calls_are_numbered() -> None:
    _, said, calls = told(an_answer("hermes"), ["Let me look.\n\n", HERMES, "\n", HERMES])
    assert said == "Let me look."
    assert [call["id"] for call in calls] == ["call_0", "call_1"]


def test_an_id_that_the_model_gave_is_kept() -> None:
    assert told(an_answer("mistral"), [MISTRAL])[2][0]["id"] == "abc123def"


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("hermes", "so: <tool_call>\nnot json\n</tool_call> and on"),
        ("hermes", '<tool_call>{"name": "get", "arguments": {"q": '),
        ("hermes", '<tool_call>{"arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "get", "arguments": {"q": NaN}}</tool_call>'),
        ("deepseek", "<｜tool▁call▁begin｜>x<｜tool▁call▁end｜>"),
        ("llama3", '{"answer": 42}'),
        ("llama3", '{"name": "get", "parameters": 3}'),
        ("mistral", "[TOOL_CALLS] nothing"),
        ("json", '{"name": '),
        ("demanded", '{"name": "get", "argu'),
        ("harmony", "no header at all"),
    ],
)
def test_a_call_that_does_not_parse_is_text(family: str, text: str) -> None:
    assert told(an_answer(family), list(text)) == ("", text, [])


def test_a_call_that_must_come_is_told_as_it_grows() -> None:
    arguments = json.dumps({"q": 'a "}" b\\', "deep": {"x": [{}]}})
    answer = an_answer("demanded")
    events = [answer.feed(sign) for sign in f'[{{"name": "get", "arguments": {arguments}}}, ']
    told_of = [event for made in events for event in made if isinstance(event, ToolDelta)]
    assert [event.name for event in told_of if event.name] == ["get"]
    assert "".join(event.arguments for event in told_of) == arguments
    assert len(told_of) == len(arguments) + 1
    assert answer.called


def test_a_call_that_was_cut_off_stands_but_does_not_count() -> None:
    answer = an_answer("demanded")
    events = [*answer.feed('{"name": "get", "arguments": {"q": "a } b'), *answer.end()]
    assert "".join(event.arguments for event in events if isinstance(event, ToolDelta)) == '{"q": "a } b'
    assert not answer.called


def test_a_good_call_after_a_broken_one_is_a_call() -> None:
    _, said, calls = told(an_answer("hermes"), ["<tool_call>broken</tool_call>\n" + HERMES])
    assert said == "<tool_call>broken</tool_call>"
    assert len(calls) == 1


def test_a_closing_mark_inside_of_an_argument_does_not_end_the_call() -> None:
    call = json.dumps({"name": "write", "arguments": {"text": "a </tool_call> b"}})
    _, said, calls = told(an_answer("hermes"), [f"<tool_call>{call}</tool_call>"])
    assert (said, calls[0]["arguments"]) == ("", {"text": "a </tool_call> b"})


def test_thoughts_are_split_off_with_the_space_around_them() -> None:
    assert told(an_answer("", thinking=False), list("<think>\nhm\n</think>\n\nyes")) == ("hm", "yes", [])
    assert told(an_answer("", thinking=True), list("hm</think>yes")) == ("hm", "yes", [])
    assert told(an_answer("", thinking=False), list("yes <think>no</think>"))[1] == "yes <think>no</think>"
    assert told(an_answer("", thinking=True), list("cut off"))[0] == "cut off"


def test_a_call_in_thoughts_is_no_call() -> None:
    thought, said, calls = told(an_answer("hermes", thinking=True), [f"perhaps {HERMES}</think>{HERMES}"])
    assert (thought, said, len(calls)) == (f"perhaps {HERMES}", "", 1)


def test_harmony_puts_each_channel_in_its_place() -> None:
    final = "<|end|><|start|>assistant<|channel|>final<|message|>yes<|return|>"
    thought, said, calls = told(an_answer("harmony"), [HARMONY.replace("<|call|>", final)])
    assert (thought, said, calls[0]["name"]) == ("hm", "yes", "get")


def test_the_first_stop_string_to_be_complete_ends_the_answer() -> None:
    stops = Stops(["abcde", "bcd"])
    assert (stops.feed("xabc") + stops.feed("de"), stops.hit) == ("xa", "bcd")
    assert stops.feed("more") + stops.end() == ""


@given(st.text(max_size=60), st.lists(st.text(min_size=1, max_size=4), max_size=3), st.data())
def test_stops_let_through_all_before_the_first_and_nothing_after(
    text: str, strings: list[str], data: st.DataObject
) -> None:
    stops = Stops(strings)
    out = "".join(stops.feed(piece) for piece in cut(data.draw, text)) + stops.end()
    assert text.startswith(out)
    if stops.hit is None:
        assert out == text
        assert not any(string in text for string in strings)
    else:
        assert text[len(out) :].startswith(stops.hit)


@given(st.text(max_size=40), st.data())
def test_characters_come_out_whole_however_bytes_are_spread_over_tokens(text: str, data: st.DataObject) -> None:
    raw = text.encode()
    at = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=20)))
    pieces = [raw[a:b] for a, b in itertools.pairwise([0, *at, len(raw)])]
    reader = Detokenizer(pieces)
    out = [reader.feed([token]) for token in range(len(pieces))]
    assert "".join(out) + reader.end() == text
    assert "�" not in "".join(out) or "�" in text


def test_a_character_that_is_never_completed_is_shown_as_broken() -> None:
    reader = Detokenizer(["é".encode()[:1]])
    assert (reader.feed([0]), reader.end()) == ("", "�")
    assert Detokenizer([b"a"]).feed([7, -1, 0]) == "a"


@pytest.mark.parametrize(
    ("template", "family", "thinks"),
    [
        ("{% if tools %}<tool_call>{% endif %}<think></think>", "hermes", True),
        ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>", "deepseek", False),
        ("<|start|>assistant<|channel|>final", "harmony", True),
        ("<|python_tag|>", "llama3", False),
        ("[TOOL_CALLS]", "mistral", False),
        ("{{ tools }}", "json", False),
        ("<|im_start|>", "", False),
    ],
)
def test_a_template_shows_how_its_model_writes(template: str, family: str, thinks: bool) -> None:
    style = style_of(template)
    assert (style.family, style.thinks) == (family, thinks)


def test_a_prompt_may_have_opened_the_thoughts() -> None:
    assert opens_thoughts("<|im_start|>assistant\n<think>\n")
    assert not opens_thoughts("<think>\n\n</think>\n\n")
