"""What an engine is asked: the same bytes, but for what it would not do or would not notice."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from helexa.base.errors import InvalidRequest
from helexa.neuron.api import asking
from helexa.neuron.harness import Facts
from helexa.wire.checks import CHECKS

PLAIN = Facts(context_length=2048, max_output_tokens=2048, capabilities=("text",), used_mb=None)
LLAMA = msgspec.structs.replace(
    PLAIN,
    hears_on_write=True,
    calls_by_schema=True,
    counts_choices=True,
    vocabulary=100,
    fields=("messages", "stream", "stream_options", "tools", "tool_choice", "logprobs", "top_logprobs", "temperature",
            "reasoning_effort", "chat_template_kwargs", "response_format"),
    spellings={"repetition_penalty": "repeat_penalty"},
)  # fmt: skip
CHAT = "/v1/chat/completions"
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("a", "b", "c")
]


def ask(facts: Facts = LLAMA, path: str = CHAT, **fields: Any) -> asking.Question:
    body = {"model": "m", **({"messages": [{"role": "user", "content": "hi"}]} if path == CHAT else {}), **fields}
    raw = msgspec.json.encode(body)
    return asking.question(path, raw, CHECKS[path](raw), facts)


def sent(question: asking.Question) -> dict[str, Any]:
    return msgspec.json.decode(question.body)


def test_an_engine_that_needs_nothing_gets_the_bytes_themselves() -> None:
    body = b'{"model": "m",  "messages": [{"role": "user", "content": "hi"}], "made_up": 1e2}'
    question = asking.question(CHAT, body, CHECKS[CHAT](body), PLAIN)
    assert question == asking.Question(body=body)


def test_a_whole_answer_is_asked_for_as_a_stream_where_leaving_is_heard_on_writing() -> None:
    question = ask()
    assert question.gathered
    assert sent(question)["stream"] is True


def test_a_stream_is_asked_for_with_progress_that_the_client_does_not_see() -> None:
    assert ask(stream=True).progress
    assert not ask(stream=True, return_progress=True).progress


def test_probabilities_beside_tools_are_asked_for_whole() -> None:
    question = ask(tools=TOOLS, logprobs=True, top_logprobs=1)
    assert not question.gathered
    assert "stream" not in sent(question)


def test_probabilities_beside_tools_in_a_stream_are_refused_with_the_ways_out() -> None:
    with pytest.raises(InvalidRequest) as refused:
        ask(tools=TOOLS, logprobs=True, stream=True)
    assert refused.value.fields["param"] == "logprobs"
    assert "whole answer" in refused.value.message
    assert sent(ask(tools=TOOLS, tool_choice="required", logprobs=True, stream=True))["logprobs"] is False


def test_tokens_are_told_of_where_there_is_a_token_to_stop_at() -> None:
    question = ask(stop_token_ids=[5])
    assert (sent(question)["logprobs"], "stop_token_ids" in sent(question)) == (True, False)
    assert question.stops is not None


@pytest.mark.parametrize("form", [{"tools": TOOLS}, {"response_format": {"type": "json_object"}}, {"json_schema": {}}])
def test_an_answer_that_a_grammar_holds_may_end(form: dict[str, Any]) -> None:
    """llama.cpp answered 500."""
    question = ask(ignore_eos=True, **form)
    assert sent(question)["ignore_eos"] is False
    assert "ignore_eos" in question.ignored
    assert sent(ask(ignore_eos=True))["ignore_eos"] is True


@pytest.mark.parametrize("stream", [False, True])
def test_a_token_to_stop_at_is_refused_where_a_call_may_hide_it(stream: bool) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ask(stop_token_ids=[5], tools=TOOLS, stream=stream)
    assert refused.value.fields["param"] == "stop_token_ids"


@pytest.mark.parametrize("choice", ["none", "required"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_token_to_stop_at_is_looked_for_where_no_call_can_hide_it(choice: str, stream: bool) -> None:
    question = ask(stop_token_ids=[5], tools=TOOLS, tool_choice=choice, logprobs=True, stream=stream)
    assert (sent(question)["n_probs"], sent(question)["logprobs"], sent(question)["stream"]) == (1, False, True)
    assert question.stops is not None


@pytest.mark.parametrize(("stop", "sent_stop"), [("", []), (["", "x"], ["x"])])
def test_an_empty_stop_is_left_out(stop: Any, sent_stop: list[str]) -> None:
    assert sent(ask(stop=stop))["stop"] == sent_stop


@pytest.mark.parametrize(("field", "tokens"), [("stop_token_ids", [3, 100]), ("logit_bias", {"100": 1})])
def test_a_token_that_there_is_not_is_refused(field: str, tokens: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ask(**{field: tokens})
    assert refused.value.fields["param"] == field


def test_a_field_whose_loss_would_change_the_meaning_is_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        ask(guided_choice=["a"])
    assert refused.value.fields["param"] == "guided_choice"
    assert ask(guided_choice=[]).ignored == ("guided_choice",)


@pytest.mark.parametrize(("field", "value"), [("response_format", {"type": "json_object"}), ("tools", TOOLS)])
def test_what_only_a_chat_can_be_held_to_is_refused_of_a_completion(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ask(path="/v1/completions", prompt="hi", **{field: value})
    assert refused.value.fields["param"] == field
    assert "json_schema" in refused.value.message
    assert "reasoning_effort" in ask(path="/v1/completions", prompt="hi", reasoning_effort="low").ignored


def test_documents_that_are_objects_are_told_as_texts() -> None:
    facts = msgspec.structs.replace(LLAMA, capabilities=("rerank",), fields=("query", "documents"))
    question = ask(facts, "/v1/rerank", query="q", documents=["a", {"text": "b", "id": 1}])
    assert sent(question)["documents"] == ["a", "b"]


def test_a_field_goes_by_the_name_that_the_engine_knows() -> None:
    question = ask(repetition_penalty=1.5)
    assert sent(question)["repeat_penalty"] == 1.5
    assert "repetition_penalty" not in sent(question)
    assert question.ignored == ()


@pytest.mark.parametrize(
    ("fields", "variables"),
    [
        ({"enable_thinking": False}, {"enable_thinking": False}),
        ({"reasoning_effort": "none"}, {"enable_thinking": False}),
        ({"enable_thinking": True, "reasoning_effort": "none"}, {"enable_thinking": True}),
        ({"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": False, "x": 1}},
         {"enable_thinking": False, "x": 1}),
        ({"enable_thinking": False, "chat_template_kwargs": None}, {"enable_thinking": False}),
    ],
)  # fmt: skip
def test_whether_to_think_is_a_variable_of_the_template(fields: dict[str, Any], variables: dict[str, Any]) -> None:
    question = ask(**fields)
    assert sent(question)["chat_template_kwargs"] == variables
    assert "enable_thinking" not in sent(question)
    assert question.ignored == ()


def test_variables_of_the_template_that_are_no_object_are_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        ask(enable_thinking=True, chat_template_kwargs="x")
    assert refused.value.fields["param"] == "chat_template_kwargs"


def test_fields_that_the_engine_does_not_see_to_are_named_and_who_asks_is_not_one_of_them() -> None:
    assert ask(min_tokens=2, temperature=1, user="me", metadata={}).ignored == ("min_tokens",)


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "function", "function": {"name": "b"}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TOOLS[1]]}},
    ],
)
def test_a_call_that_must_come_is_asked_for_by_a_grammar(choice: Any) -> None:
    question = ask(tools=TOOLS, tool_choice=choice)
    assert len(question.stages) == 1
    body = sent(question)
    assert body["tool_choice"] == "none"
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    names = [tool["function"]["name"] for tool in body["tools"]]
    assert names == (["a", "b", "c"] if choice == "required" else ["b"])
    assert [name for name in ("a", "b", "c") if f'"\\"{name}\\""' in body["grammar"]] == names


def test_what_the_grammar_of_a_call_does_not_hold_is_named() -> None:
    tool = {"type": "function", "function": {"name": "a", "parameters": {"properties": {"x": {"pattern": "y"}}}}}
    assert ask(tools=[tool], tool_choice="required").ignored == ("schema.pattern",)


def test_allowed_tools_are_the_only_ones_that_the_model_sees() -> None:
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [TOOLS[0], TOOLS[2]]}}
    body = sent(ask(tools=TOOLS, tool_choice=choice))
    assert [tool["function"]["name"] for tool in body["tools"]] == ["a", "c"]
    assert body["tool_choice"] == "auto"


def test_tools_that_the_template_does_not_show_are_named_as_ignored() -> None:
    assert ask(tools=TOOLS).ignored == ("tools",)
    assert ask(tools=TOOLS, tool_choice="none").ignored == ()
    assert ask(msgspec.structs.replace(LLAMA, tool_call=True), tools=TOOLS).ignored == ()


def test_an_engine_that_sees_to_calls_itself_gets_them_as_they_are() -> None:
    question = ask(PLAIN, tools=TOOLS, tool_choice="required")
    assert question.stages == ()
    assert sent(question)["tool_choice"] == "required"


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/embeddings", {"input": "x"}, "model"),
        ("/v1/rerank", {"query": "x", "documents": ["a"]}, "model"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
         "messages.0.content.0.image_url"),
    ],
)  # fmt: skip
def test_what_the_model_cannot_do_is_refused_by_name(path: str, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ask(PLAIN, path, **fields)
    assert refused.value.fields["param"] == param


@pytest.mark.parametrize("said", [{"content": ""}, {"content": None}, {}, {"content": []}])
def test_a_last_turn_of_the_assistants_that_says_nothing_is_left_out(said: dict[str, Any]) -> None:
    user = {"role": "user", "content": "hi"}
    question = ask(messages=[user, {"role": "assistant", **said}])
    assert sent(question)["messages"] == [user]


@pytest.mark.parametrize(
    "said", [{"content": "x"}, {"tool_calls": [{"id": "a", "type": "function", "function": {"name": "a"}}]}]
)
def test_a_last_turn_of_the_assistants_that_says_something_stays(said: dict[str, Any]) -> None:
    question = ask(messages=[{"role": "user", "content": "hi"}, {"role": "assistant", **said}])
    assert len(sent(question)["messages"]) == 2


def test_a_field_that_is_null_is_not_missed() -> None:
    assert ask(made_up=None, other=5).ignored == ("other",)
