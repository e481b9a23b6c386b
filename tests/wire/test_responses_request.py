"""What a neuron gets when a client speaks OpenAI Responses."""

from __future__ import annotations

from typing import Any

import pytest

from helexa.base.errors import InvalidRequest
from helexa.wire.canon import Capabilities
from helexa.wire.translate import PreviousResponseNotFound

from .shared import chat_of, encode, fixture, messages, responses

FUNCTION = {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": False}
NAMESPACE = {"type": "namespace", "name": "ns", "tools": [FUNCTION, {"type": "custom", "name": "c"}]}


def item(role: str, *parts: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": list(parts)}


def said(words: str, type: str = "input_text") -> dict[str, Any]:
    return {"type": type, "text": words}


def called(id: str, name: str = "f", arguments: str = "{}", **more: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": id, "name": name, "arguments": arguments, **more}


def output(id: str, value: Any = "ok") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": id, "output": value}


def thought(*texts: str, place: str = "content") -> dict[str, Any]:
    kind = {"content": "reasoning_text", "summary": "summary_text"}[place]
    return {"type": "reasoning", "id": "rs_1", "summary": [], place: [said(words, kind) for words in texts]}


def rendered(*items: Any, **fields: Any) -> list[dict[str, Any]]:
    return chat_of(responses({"input": list(items), **fields}))["messages"]


def refused(*items: Any, can: Capabilities | None = None, **fields: Any) -> InvalidRequest:
    body = {"input": list(items), **fields} if items else fields
    with pytest.raises(InvalidRequest) as caught:
        responses(body, **({"can": can} if can else {}))
    assert caught.value.status == 400
    return caught.value


# ── items ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_string_an_easy_message_and_a_full_message_are_one_request() -> None:
    easy, full = {"role": "user", "content": "hi"}, item("user", said("hi"))
    assert responses().request == responses({"input": [easy]}).request == responses({"input": [full]}).request


def test_ids_of_items_change_nothing() -> None:
    assert rendered({**item("user", said("a")), "id": "msg_1"}) == rendered(item("user", said("a")))


def test_instructions_and_developer_messages_become_one_leading_system_message() -> None:
    out = rendered(item("developer", said("b"), said("c")), item("system", said("d")), item("user", said("e")),
                   instructions="a")  # fmt: skip
    assert out == [{"role": "system", "content": "a\n\nb\n\nc\n\nd"}, {"role": "user", "content": "e"}]


def test_a_developer_message_in_the_middle_is_folded_where_it_stands() -> None:
    out = rendered(
        item("user", said("a")), item("developer", said("mind")), item("assistant", said("b", "output_text"))
    )
    assert out[0]["content"] == "a\n\n<system-reminder>\nmind\n</system-reminder>"


def test_reasoning_calls_and_words_of_the_assistant_are_one_message() -> None:
    turn = [thought("h", "m"), item("assistant", said("I go.", "output_text")), called("c", arguments='{"a":1}')]
    out = rendered(item("user", said("go")), *turn, output("c"))
    assert out[1:] == [
        {
            "role": "assistant",
            "content": "I go.",
            "reasoning_content": "h\nm",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}],
        },
        {"role": "tool", "content": "ok", "tool_call_id": "c"},
    ]


def test_reasoning_comes_back_from_its_summary_too_and_empty_reasoning_is_nothing() -> None:
    turn = [thought("hm", place="summary"), thought(), item("assistant", said("b", "output_text"))]
    assert rendered(item("user", said("a")), *turn)[1]["reasoning_content"] == "hm"


def test_outputs_are_put_right_after_their_calls_in_the_order_of_the_calls() -> None:
    out = rendered(
        item("user", said("go")), called("A"), called("B"), output("B"), item("user", said("and")), output("A")
    )
    assert [message.get("tool_call_id", message["content"]) for message in out[2:]] == ["A", "B", "and"]


def test_calls_answered_one_by_one_stay_one_by_one() -> None:
    out = rendered(item("user", said("go")), called("A"), output("A"), called("B"), output("B"))
    assert [message["role"] for message in out] == ["user", "assistant", "tool", "assistant", "tool"]


def test_the_same_call_id_may_return_in_a_later_turn() -> None:
    out = rendered(called("A"), output("A", "1"), called("A"), output("A", "2"))
    assert [message["content"] for message in out if message["role"] == "tool"] == ["1", "2"]


def test_a_missing_orphaned_or_doubled_output_is_refused_in_openais_words() -> None:
    missing = refused(item("user", said("go")), called("A"))
    assert (missing.param, missing.message) == ("input.1", "No tool output found for function call A.")
    orphan = refused(item("user", said("go")), output("X"))
    assert (orphan.param, "No tool call found" in orphan.message) == ("input.1", True)
    assert refused(called("A"), called("A"), output("A")).param == "input.1"


def test_images_in_outputs_follow_in_a_user_message() -> None:
    out = chat_of(responses(fixture("codex_image")))["messages"]
    assert [message["role"] for message in out[-2:]] == ["tool", "user"]
    assert out[-1]["content"][0]["image_url"]["detail"] == "high"


def test_an_image_is_passed_on_or_refused_for_a_model_without_eyes() -> None:
    picture = {"type": "input_image", "image_url": "https://x/y.png"}
    assert rendered(item("user", picture))[0]["content"][0]["image_url"] == {"url": "https://x/y.png"}
    blind = refused(item("user", picture), can=Capabilities(vision=False))
    assert blind.param == "input.0.content.0"
    assert refused(item("user", {"type": "input_image", "file_id": "f"})).param == "input.0.content.0.image_url"


@pytest.mark.parametrize("kind", ["input_file", "input_audio"])
def test_files_and_audio_are_refused(kind: str) -> None:
    assert refused(item("user", {"type": kind})).param == "input.0.content.0.type"


def test_unknown_items_and_parts_are_skipped_and_noted() -> None:
    exchange = responses({"input": [
        item("user", said("a"), {"type": "novelty"}), {"type": "web_search_call", "id": "ws_1", "status": 7},
        {"type": "compaction", "encrypted_content": "x"}]})  # fmt: skip
    assert exchange.notices == ("input.0.content.1.type", "input.1.type", "input.2.type")
    assert chat_of(exchange)["messages"] == [{"role": "user", "content": "a"}]


@pytest.mark.parametrize(
    ("bad", "param"),
    [
        ({}, "input.0.type"),
        ({"role": "robot", "content": "a"}, "input.0.role"),
        (item("user", {"type": "input_text"}), "input.0.content.0.text"),
        (item("assistant", {"type": "refusal"}), "input.0.content.0.refusal"),
        ({"type": "function_call", "name": "f", "arguments": "{}"}, "input.0.call_id"),
        ({"type": "item_reference"}, "input.0.id"),
    ],
)
def test_a_broken_item_is_refused_by_name(bad: dict[str, Any], param: str) -> None:
    assert refused(bad).param == param


def test_refusals_and_empty_messages_in_the_history_are_read() -> None:
    out = rendered(item("user", said("a")), item("assistant", {"type": "refusal", "refusal": "no"}), item("user"))
    assert [message["content"] for message in out] == ["a", "no", ""]
    assert rendered(item("user", said("a")), item("assistant"), item("developer", said("")))[0]["content"] == "a"


def test_custom_calls_in_the_history_are_calls() -> None:
    custom = {"type": "custom_tool_call", "call_id": "c", "name": "n", "input": "x"}
    back = {"type": "custom_tool_call_output", "call_id": "c", "output": "y"}
    out = rendered(item("user", said("a")), custom, back)
    assert out[1]["tool_calls"][0]["function"] == {"name": "n", "arguments": '{"input":"x"}'}
    assert out[2]["content"] == "y"


# ── stored state ───────────────────────────────────────────────────────────────────────────────────────────────


def test_an_item_reference_is_resolved_from_the_store() -> None:
    stored = {"msg_1": [encode(item("assistant", said("before", "output_text")))]}
    body = {"input": [item("user", said("a")), {"type": "item_reference", "id": "msg_1"}, item("user", said("b"))]}
    exchange = responses(body, lookup=stored.get)
    assert [message["content"] for message in chat_of(exchange)["messages"]] == ["a", "before", "b"]
    assert len(exchange.items) == 3


def test_an_unknown_reasoning_reference_is_dropped_and_never_refused() -> None:
    exchange = responses(fixture("ai_sdk_item_reference"))
    assert exchange.notices == ("input.1.id",)
    assert [message["role"] for message in chat_of(exchange)["messages"]] == ["user", "assistant", "tool"]


def test_a_previous_response_stands_before_the_input() -> None:
    first = responses({"input": "a"})
    first.answer(encode({"choices": [{"message": {"content": "b"}, "finish_reason": "stop"}]}))
    assert first.record is not None
    items = [*first.items, *(raw for _, raw in first.record.outputs)]
    second = responses({"input": "c", "previous_response_id": first.response_id}, lookup={first.response_id: items}.get)
    assert [message["content"] for message in chat_of(second)["messages"]] == ["a", "b", "c"]
    more = responses({"input": None, "previous_response_id": "r"}, lookup=lambda _: items)
    assert len(chat_of(more)["messages"]) == 2


def test_an_unknown_previous_response_is_refused_with_its_code() -> None:
    with pytest.raises(PreviousResponseNotFound) as caught:
        responses({"previous_response_id": "resp_0"})
    assert (caught.value.status, caught.value.code) == (400, "previous_response_not_found")
    assert caught.value.param == "previous_response_id"


def test_an_item_that_was_stored_broken_is_refused_by_where_it_came_from() -> None:
    with pytest.raises(InvalidRequest) as caught:
        responses({"previous_response_id": "r"}, lookup=lambda _: [b"{nope"])
    assert caught.value.param == "previous_response_id"


@pytest.mark.parametrize(
    ("field", "value"), [("conversation", "c"), ("prompt", {"id": "p"}), ("background", True), ("input", None)]
)
def test_state_this_server_does_not_keep_is_refused(field: str, value: Any) -> None:
    assert refused(**{field: value}).param == field
    assert responses({"conversation": None, "prompt": None, "background": False}).request


def test_an_input_without_any_item_is_refused() -> None:
    assert refused(input=[]).param == "input"


# ── tools ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_flat_functions_become_nested_ones() -> None:
    out = chat_of(responses({"tools": [FUNCTION, {"type": "function", "name": "g", "parameters": None}]}))["tools"]
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": False}
    assert out == [{"type": "function", "function": function}, {"type": "function", "function": {"name": "g"}}]


def test_codexs_namespaces_are_flattened_and_its_hosted_tools_skipped() -> None:
    exchange = responses(fixture("codex_parallel"))
    names = [tool["function"]["name"] for tool in chat_of(exchange)["tools"]]
    assert names == ["exec_command", "view_image", "multi_agent_v1__close_agent", "multi_agent_v1__resume_agent"]
    assert "tools.3.type" in exchange.notices


def test_tools_that_an_item_brings_along_are_offered_with_the_others() -> None:
    more = {"type": "additional_tools", "role": "developer", "tools": [NAMESPACE, {**FUNCTION, "name": "g"}]}
    exchange = responses({"tools": [FUNCTION], "input": [item("user", said("hi")), more], "tool_choice": "required"})
    assert [tool["function"]["name"] for tool in chat_of(exchange)["tools"]] == ["f", "ns__f", "g"]
    assert exchange.notices == ("input.1.tools.0.tools.1.type",)
    assert refused(item("user", said("hi")), {"type": "additional_tools", "tools": 5}).param == "input.1.tools"


def test_a_conversation_that_is_to_be_compacted_here_is_refused() -> None:
    assert refused(item("user", said("hi")), {"type": "compaction_trigger"}).param == "input.1.type"


def test_a_flattened_name_never_meets_another_one() -> None:
    plain = {**FUNCTION, "name": "ns__f"}
    other = {"type": "namespace", "name": "ns__f_", "tools": []}
    tools = chat_of(responses({"tools": [NAMESPACE, plain, other]}))["tools"]
    assert [tool["function"]["name"] for tool in tools] == ["ns__f_", "ns__f"]


def test_a_namespaced_call_in_the_history_gets_its_flat_name() -> None:
    out = rendered(item("user", said("a")), called("c", namespace="ns"), output("c"), tools=[NAMESPACE])
    assert out[1]["tool_calls"][0]["function"]["name"] == "ns__f"


def test_hosted_tools_may_be_refused_instead() -> None:
    error = refused(tools=[{"type": "web_search"}], can=Capabilities(hosted_tools="refuse"))
    assert error.param == "tools.0.type"


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"type": "function"}, "tools.0.name"),
        ({"type": "namespace", "tools": []}, "tools.0.name"),
        ({"type": "namespace", "name": "n", "tools": [{"type": "function"}]}, "tools.0.tools.0.name"),
        ({"type": "function", "name": "f", "parameters": 5}, "tools.0.parameters"),
    ],
)
def test_a_tool_that_cannot_be_offered_is_refused_by_name(tool: dict[str, Any], param: str) -> None:
    assert refused(tools=[tool]).param == param
    assert responses({"tools": [{"type": "namespace", "name": "n"}]}).request


