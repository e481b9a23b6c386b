"""Mapping A: what a neuron gets when a client speaks Anthropic Messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helexa.base.errors import InvalidRequest
from helexa.wire.canon import Capabilities
from helexa.wire.translate import count_tokens_request, open_messages

from .shared import chat_of, counter, encode, fixture, messages

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
IMAGE_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def tool_use(id: str, name: str = "f", **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": arguments}


def tool_result(id: str, content: Any = "ok", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **more}


def assistant(*content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


def chat(*turns: Any, can: Capabilities | None = None, **fields: Any) -> dict[str, Any]:
    more = {"can": can} if can else {}
    return chat_of(messages({"messages": list(turns) or [user(text("hi"))], **fields}, **more))


def rendered(*turns: Any, **fields: Any) -> list[dict[str, Any]]:
    return chat(*turns, **fields)["messages"]


def refused(*turns: Any, can: Capabilities | None = None, **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        chat(*turns, can=can, **fields)
    assert caught.value.status == 400
    return caught.value


# ── system ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_system_blocks_become_one_leading_system_message() -> None:
    system = [text("a", cache_control={"type": "ephemeral"}), text(""), text("b")]
    assert rendered(system=system)[0] == {"role": "system", "content": "a\n\nb"}


def test_a_system_string_and_the_same_text_in_a_block_are_one_request() -> None:
    assert messages({"system": "a"}).request == messages({"system": [text("a")]}).request


@pytest.mark.parametrize("line", ["x-anthropic-billing-header: cc_version=1; cch=abc;", "x-anthropic-billing-header:"])
def test_the_billing_line_is_stripped_and_nothing_else(line: str) -> None:
    assert messages({"system": [text(line), text("b")]}).request == messages({"system": "b"}).request
    assert messages({"system": f"{line}\n\nb"}).request == messages({"system": "b"}).request
    assert rendered(system=[text(line)]) == [{"role": "user", "content": "hi"}]


def test_a_system_message_in_the_middle_is_folded_where_it_stands() -> None:
    out = rendered(user(text("a")), {"role": "system", "content": "mind"}, assistant(text("b")), user(text("c")))
    assert out[0] == {"role": "user", "content": "a\n\n<system-reminder>\nmind\n</system-reminder>"}
    assert [message["role"] for message in out] == ["user", "assistant", "user"]


def test_a_new_system_message_at_the_end_changes_no_message_before_it() -> None:
    turns = [user(text("a")), assistant(tool_use("t")), user(tool_result("t"))]
    before = rendered(*turns)
    after = rendered(*turns, {"role": "system", "content": [text("mind", cache_control={"type": "ephemeral"})]})
    assert after[:-1] == before
    assert after[-1] == {"role": "user", "content": "<system-reminder>\nmind\n</system-reminder>"}


def test_a_system_message_between_calls_and_results_comes_after_the_results() -> None:
    out = rendered(
        user(text("a")), assistant(tool_use("t")), {"role": "system", "content": "mind"}, user(tool_result("t"))
    )
    assert [message["role"] for message in out[1:]] == ["assistant", "tool", "user"]


def test_a_reminder_that_is_one_already_is_not_wrapped_again() -> None:
    said = "<system-reminder>\nmind\n</system-reminder>"
    assert rendered(user(text("a")), {"role": "system", "content": said})[0]["content"] == f"a\n\n{said}"


def test_a_system_message_for_one_turn_is_shown_until_the_user_speaks_again() -> None:
    mind = {"role": "system", "content": "mind", "clear_at": "next_user_message"}
    shown = "a\n\n<system-reminder>\nmind\n</system-reminder>"
    assert rendered(user(text("a")), mind) == [{"role": "user", "content": shown}]
    assert rendered(user(text("a")), mind, user(text("b"))) == [{"role": "user", "content": "a\n\nb"}]
    kept = rendered(user(text("a")), {**mind, "clear_at": "never"}, user(text("b")))
    assert kept == [{"role": "user", "content": f"{shown}\n\nb"}]


def test_only_a_system_message_may_come_without_content() -> None:
    assert rendered(user(text("a")), {"role": "system", "output_config": {"effort": "low"}})[0]["content"] == "a"
    assert refused({"role": "user"}).param == "messages.0.content"
    assert refused(user(text("a")), {"role": "assistant"}).param == "messages.1.content"


def test_a_system_message_before_the_first_turn_joins_the_system_prompt() -> None:
    out = rendered({"role": "system", "content": "b"}, user(text("c")), system="a")
    assert out == [{"role": "system", "content": "a\n\nb"}, {"role": "user", "content": "c"}]


def test_a_template_that_allows_it_keeps_a_system_message_in_the_middle() -> None:
    mind = {"role": "system", "content": "mind"}
    can = Capabilities(mid_system=True)
    assert rendered(user(text("a")), mind, can=can)[1] == mind
    out = rendered(user(text("a")), assistant(tool_use("t")), mind, user(tool_result("t")), can=can)
    assert [message["role"] for message in out[2:]] == ["tool", "user"]


# ── content ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_string_and_a_block_with_cache_control_render_the_same() -> None:
    block = user(text("hi", cache_control={"type": "ephemeral"}))
    assert (
        messages({"messages": [block]}).request == messages({"messages": [{"role": "user", "content": "hi"}]}).request
    )


def test_cache_control_anywhere_changes_no_byte_of_the_request() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}

    def body(more: dict[str, Any]) -> dict[str, Any]:
        turns = [user(text("a", **more)), assistant(tool_use("t") | more), user(tool_result("t") | more)]
        return {"system": [text("s", **more)], "messages": turns, "tools": [{"name": "f", "input_schema": {}} | more]}

    assert messages(body(mark)).request == messages(body({})).request


def test_texts_are_joined_to_one_string_and_split_only_by_images() -> None:
    assert rendered(user(text("a"), text(""), text("b")))[0]["content"] == "a\n\nb"
    mixed = rendered(user(text("a"), text("b"), IMAGE, text("c")))[0]["content"]
    assert mixed == [text("a\n\nb"), IMAGE_PART, text("c")]


def test_consecutive_turns_of_one_role_are_one_message() -> None:
    out = rendered(user(text("a")), user(text("b")), assistant(text("c")), assistant(text("d")), user(text("e")))
    assert [message["content"] for message in out] == ["a\n\nb", "cd", "e"]


def test_images_by_url_and_inline_become_image_parts() -> None:
    url = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
    out = rendered(user(IMAGE, url))[0]["content"]
    assert out == [IMAGE_PART, {"type": "image_url", "image_url": {"url": "https://x/y.png"}}]


def test_an_image_for_a_model_without_eyes_is_refused_not_dropped() -> None:
    for turn in ([user(IMAGE)], [user(text("a")), assistant(tool_use("t")), user(tool_result("t", [IMAGE]))]):
        error = refused(*turn, can=Capabilities(vision=False))
        assert "does not support images" in error.message
        assert error.param is not None
        assert error.param.endswith("content.0")


@pytest.mark.parametrize("source", [{"type": "file", "file_id": "f"}, {"type": "base64", "data": "A"}, {"type": "url"}])
def test_an_image_that_cannot_be_read_names_its_source(source: dict[str, Any]) -> None:
    assert str(refused(user({"type": "image", "source": source})).param).startswith("messages.0.content.0.source.")


def test_a_text_document_becomes_text_with_its_title() -> None:
    plain = {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "d"}}
    blocks = {"type": "document", "source": {"type": "content", "content": [text("x"), IMAGE]}}
    assert rendered(user(plain))[0]["content"] == "T\n\nd"
    assert rendered(user(blocks))[0]["content"] == [text("x"), IMAGE_PART]


def test_a_pdf_is_refused() -> None:
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "A"}}
    assert refused(user(pdf)).param == "messages.0.content.0.source.type"


def test_search_results_and_compactions_become_text() -> None:
    found = {"type": "search_result", "source": "s", "title": "t", "content": [text("x")]}
    short = {"type": "compaction", "content": "so far"}
    assert rendered(user(found))[0]["content"] == "t\n\ns\n\nx"
    assert rendered(user(text("a")), assistant(short), user(text("b")))[1]["content"] == "so far"
    assert rendered(user(text("a"), {"type": "compaction"}))[0]["content"] == "a"


@pytest.mark.parametrize("kind", ["server_tool_use", "mcp_tool_listing", "advisor_tool_result", "fallback"])
def test_blocks_only_the_vendor_can_write_are_left_out_and_noted(kind: str) -> None:
    body = {"messages": [user(text("a")), assistant({"type": kind, "id": "s"}, text("b")), user(text("c"))]}
    exchange = messages(body)
    assert exchange.notices == ("messages.1.content.0.type",)
    assert [message["content"] for message in chat_of(exchange)["messages"]] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("turn", "param"),
    [
        ({"role": "tool", "content": "a"}, "messages.0.role"),
        (assistant(IMAGE), "messages.0.content.0.type"),
        (assistant(tool_result("t")), "messages.0.content.0.type"),
        (user(tool_use("t")), "messages.0.content.0.type"),
        (user({"type": "thinking", "thinking": "a"}), "messages.0.content.0.type"),
        (user({"type": "video"}), "messages.0.content.0.type"),
    ],
)
def test_a_block_in_the_wrong_place_is_refused_by_name(turn: dict[str, Any], param: str) -> None:
    assert refused(turn).param == param


def test_an_empty_user_message_stays_and_an_empty_assistant_message_goes() -> None:
    out = rendered({"role": "user", "content": ""}, assistant(text("")), user(text("a")))
    assert out == [{"role": "user", "content": "a"}]
    assert rendered({"role": "user", "content": ""}) == [{"role": "user", "content": ""}]


# ── tool results ───────────────────────────────────────────────────────────────────────────────────────────────


def test_tool_results_come_before_the_users_words_in_the_order_of_the_calls() -> None:
    out = rendered(
        user(text("go")), assistant(tool_use("A"), tool_use("B")), user(text("and"), tool_result("B"), tool_result("A"))
    )
    assert [message.get("tool_call_id", message["content"]) for message in out[2:]] == ["A", "B", "and"]


def test_claude_codes_parallel_results_are_put_in_order() -> None:
    body = fixture("claude_code_parallel")
    out = chat_of(messages(body))["messages"]
    calls = next(message["tool_calls"] for message in out if "tool_calls" in message)
    results = [message["tool_call_id"] for message in out if message["role"] == "tool"]
    assert results == [call["id"] for call in calls]
    assert [block["tool_use_id"] for block in body["messages"][3]["content"]] == results[::-1]


def test_results_split_over_two_user_messages_are_one_answer() -> None:
    out = rendered(
        user(text("go")), assistant(tool_use("A"), tool_use("B")), user(tool_result("B")), user(tool_result("A"))
    )
    assert [message["tool_call_id"] for message in out[2:]] == ["A", "B"]


def test_a_missing_result_is_refused_in_anthropics_words() -> None:
    for after in ([user(tool_result("A"))], []):
        error = refused(user(text("go")), assistant(tool_use("A"), tool_use("B")), *after)
        assert error.param == "messages.1"
        assert "`tool_use` ids were found without `tool_result` blocks immediately after:" in error.message
        assert "B" in error.message


def test_an_unexpected_or_repeated_result_is_refused_by_name() -> None:
    orphan = refused(user(tool_result("X")))
    assert orphan.param == "messages.0.content.0.tool_use_id"
    assert "unexpected `tool_use_id` found in `tool_result` blocks: X" in orphan.message
    twice = refused(user(text("go")), assistant(tool_use("A")), user(tool_result("A"), tool_result("A")))
    assert twice.param == "messages.2.content.1"
    doubled = refused(user(text("go")), assistant(tool_use("A"), tool_use("A")), user(tool_result("A")))
    assert doubled.param == "messages.1.content.1"


def test_the_same_id_may_return_in_a_later_turn() -> None:
    turn = [assistant(tool_use("A")), user(tool_result("A"))]
    assert len(rendered(user(text("go")), *turn, *turn)) == 5


@pytest.mark.parametrize(
    ("content", "said"),
    [("a", "a"), ([text("a"), text("b")], "a\nb"), (None, ""), ([], ""), ("", "")],
)
def test_a_results_content_is_joined_and_absence_is_empty(content: Any, said: str) -> None:
    out = rendered(user(text("go")), assistant(tool_use("A")), user(tool_result("A", content)))
    assert out[2] == {"role": "tool", "content": said, "tool_call_id": "A"}


def test_a_failed_result_says_so() -> None:
    out = rendered(user(text("go")), assistant(tool_use("A")), user(tool_result("A", "no", is_error=True)))
    assert out[2]["content"] == "[tool error] no"
    out = rendered(user(text("go")), assistant(tool_use("A")), user(tool_result("A", "no", is_error=False)))
    assert out[2]["content"] == "no"


def test_images_in_results_follow_in_a_user_message() -> None:
    out = chat_of(messages(fixture("claude_code_image")))["messages"]
    assert [message["role"] for message in out[-2:]] == ["tool", "user"]
    assert out[-2]["content"] == ""
    assert out[-1]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")


# ── assistant ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_assistant_text_thought_and_calls_become_one_message() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    said = rendered(
        user(text("go")),
        assistant(thought, text(""), text("I "), text("go."), tool_use("t", a=1)),
        user(tool_result("t")),
    )[1]
    assert said == {
        "role": "assistant",
        "content": "I go.",
        "reasoning_content": "hm",
        "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}],
    }


def test_arguments_are_json_text_whatever_the_clients_spacing() -> None:
    body = encode({"model": "m", "max_tokens": 5, "messages": [
        user(text("go")), assistant(tool_use("t", x=1.50)), user(tool_result("t"))]})  # fmt: skip
    spaced = body.replace(b'{"x": 1.5}', b'{ "x" : 1.50 }')
    assert spaced != body
    out = json.loads(open_messages(spaced, ids=counter()).request)
    assert out["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"x":1.50}'


def test_a_call_whose_input_is_no_object_is_refused() -> None:
    bad = {"type": "tool_use", "id": "t", "name": "f", "input": "x"}
    assert refused(user(text("go")), assistant(bad)).param == "messages.1.content.0.input"


def test_redacted_and_empty_thoughts_are_left_out() -> None:
    hidden = [{"type": "redacted_thinking", "data": "x"}, {"type": "thinking", "thinking": "", "signature": "s"}]
    assert "reasoning_content" not in rendered(user(text("a")), assistant(*hidden, text("b")), user(text("c")))[1]


def test_a_trailing_assistant_message_is_continued() -> None:
    out = chat(user(text("a")), assistant(text("{ ")), thinking={"type": "enabled", "budget_tokens": 1024})
    assert out["messages"][-1] == {"role": "assistant", "content": "{"}
    assert (out["continue_final_message"], out["add_generation_prompt"]) == (True, False)
    assert out["chat_template_kwargs"] == {"enable_thinking": False}
    assert "continue_final_message" not in chat(user(text("a")))


def test_a_model_that_cannot_continue_refuses_a_trailing_assistant_message() -> None:
    error = refused(user(text("a")), assistant(text("{")), can=Capabilities(prefill=False))
    assert error.param == "messages.1.role"


# ── tools ──────────────────────────────────────────────────────────────────────────────────────────────────────

F = {"name": "f", "description": "d", "input_schema": SCHEMA}


def test_custom_tools_become_functions() -> None:
    out = chat(tools=[F, {"type": "custom", "name": "g", "input_schema": {}, "strict": True}])["tools"]
    assert out[0] == {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}
    assert out[1]["function"] == {"name": "g", "parameters": {}, "strict": True}


def test_deferred_tools_are_left_out_until_the_conversation_brings_them_in() -> None:
    deferred = {**F, "name": "g", "defer_loading": True}
    assert "tools" not in chat(tools=[deferred])
    reference = {"type": "tool_reference", "tool_name": "g"}
    turns = [user(text("go")), assistant(tool_use("t")), user(tool_result("t", [reference]))]
    out = chat(*turns, tools=[F, deferred])
    assert [tool["function"]["name"] for tool in out["tools"]] == ["f", "g"]
    assert "g" in out["messages"][2]["content"]


def changed(kind: str, **tool: Any) -> dict[str, Any]:
    return {"role": "system", "content": [{"type": f"tool_{kind}", "tool": tool}]}


def test_tools_come_and_go_in_mid_conversation() -> None:
    tools = [F, {**F, "name": "g", "defer_loading": True}]
    brought = changed("addition", type="tool_reference", name="g")
    defined = changed("addition", type="tool_definition", definition={**F, "name": "h"})
    gone = changed("removal", type="tool_reference", name="f")
    back = changed("addition", type="tool_reference", name="f")
    anew = changed("addition", type="tool_definition", definition={**F, "description": "new"})

    def offered(*changes: Any) -> list[tuple[str, str]]:
        out = chat(user(text("a")), *changes, user(text("b")), tools=tools)
        assert out["messages"] == [{"role": "user", "content": "a\n\nb"}]
        return [(tool["function"]["name"], tool["function"]["description"]) for tool in out["tools"]]

    assert offered(brought, defined, gone) == [("g", "d"), ("h", "d")]
    assert offered(gone, back) == [("f", "d")]
    assert offered(gone, anew) == [("f", "new")]


def test_a_summary_brings_the_tool_changes_of_what_it_stands_for() -> None:
    gone = changed("removal", type="tool_reference", name="f")["content"]
    out = chat(user({"type": "compaction", "content": "so far", "tool_changes": gone}), tools=[F, {**F, "name": "g"}])
    assert out["messages"] == [{"role": "user", "content": "so far"}]
    assert [tool["function"]["name"] for tool in out["tools"]] == ["g"]


def test_a_change_of_tools_that_the_vendor_runs_is_noted_and_one_that_says_nothing_is_refused() -> None:
    hosted = changed("addition", type="mcp_toolset_reference", server_name="s")
    assert messages({"messages": [user(text("a")), hosted]}).notices == ("messages.1.content.0.tool.type",)
    nameless = changed("addition", type="tool_definition", definition={"input_schema": {}})
    at = "messages.1.content.0.tool"
    assert refused(user(text("a")), changed("removal", type="tool_reference")).param == f"{at}.name"
    assert refused(user(text("a")), changed("addition", type="tool_definition")).param == f"{at}.definition"
    assert refused(user(text("a")), nameless).param == f"{at}.definition.name"


def test_typed_client_tools_get_their_schema() -> None:
    typed = [
        {"type": "bash_20250124", "name": "bash"},
        {"type": "text_editor_20250124", "name": "str_replace_editor"},
        {"type": "memory_20250818"},
    ]
    out = chat(tools=typed)["tools"]
    assert [tool["function"]["name"] for tool in out] == ["bash", "str_replace_editor", "memory"]
    assert all(tool["function"]["parameters"]["type"] == "object" for tool in out)


def test_vendor_tools_are_dropped_and_noted_or_refused() -> None:
    tools = [F, {"type": "web_search_20250305", "name": "web_search"}, {"type": "code"}]
    exchange = messages({"tools": tools})
    assert exchange.notices == ("tools.1.type", "tools.2.type")
    assert len(chat_of(exchange)["tools"]) == 1
    assert refused(tools=tools, can=Capabilities(hosted_tools="refuse")).param == "tools.1.type"


@pytest.mark.parametrize(
    ("tool", "param"),
    [({"name": "f"}, "tools.0.input_schema"), ({"input_schema": {}}, "tools.0.name"),
     ({"name": "f", "input_schema": []}, "tools.0.input_schema"),
     ({"type": "function", "function": {"name": "f", "parameters": {}}}, "tools.0.input_schema")],
)  # fmt: skip
def test_a_tool_that_cannot_be_offered_is_refused_by_name(tool: dict[str, Any], param: str) -> None:
    assert refused(tools=[tool]).param == param


@pytest.mark.parametrize(
    ("choice", "out"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_tool_choice_is_translated(choice: dict[str, Any], out: Any) -> None:
    said = chat(tools=[F], tool_choice=choice)
    assert said["tool_choice"] == out
    assert "parallel_tool_calls" not in said
    assert chat(tools=[F], tool_choice={**choice, "disable_parallel_tool_use": True})["parallel_tool_calls"] is False


@pytest.mark.parametrize(
    ("choice", "tools", "param"),
    [
        ({"type": "tool", "name": "x"}, [F], "tool_choice.name"),
        ({"type": "tool"}, [F], "tool_choice.name"),
        ({"type": "any"}, [], "tool_choice"),
        ({"type": "all"}, [F], "tool_choice.type"),
        (
            {"type": "tool", "name": "web_search"},
            [{"type": "web_search_20250305", "name": "web_search"}],
            "tool_choice.name",
        ),
    ],
)
def test_a_choice_of_an_absent_tool_is_refused(choice: dict[str, Any], tools: list[Any], param: str) -> None:
    assert refused(tools=tools, tool_choice=choice).param == param


def test_auto_without_tools_is_left_out() -> None:
    assert "tool_choice" not in chat(tool_choice={"type": "auto"})


# ── the rest ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_max_tokens_is_asked_for_and_clamped_to_the_window() -> None:
    assert refused(max_tokens=None).param == "max_tokens"
    assert refused(max_tokens=0).param == "max_tokens"
    assert chat(max_tokens=64_000, can=Capabilities(context_tokens=4096))["max_tokens"] == 4096
    assert chat(max_tokens=64_000)["max_tokens"] == 64_000


def test_stop_sequences_become_stop() -> None:
    asked = chat(stop_sequences=["a", "", "b"])
    assert (asked["stop"], asked["verbose"]) == (["a", "b"], True)
    assert "verbose" not in chat()
    assert refused(stop_sequences=["a", " \n"]).param == "stop_sequences.1"


@pytest.mark.parametrize("version", ["2023-06-01", "2026-10-21", None])
def test_sampling_fields_are_accepted_on_every_protocol_version(version: str | None) -> None:
    out = chat_of(messages({"temperature": 1, "top_p": 0.5, "top_k": 7}, version=version))
    assert (out["temperature"], out["top_p"], out["top_k"]) == (1, 0.5, 7)


@pytest.mark.parametrize(
    ("thinking", "kwargs", "budget"),
    [
        ({"type": "enabled", "budget_tokens": 2048}, {"enable_thinking": True}, 2048),
        ({"type": "adaptive", "display": "omitted"}, None, None),
        ({"type": "between_tools"}, None, None),
        ({"type": "disabled"}, {"enable_thinking": False}, None),
    ],
)
def test_thinking_is_switched_in_the_template(thinking: dict[str, Any], kwargs: Any, budget: int | None) -> None:
    out = chat(thinking=thinking)
    assert (out.get("chat_template_kwargs"), out.get("thinking_budget_tokens")) == (kwargs, budget)
    assert refused(thinking={"type": "maybe"}).param == "thinking.type"


@pytest.mark.parametrize(("effort", "out"), [("low", "low"), ("medium", "medium"), ("xhigh", "high"), ("max", "high")])
def test_effort_becomes_reasoning_effort(effort: str, out: str) -> None:
    assert chat(output_config={"effort": effort})["reasoning_effort"] == out
    assert refused(output_config={"effort": "huge"}).param == "output_config.effort"


@pytest.mark.parametrize("place", ["output_config", "output_format"])
def test_an_output_format_becomes_a_response_format(place: str) -> None:
    wanted = {"type": "json_schema", "schema": SCHEMA}
    out = chat(**{place: {"format": wanted} if place == "output_config" else wanted})["response_format"]
    assert out == {"type": "json_schema", "json_schema": {"name": "output", "schema": SCHEMA, "strict": True}}


@pytest.mark.parametrize("bad", [{"type": "xml"}, {"type": "json_schema"}, {"type": "json_schema", "schema": 5}])
def test_an_output_format_that_cannot_be_enforced_is_refused(bad: dict[str, Any]) -> None:
    assert str(refused(output_format=bad).param).startswith("output_format.")


@pytest.mark.parametrize(
    ("user_id", "affinity"),
    [
        ("u", "u"),
        ('{"session_id":"s","device_id":"d"}', "s"),
        ('{"device_id":"d"}', '{"device_id":"d"}'),
        ("{broken", "{broken"),
        ("", None),
        (None, None),
    ],
)
def test_the_user_id_is_the_affinity_key_or_holds_it(user_id: str | None, affinity: str | None) -> None:
    exchange = messages({"metadata": {"user_id": user_id}})
    assert exchange.affinity == affinity
    assert chat_of(exchange).get("user") == user_id


def test_a_stream_asks_for_usage() -> None:
    exchange = messages({"stream": True})
    assert exchange.stream
    assert chat_of(exchange)["stream_options"] == {"include_usage": True}
    assert not messages().stream
    assert "stream" not in chat()


def test_fields_that_change_nothing_are_ignored_and_noted() -> None:
    extra = {"context_management": {}, "service_tier": "auto", "speed": "fast", "made_up": 1}
    exchange = messages(extra)
    assert exchange.notices == ("context_management", "made_up", "service_tier", "speed")
    assert exchange.request == messages().request


@pytest.mark.parametrize(
    ("field", "value"), [("mcp_servers", [{"url": "x"}]), ("container", "c"), ("compaction", {}), ("messages", [])]
)
def test_fields_whose_loss_would_change_the_meaning_are_refused(field: str, value: Any) -> None:
    assert refused(**{field: value}).param == field


def test_a_thread_is_refused_in_the_one_way_clients_recover_from() -> None:
    with pytest.raises(InvalidRequest) as caught:
        messages(fixture("anthropic_thread"))
    assert caught.value.param == "thread"
    assert caught.value.fields["details"] == {"error_code": "thread_unsupported_request", "unsupported": []}
    assert chat(thread=None)["messages"]


def test_the_model_is_the_resolved_one_for_the_neuron_and_the_clients_own_in_the_answer() -> None:
    exchange = messages(model="org/real")
    assert chat_of(exchange)["model"] == "org/real"
    assert b'"model":"m"' in exchange.opening()


# ── count_tokens ───────────────────────────────────────────────────────────────────────────────────────────────


def test_counting_uses_the_renderer_of_the_request_itself() -> None:
    body = fixture("claude_code_parallel")
    counted = json.loads(count_tokens_request(encode({k: v for k, v in body.items() if k != "max_tokens"})))
    sent = chat_of(messages(body))
    for field in ("messages", "tools", "model"):
        assert counted[field] == sent[field]
    assert "stream" not in counted


def test_counting_works_for_the_form_that_only_sizes_tools() -> None:
    body = fixture("claude_code_count_tokens")
    assert json.loads(count_tokens_request(encode(body)))["tools"]
