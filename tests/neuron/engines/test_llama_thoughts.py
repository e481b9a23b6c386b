"""A model whose template makes it think aloud: thoughts apart from what is said, counted, and left out where asked."""

from __future__ import annotations

from typing import Any

import pytest

from tests.neuron.engines.conftest import Chat

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

THINKING = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content or '' }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
<think>
{% if enable_thinking is defined and not enable_thinking %}
</think>

{% endif %}{%- endif -%}
"""
OPTIONS: dict[str, object] = {"slots": 1, "chat_template": THINKING}
TOOL = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}


async def test_thoughts_are_told_apart_and_counted_streamed_and_not(chat: Chat) -> None:
    whole = (await chat.ask(ignore_eos=True)).json
    message = whole["choices"][0]["message"]
    assert (message["content"], bool(message["reasoning_content"])) == ("", True)
    streamed = await chat.ask(ignore_eos=True, stream=True, stream_options={"include_usage": True})
    told = [each["choices"][0]["delta"].get("reasoning_content") or "" for each in streamed.events[:-2]]
    assert "".join(told) == message["reasoning_content"]
    for usage in (whole["usage"], streamed.events[-2]["usage"]):
        thoughts = usage["completion_tokens_details"]["reasoning_tokens"]
        assert 6 <= thoughts <= usage["completion_tokens"] == 8


@pytest.mark.parametrize(
    "quiet",
    [{"enable_thinking": False}, {"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}],
)
async def test_who_wants_no_thoughts_gets_none(chat: Chat, quiet: dict[str, Any]) -> None:
    whole = (await chat.ask(**quiet)).json
    assert whole["choices"][0]["message"]["content"]
    assert "reasoning_content" not in whole["choices"][0]["message"]
    assert whole["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


@pytest.mark.parametrize("thinks", [{}, {"enable_thinking": True}])
async def test_a_call_that_must_come_is_a_call_and_no_thought(chat: Chat, thinks: dict[str, Any]) -> None:
    got = await chat.ask(tools=[TOOL], tool_choice="required", max_tokens=80, **thinks)
    (choice,) = got.json["choices"]
    assert (choice["finish_reason"], "reasoning_content" in choice["message"]) == ("tool_calls", False)