@pytest.mark.parametrize(
    ("choice", "out", "count"),
    [
        ("auto", "auto", 2),
        ("none", "none", 2),
        ("required", "required", 2),
        ({"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}, 2),
        ({"type": "function", "name": "f", "namespace": "ns"}, {"type": "function", "function": {"name": "ns__f"}}, 2),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]}, "required", 1),
        ({"type": "allowed_tools", "tools": [{"type": "function", "name": "g"}]}, "auto", 1),
    ],
)
def test_tool_choice_is_translated(choice: Any, out: Any, count: int) -> None:
    tools = [FUNCTION, {**NAMESPACE, "tools": [{**FUNCTION, "name": "g"}]}]
    if isinstance(choice, dict) and choice.get("namespace"):
        tools = [FUNCTION, NAMESPACE]
    sent = chat_of(responses({"tools": tools, "tool_choice": choice}))
    assert (sent["tool_choice"], len(sent["tools"])) == (out, count)


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ("required", "tool_choice"),
        ("all", "tool_choice"),
        ({"type": "function"}, "tool_choice.name"),
        ({"type": "function", "name": "x"}, "tool_choice.name"),
        ({"type": "web_search"}, "tool_choice.type"),
        ({"type": "allowed_tools", "mode": "any", "tools": []}, "tool_choice.mode"),
    ],
)
def test_a_choice_of_an_absent_tool_is_refused(choice: Any, param: str) -> None:
    assert refused(tool_choice=choice).param == param
    assert "tool_choice" not in chat_of(responses({"tool_choice": "auto"}))


