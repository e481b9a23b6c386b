"""OpenAI's SDK for Python. usage: openai_sdk.py TASK ADDRESS MODEL; the last line printed is what the model said."""

import json
import sys

import openai
from pydantic import BaseModel

MODEL = sys.argv[3]
LOOK = {
    "name": "look",
    "description": "What is to be seen there",
    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
}
WAIT = {"name": "wait", "description": "Let a moment pass", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": tool} for tool in (LOOK, WAIT)]
RESULTS = {"look": "The sky is blue.", "wait": "A moment has passed."}
QUESTION = "Look at the sky, wait, and tell me what you saw."
SAID = [{"role": "system", "content": "You are brief."}, {"role": "user", "content": QUESTION}]
client = openai.OpenAI(base_url=f"{sys.argv[2]}/v1", api_key="none")


class Person(BaseModel):
    name: str
    born: int


def chat() -> str:
    answer = client.chat.completions.create(model=MODEL, messages=SAID)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    return answer.choices[0].message.content


def stream() -> str:
    with client.chat.completions.stream(model=MODEL, messages=SAID, stream_options={"include_usage": True}) as events:
        pieces = [event.delta for event in events if event.type == "content.delta" and event.delta]
        final = events.get_final_completion()
    assert len(pieces) > 1
    assert final.usage.completion_tokens == len(pieces)
    assert "".join(pieces) == final.choices[0].message.content
    return final.choices[0].message.content


def tools() -> str:
    first = client.chat.completions.create(model=MODEL, messages=SAID, tools=TOOLS).choices[0].message
    return _answered(first)


def tools_streamed() -> str:
    with client.chat.completions.stream(model=MODEL, messages=SAID, tools=TOOLS) as events:
        first = events.get_final_completion().choices[0].message
    return _answered(first)


def _answered(first: openai.types.chat.ChatCompletionMessage) -> str:
    """The second turn: both calls with their results."""
    calls = [(call.function.name, json.loads(call.function.arguments)) for call in first.tool_calls]
    assert calls == [("look", {"at": "sky"}), ("wait", {})], calls
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": RESULTS[call.function.name]} for call in first.tool_calls
    ]
    turns = [*SAID, first.model_dump(exclude_none=True, exclude={"parsed"}), *results]
    second = client.chat.completions.create(model=MODEL, messages=turns, tools=TOOLS)
    return second.choices[0].message.content


def parse() -> str:
    person = client.chat.completions.parse(model=MODEL, messages=SAID, response_format=Person).choices[0].message.parsed
    assert (person.name, person.born) == ("Ada", 1815)
    return person.model_dump_json()


def embeddings() -> str:
    texts = ["one", "two three"]
    packed = client.embeddings.create(model=MODEL, input=texts)  # base64, unless it is told otherwise
    plain = client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    tokens = client.embeddings.create(model=MODEL, input=[[1, 2], [3]])
    assert [row.index for row in packed.data] == [0, 1]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert all(abs(left - right) < 1e-6 for left, right in zip(one.embedding, other.embedding, strict=True))
    return f"{len(packed.data)} and {len(tokens.data)} vectors"


def responses() -> str:
    answer = client.responses.create(model=MODEL, instructions="You are brief.", input=QUESTION)
    assert answer.status == "completed"
    assert client.responses.retrieve(answer.id).output_text == answer.output_text
    return answer.output_text


def responses_stream() -> str:
    with client.responses.stream(model=MODEL, input=QUESTION) as events:
        pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
        final = events.get_final_response()
    assert len(pieces) > 1
    assert "".join(pieces) == final.output_text
    return final.output_text


def responses_tools() -> str:
    """The second turn names the first by its id."""
    offered = [{"type": "function", **tool} for tool in (LOOK, WAIT)]
    first = client.responses.create(model=MODEL, instructions="You are brief.", input=QUESTION, tools=offered)
    results = _results(first)
    again = {"previous_response_id": first.id, "instructions": "You are brief."}
    return client.responses.create(model=MODEL, input=results, tools=offered, **again).output_text


def responses_replay() -> str:
    """The second turn holds every item of the first, thoughts included, and nothing is kept."""
    offered = [{"type": "function", **tool} for tool in (LOOK, WAIT)]
    asked = {"model": MODEL, "instructions": "You are brief.", "tools": offered, "store": False}
    first = client.responses.create(input=QUESTION, **asked)
    assert [item.type for item in first.output] == ["reasoning", "function_call", "function_call"]
    turns = [{"role": "user", "content": QUESTION}, *first.output, *_results(first)]
    return client.responses.create(input=turns, **asked).output_text


def _results(first: openai.types.responses.Response) -> list[dict[str, str]]:
    calls = [item for item in first.output if item.type == "function_call"]
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("look", {"at": "sky"}), ("wait", {})]
    return [{"type": "function_call_output", "call_id": call.call_id, "output": RESULTS[call.name]} for call in calls]


def responses_parse() -> str:
    person = client.responses.parse(model=MODEL, input=QUESTION, text_format=Person).output_parsed
    assert (person.name, person.born) == ("Ada", 1815)
    return person.model_dump_json()


def chat_twice() -> str:
    """Two turns of a conversation with whatever the model says."""
    asked = {"model": MODEL, "tools": TOOLS, "max_tokens": 12, "temperature": 0, "seed": 1}
    first = client.chat.completions.create(messages=SAID, **asked).choices[0].message
    turns = [*SAID, {"role": "assistant", "content": first.content}, {"role": "user", "content": "And now?"}]
    return client.chat.completions.create(messages=turns, **asked).choices[0].message.content


def responses_twice() -> str:
    asked = {"model": MODEL, "max_output_tokens": 12, "temperature": 0}
    first = client.responses.create(input=QUESTION, **asked)
    return client.responses.create(input="And now?", previous_response_id=first.id, **asked).output_text


def refused_embeddings() -> str:
    """A model that generates makes no vectors, and says so."""
    try:
        client.embeddings.create(model=MODEL, input="one")
    except openai.APIStatusError as error:
        return f"refused with {error.status_code}: {error.message}"
    raise AssertionError("it was not refused")


def too_long() -> str:
    try:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "one two " * 9000}])
    except openai.BadRequestError as error:
        return f"refused with {error.code}"
    raise AssertionError("it was not refused")


print(globals()[sys.argv[1]]())
