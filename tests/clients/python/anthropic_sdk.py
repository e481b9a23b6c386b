"""Anthropic's SDK for Python. usage: anthropic_sdk.py TASK ADDRESS MODEL; it prints what the model said last."""

import sys

import anthropic
from pydantic import BaseModel

MODEL = sys.argv[3]
TOOLS = [
    {
        "name": "look",
        "description": "What is to be seen there",
        "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
    },
    {"name": "wait", "description": "Let a moment pass", "input_schema": {"type": "object", "properties": {}}},
]
RESULTS = {"look": "The sky is blue.", "wait": "A moment has passed."}
QUESTION = [{"role": "user", "content": "Look at the sky, wait, and tell me what you saw."}]
ASKED = {"model": MODEL, "max_tokens": 200, "system": "You are brief."}
client = anthropic.Anthropic(base_url=sys.argv[2], api_key="none")


class Person(BaseModel):
    name: str
    born: int


def messages() -> str:
    answer = client.messages.create(messages=QUESTION, **ASKED)
    assert answer.stop_reason == "end_turn"
    return answer.content[0].text


def stream() -> str:
    with client.messages.stream(messages=QUESTION, **ASKED) as events:
        pieces = list(events.text_stream)
        final = events.get_final_message()
    assert len(pieces) > 1
    assert final.usage.output_tokens == len(pieces)
    assert "".join(pieces) == final.content[0].text
    return final.content[0].text


def tools() -> str:
    return _answered(client.messages.create(messages=QUESTION, tools=TOOLS, **ASKED))


def tools_streamed() -> str:
    with client.messages.stream(messages=QUESTION, tools=TOOLS, **ASKED) as events:
        return _answered(events.get_final_message())


def _answered(first: anthropic.types.Message) -> str:
    """The second turn: the first one as it was, thoughts included, and the results of both calls, last call first."""
    assert [block.type for block in first.content] == ["thinking", "tool_use", "tool_use"]
    calls = [block for block in first.content if block.type == "tool_use"]
    assert [(call.name, call.input) for call in calls] == [("look", {"at": "sky"}), ("wait", {})]
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": RESULTS[call.name]} for call in calls]
    turns = [*QUESTION, {"role": "assistant", "content": first.content}, {"role": "user", "content": results[::-1]}]
    second = client.messages.create(messages=turns, tools=TOOLS, **ASKED)
    assert second.usage.cache_read_input_tokens >= 0.95 * first.usage.input_tokens
    return second.content[-1].text


def tool_runner() -> str:
    """Keeps its conversation on the server if that is offered, and sends all of it when told that it is not."""

    @anthropic.beta_tool
    def look(at: str) -> str:
        """What is to be seen there.

        Args:
            at: where to look
        """
        return RESULTS["look"] if at == "sky" else "Nothing."

    @anthropic.beta_tool
    def wait() -> str:
        """Let a moment pass."""
        return RESULTS["wait"]

    runner = client.beta.messages.tool_runner(messages=QUESTION, tools=[look, wait], **ASKED)
    return runner.until_done().content[-1].text


def parse() -> str:
    person = client.messages.parse(messages=QUESTION, output_format=Person, **ASKED).parsed_output
    assert (person.name, person.born) == ("Ada", 1815)
    return person.model_dump_json()


def count_tokens() -> str:
    """What is counted beforehand is what is charged."""
    counted = client.messages.count_tokens(model=MODEL, system="You are brief.", messages=QUESTION, tools=TOOLS)
    used = client.messages.create(messages=QUESTION, tools=TOOLS, **ASKED).usage
    spent = used.input_tokens + used.cache_read_input_tokens
    assert counted.input_tokens == spent, (counted.input_tokens, spent)
    return "counted"


def messages_twice() -> str:
    """Two turns of a conversation with whatever the model says; what is to be cached is marked in one form only."""
    asked = {**ASKED, "max_tokens": 12, "tools": TOOLS, "extra_body": {"temperature": 0}}
    marked = [{"type": "text", "text": QUESTION[0]["content"], "cache_control": {"type": "ephemeral"}}]
    first = client.messages.create(messages=[{"role": "user", "content": marked}], **asked)
    turns = [*QUESTION, {"role": "assistant", "content": first.content}, {"role": "user", "content": "And now?"}]
    return client.messages.create(messages=turns, **asked).content[0].text


def too_long() -> str:
    try:
        client.messages.create(messages=[{"role": "user", "content": "one two " * 9000}], **ASKED)
    except anthropic.BadRequestError as error:
        return error.body["error"]["message"]
    raise AssertionError("it was not refused")


print(globals()[sys.argv[1]]())