def test_one_call_at_a_time_is_asked_for() -> None:
    assert chat_of(responses({"tools": [FUNCTION], "parallel_tool_calls": False}))["parallel_tool_calls"] is False
    assert "parallel_tool_calls" not in chat_of(responses({"tools": [FUNCTION], "parallel_tool_calls": True}))


# ── the rest ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("format", "out"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_schema", "name": "A", "schema": {}, "strict": True},
            {"type": "json_schema", "json_schema": {"name": "A", "schema": {}, "strict": True}},
        ),
        (
            {"type": "json_schema", "schema": {}},
            {"type": "json_schema", "json_schema": {"name": "output", "schema": {}}},
        ),
    ],
)
def test_a_text_format_becomes_a_response_format(format: dict[str, Any], out: Any) -> None:
    assert chat_of(responses({"text": {"format": format}})).get("response_format") == out
    assert refused(text={"format": {"type": "xml"}}).param == "text.format.type"
    assert refused(text={"format": {"type": "json_schema"}}).param == "text.format.schema"


def test_max_output_tokens_is_clamped_to_the_window() -> None:
    exchange = responses({"max_output_tokens": 64_000}, can=Capabilities(context_tokens=4096))
    assert chat_of(exchange)["max_tokens"] == 4096
    assert refused(max_output_tokens=0).param == "max_output_tokens"


