"""Chat templates: rendered as transformers renders them, and bounded whatever they do."""

from __future__ import annotations

import itertools
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.neuron.core.chat.template import BadConversation, BadTemplate, Template

FOLDER = Path(__file__).parent / "templates"
FAMILIES = sorted(path.stem for path in FOLDER.glob("*.jinja"))
NOW = datetime(2026, 11, 21)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Ürümqi", "Oslo"]},
        "days": {"type": "array", "items": {"type": "integer"}},
    },
    "required": ["city"],
}  # fmt: skip
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": 'What "it" is like', "parameters": SCHEMA}}
]


def calls(arguments: object) -> dict[str, Any]:
    call = {"id": "abcdef123", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


USER = {"role": "user", "content": " How is <it> & in Ürümqi? \n"}
SYSTEM = {"role": "system", "content": "Be brief."}
REPLY = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nFine."}
RESULT = {"role": "tool", "tool_call_id": "abcdef123", "content": '{"c": 20}'}
TALKS = {
    "a question": [USER],
    "a system prompt": [SYSTEM, USER],
    "a second turn": [SYSTEM, USER, REPLY, USER],
    "a call and its result": [USER, calls({"city": "Oslo"}), RESULT],
}


def template(source: str, **tokens: str) -> Template:
    return Template(source, now=itertools.count(0, 1e-9).__next__, today=lambda: NOW, **(TOKENS | tokens))


def source(family: str) -> str:
    return (FOLDER / f"{family}.jinja").read_text()


def ours(family: str, talk: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
    try:
        return template(source(family)).render(talk, tools)
    except (BadConversation, BadTemplate) as error:
        return f"refused: {type(error).__name__}"


def theirs(family: str, talk: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
    import jinja2
    from transformers.utils import chat_template_utils

    class Frozen(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return NOW

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_template_utils, "datetime", Frozen)
        try:
            (text,), _ = chat_template_utils.render_jinja_template(
                [talk], tools, chat_template=source(family), add_generation_prompt=True, **TOKENS
            )
        except jinja2.exceptions.UndefinedError:
            return "refused: BadTemplate"
        except jinja2.TemplateError:
            return "refused: BadConversation"
        except TypeError:
            return "refused: BadTemplate"
    return text


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversation_is_rendered_as_transformers_renders_it(
    family: str, talk: str, tools: list[dict[str, Any]] | None
) -> None:
    pytest.importorskip("transformers")
    messages = TALKS[talk]
    if family == "deepseek":  # a template that wants arguments as text; transformers leaves that to its caller
        given = [calls('{"city": "Oslo"}') if "tool_calls" in message else message for message in messages]
    else:
        given = messages
    assert ours(family, messages, tools) == theirs(family, given, tools)


def test_arguments_are_given_as_the_template_takes_them() -> None:
    as_text = [USER, calls('{"city": "Oslo"}'), RESULT]
    for family in ("qwen", "llama", "mistral", "gpt-oss", "deepseek"):
        assert template(source(family)).render(as_text) == template(source(family)).render(
            TALKS["a call and its result"]
        )


def test_what_a_template_makes_of_tools_is_found_out() -> None:
    shown = {family: template(source(family)).habits.tools for family in FAMILIES}
    assert shown == {"qwen": True, "llama": True, "mistral": True, "gemma": False, "gpt-oss": True, "deepseek": False}


def test_parts_become_text_for_a_template_that_wants_text() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    joined = [{"role": "user", "content": "ab"}]
    for family in FAMILIES:
        assert template(source(family)).render(parts) == template(source(family)).render(joined)


def test_text_becomes_parts_for_a_template_that_wants_parts() -> None:
    typed = template("{% for m in messages %}{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endfor %}")
    assert typed.render([USER]) == f"[{USER['content']}]"


def test_a_turn_without_content_is_an_empty_text_for_a_template_that_wants_text() -> None:
    plain = template("{% for m in messages %}{{ '[' + m.content + ']' }}{% endfor %}")
    assert plain.render([USER, calls({}) | {"content": None}]) == f"[{USER['content']}][]"


def test_a_last_turn_of_the_assistants_is_continued() -> None:
    prompt = template(source("qwen")).render([USER, {"role": "assistant", "content": "It is "}], continued=True)
    assert prompt.endswith("It is")


@pytest.mark.parametrize(
    "talk",
    [[USER, USER], [{"role": "assistant", "content": "hi"}]],
)
def test_a_conversation_that_the_template_refuses_is_the_clients_fault(talk: list[dict[str, Any]]) -> None:
    with pytest.raises(BadConversation, match="alternate"):
        template(source("gemma")).render(talk)


def growing(start: str, more: str) -> str:
    step = "{% for i in range(60) %}{% set n.s = " + more + " %}{% endfor %}"
    return "{% set n = namespace(s=" + start + ") %}" + step + "{{ n.s }}"


HOSTILE = {
    "an endless loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a long loop of constants": "{% for a in range(99999) %}" + "x" * 9000 + "{% endfor %}",
    "a captured loop": "{% set s %}{% for a in range(99999) %}" + "x" * 9000 + "{% endfor %}{% endset %}",
    "a macro that calls itself": "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "a multiplied string": "{{ 'x' * 999999999 }}",
    "a multiplied list": "{{ ([1] * 999999999) | length }}",
    "a doubled string": growing("'x'", "n.s + n.s"),
    "a string doubled with ~": growing("'x'", "n.s ~ n.s"),
    "a list of lists": growing("[1]", "[n.s, n.s]"),
    "a dict of dicts": growing("{}", "{1: n.s, 2: n.s}"),
    "a doubled list": growing("[1]", "n.s + n.s"),
    "padding": "{{ 'x'.ljust(999999999) }}",
    "a padded format": "{{ '{:999999999}'.format(1) }}",
    "a nested format": "{{ '{:{}}'.format(1, 999999999) }}",
    "a padded percent": "{{ '%999999999d' % 1 }}",
    "a starred percent": "{{ '%*d' % (999999999, 1) }}",
    "replacing": "{{ ('x' * 99999).replace('x', 'y' * 99999) }}",
    "the filter that replaces": "{{ ('x' * 99999) | replace('x', 'y' * 99999) }}",
    "joining": "{{ ('y' * 99999).join(['x'] * 99999) }}",
    "the filter that joins": "{{ (['x'] * 99999) | join('y' * 99999) }}",
    "the filter that indents": "{{ ('x\n' * 99999) | indent(99999) }}",
    "tabs": "{{ ('\t' * 99999).expandtabs(99999) }}",
    "a power": "{{ 9 ** 999999999 }}",
    "a tower of products": growing("9", "n.s * n.s"),
    "a lazy filter": "{{ range(99999) | map('string') | map('replace', '1', 'x' * 9999) | list | length }}",
    "translating": "{{ 'x'.translate({120: 'y' * 99999}) }}",
    "a date of any width": "{{ strftime_now('%999999999Y') }}",
    "many objects": "{{ (('a ' * 4000000).split(' ')) | length }}",
    "python's innards": "{{ ''.__class__.__mro__[1].__subclasses__() | length }}{{ messages.append(1) }}",
    "no Jinja": "{% for %}",
    "an unknown filter": "{{ messages | center(99999) }}",
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_template_is_refused(hostile: str) -> None:
    with pytest.raises(BadTemplate):
        template("{{ messages[0].content }}" + hostile).render([USER])


def test_a_slow_template_is_ended_by_the_clock() -> None:
    steps = [0.0, 0.1]
    clock = (at * steps[0] for at in itertools.count())
    slow = Template(
        "{{ messages[0].content }}{% for a in range(1000) %}{{ a }}{% endfor %}",
        now=lambda: next(clock),
        today=lambda: NOW,
    )
    steps.pop(0)
    with pytest.raises(BadTemplate, match="too long"):
        slow.render([USER])


def test_a_template_that_shows_nothing_is_refused() -> None:
    with pytest.raises(BadTemplate, match="nothing"):
        template("hello")


def test_a_template_that_is_too_long_is_refused() -> None:
    with pytest.raises(BadTemplate, match="longer"):
        template("x" * (1 << 20))


def test_a_long_honest_conversation_is_rendered() -> None:
    talk = [SYSTEM, *[USER, REPLY] * 1000, {"role": "user", "content": "x" * 2_000_000}]
    for family in FAMILIES:
        assert "x" * 2_000_000 in template(source(family)).render(talk, TOOLS * 100)


@given(st.text(max_size=50))
def test_whatever_a_user_says_is_shown_as_it_is(text: str) -> None:
    assert (
        QWEN.render([{"role": "user", "content": text}])
        == f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    )


QWEN = template(source("qwen"))
