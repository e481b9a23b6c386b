"""LangChain. usage: langchain_sdk.py TASK DIALECT ADDRESS MODEL; the last line printed is what the model said."""

import sys

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

TASK, DIALECT, ADDRESS, MODEL = sys.argv[1:]
QUESTION = [SystemMessage("You are brief."), HumanMessage("Look at the sky, wait, and tell me what you saw.")]


class Person(BaseModel):
    """Somebody."""

    name: str
    born: int


@tool
def look(at: str) -> str:
    """What is to be seen there."""
    return f"The {at} is blue."


@tool
def wait() -> str:
    """Let a moment pass."""
    return "A moment has passed."


def model() -> ChatOpenAI | ChatAnthropic:
    if DIALECT == "messages":
        return ChatAnthropic(model=MODEL, base_url=ADDRESS, api_key="none", max_tokens=200)
    return ChatOpenAI(
        model=MODEL,
        base_url=f"{ADDRESS}/v1",
        api_key="none",
        use_responses_api=DIALECT == "responses",
        stream_usage=True,
    )


def stream() -> str:
    chunks = list(model().stream(QUESTION))
    whole = sum(chunks[1:], chunks[0])
    assert len([chunk for chunk in chunks if chunk.text]) > 1
    assert whole.usage_metadata["output_tokens"] > 1
    return whole.text


def tools() -> str:
    bound = model().bind_tools([look, wait])
    first = bound.invoke(QUESTION)
    assert [(call["name"], call["args"]) for call in first.tool_calls] == [("look", {"at": "sky"}), ("wait", {})]
    results = [
        ToolMessage({"look": look, "wait": wait}[call["name"]].invoke(call["args"]), tool_call_id=call["id"])
        for call in first.tool_calls
    ]
    return bound.invoke([*QUESTION, first, *results]).text


def parse() -> str:
    person = model().with_structured_output(Person).invoke(QUESTION)
    assert (person.name, person.born) == ("Ada", 1815)
    return person.model_dump_json()


parse_by_tool = parse  # which is how it asks for structure in this dialect


def embeddings() -> str:
    vectors = OpenAIEmbeddings(
        model=MODEL, base_url=f"{ADDRESS}/v1", api_key="none", check_embedding_ctx_length=False
    ).embed_documents(["one", "two three"])
    return f"{len(vectors)} vectors"


print(globals()[TASK]())