@pytest.mark.parametrize(
    ("effort", "sent", "kwargs"),
    [
        ("minimal", "low", None),
        ("high", "high", None),
        ("xhigh", "high", None),
        ("none", None, {"enable_thinking": False}),
    ],
)
def test_effort_becomes_reasoning_effort(effort: str, sent: Any, kwargs: Any) -> None:
    out = chat_of(responses({"reasoning": {"effort": effort}}))
    assert (out.get("reasoning_effort"), out.get("chat_template_kwargs")) == (sent, kwargs)
    assert refused(reasoning={"effort": "huge"}).param == "reasoning.effort"


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"prompt_cache_key": "k", "user": "u"}, "k"),
        ({"user": "u"}, "u"),
        ({"safety_identifier": "s"}, "s"),
        ({}, None),
    ],
)
def test_the_session_is_known_by_its_cache_key_or_user(fields: dict[str, str], key: str | None) -> None:
    assert responses(fields).affinity == key


def test_fields_that_change_nothing_are_ignored_and_noted() -> None:
    exchange = responses({"include": ["reasoning.encrypted_content"], "client_metadata": {}, "truncation": "auto"})
    assert exchange.notices == ("client_metadata", "include", "truncation")
    assert exchange.request == responses().request


def test_the_same_conversation_gives_the_same_chat_request_in_both_dialects() -> None:
    assert chat_of(responses(model="r")) == {
        key: value for key, value in chat_of(messages(model="r")).items() if key != "max_tokens"
    }
