"""What the openvino engine adds of its own, on the real model in this process."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.http1.client import Origin
from helexa.neuron.app import Neuron
from helexa.neuron.config import DeviceEntry, NeuronConfig
from helexa.neuron.engines.openvino.prefixes import BLOCK_TOKENS, Prefixes, blocks_of
from helexa.neuron.harness import BadOption, DeviceRef, LoadOrder, Resident
from tests.neuron.api.client import Client

pytestmark = pytest.mark.timeout(120)
CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 16}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": CITY}}]
QUESTION = [{"role": "user", "content": "What is the weather in Oslo?"}]

PROMPTS = {"1, 2, 3, 4, 5, 6, 7,": " 8", "A, B, C, D, E, F,": " G"}
Ask = Callable[..., Any]


def order(path: Path, socket: str, **options: object) -> LoadOrder:
    cpu = DeviceRef(kind="cpu", index=0, memory_mb=6000)
    return LoadOrder(
        model_id="m", files=(str(path),), devices=(cpu,), socket=socket, context=1024, slots=4, options=dict(options)
    )


def load(path: Path, socket: str, **options: object) -> Resident:
    pytest.importorskip("openvino_genai")
    from helexa.neuron.engines.openvino import OpenVinoEngine

    return OpenVinoEngine().load(order(path, socket, **options), lambda _stage, _progress: None)


@pytest.fixture(scope="module")
def socket(smollm2_path: Path) -> Iterator[str]:
    folder = tempfile.mkdtemp()
    resident = load(smollm2_path, f"{folder}/s", batch=64)
    yield f"{folder}/s"
    resident.unload()
    assert not Path(f"{folder}/s").exists()
    shutil.rmtree(folder)


@pytest.fixture
def ask(socket: str) -> Ask:
    """Posts to the engine's own socket; the answer and its status."""

    async def post(path: str, body: dict[str, Any]) -> tuple[int, Any, list[tuple[bytes, bytes]]]:
        origin = Origin(unix_path=socket)
        async with (
            asyncio.timeout(30),
            await origin.request(b"POST", path.encode(), [], msgspec.json.encode(body)) as got,
        ):
            raw = await got.read(1 << 22)
        await origin.aclose()
        return got.status, msgspec.json.decode(raw), got.headers

    def asked(path: str = "/v1/chat/completions", **body: Any) -> tuple[int, Any, list[tuple[bytes, bytes]]]:
        chat = {"messages": QUESTION} if path.endswith("chat/completions") else {}
        return asyncio.run(post(path, {"model": "m", **chat, **body}))

    return asked


def test_a_required_call_is_made_whatever_the_seed(ask: Ask) -> None:
    for seed in range(4):
        status, answer, _ = ask(tools=TOOLS, tool_choice="required", max_tokens=80, seed=seed, temperature=1.5)
        assert status == 200
        (choice,) = answer["choices"]
        assert choice["finish_reason"] == "tool_calls"
        (call,) = choice["message"]["tool_calls"]
        assert call["function"]["name"] == "weather"
        assert json.loads(call["function"]["arguments"]).keys() == {"city"}


def test_a_call_is_of_a_tool_that_is_allowed(ask: Ask) -> None:
    other = {"type": "function", "function": {"name": "clock", "parameters": CITY}}
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "clock"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    _, answer, _ = ask(tools=[*TOOLS, other], tool_choice=choice, max_tokens=80)
    assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "clock"


def test_fields_that_have_no_effect_are_named(ask: Ask) -> None:
    nothing: dict[str, Any] = {"logit_bias": None, "top_logprobs": None, "user": "me"}
    _, _, headers = ask(max_tokens=2, dry_multiplier=0.8, typical_p=0.9, tools=TOOLS, **nothing)
    named = dict(headers)[b"x-helexa-ignored"].decode().split(", ")
    assert sorted(named) == ["dry_multiplier", "tools", "typical_p"]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/chat/completions", {"logit_bias": {"5": -100}}, "logit_bias"),
        ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 2}, "top_logprobs"),
        ("/v1/completions", {"prompt": "x", "logprobs": 1}, "logprobs"),
        ("/tokenize", {"content": "x", "parse_special": False}, "parse_special"),
        ("/v1/completions", {"prompt": "x", "echo": True}, "echo"),
        ("/v1/completions", {"prompt": "x", "response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_a_field_whose_loss_would_change_the_meaning_is_refused_with_the_way_out(
    ask: Ask, path: str, fields: dict[str, Any], param: str
) -> None:
    status, answer, _ = ask(path, **fields)
    assert (status, answer["error"]["param"]) == (400, param)
    if param not in ("echo", "response_format"):
        assert 'harness = "llama"' in answer["error"]["message"]


def test_fields_that_ask_for_nothing_are_neither_refused_nor_missed(ask: Ask) -> None:
    status, answer, _ = ask(max_tokens=2, logit_bias={}, top_logprobs=0, logprobs=True)
    assert (status, len(answer["choices"][0]["logprobs"]["content"])) == (200, 2)
    assert ask("/v1/completions", prompt="x", max_tokens=2, logprobs=0, best_of=1, suffix="")[0] == 200


def test_a_schema_that_makes_no_sense_is_refused_and_harms_nobody(ask: Ask) -> None:
    for schema in ({"type": "nonsense"}, {"$ref": "#/nowhere"}, {"enum": []}):
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        status, answer, _ = ask(response_format=form, max_tokens=4)
        assert status == 400
        assert answer["error"]["param"].startswith("response_format.json_schema.schema")
    assert ask(max_tokens=2)[0] == 200


SCHEMAS = [
    {"type": "array", "items": {"enum": ['a"b', "c\\d", "é\n", 3, None, {"x": [1]}]}, "minItems": 2, "maxItems": 4},
    {"anyOf": [{"const": {"a": "b"}}, {"type": "string", "minLength": 3, "maxLength": 5}]},
    {"properties": {'we"ird': {"type": ["null", "boolean"]}, "n": {"type": "integer"}}, "required": ['we"ird']},
    {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "required": ["a"], "$defs": {"b": {"const": 1}}},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: next(iter(schema)))
def test_every_kind_of_grammar_is_understood(ask: Ask, schema: dict[str, Any]) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    _, answer, _ = ask(response_format=form, max_tokens=60, seed=1, temperature=1.5)
    json.loads(answer["choices"][0]["message"]["content"])


def test_a_bound_that_would_hold_up_everybody_is_named_and_not_held(ask: Ask) -> None:
    names = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 500}}, "required": ["name"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": names}}
    status, _, headers = ask(response_format=form, max_tokens=8)
    assert (status, dict(headers)[b"x-helexa-ignored"]) == (200, b"schema.maxLength")
    form["json_schema"]["schema"]["properties"]["name"] = {"type": "string", "minLength": 500}
    status, answer, _ = ask(response_format=form, max_tokens=8)
    assert (status, answer["error"]["param"]) == (400, "response_format.json_schema.schema.name.minLength")


def test_an_answer_by_a_schema_ends_with_it(ask: Ask) -> None:
    """Asked to go on for ever, it did, behind its end."""
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": {"a": 1}}}}
    _, answer, headers = ask(response_format=form, max_tokens=40, ignore_eos=True)
    assert json.loads(answer["choices"][0]["message"]["content"]) == {"a": 1}
    assert dict(headers)[b"x-helexa-ignored"] == b"ignore_eos"


def test_what_is_told_of_the_cache_is_true(ask: Ask) -> None:
    """Whole blocks of a prompt seen before, none of one that is new."""
    text = " ".join(f"x{at}" for at in range(200))
    counts = [ask(messages=[{"role": "user", "content": text}], max_tokens=1)[1]["usage"] for _ in range(2)]
    cached = [count["prompt_tokens_details"]["cached_tokens"] for count in counts]
    size = counts[0]["prompt_tokens"]
    assert cached[0] <= BLOCK_TOKENS  # the system prompt that all share
    assert cached[1] == (size - 1) // BLOCK_TOKENS * BLOCK_TOKENS


def test_the_assistants_last_words_are_continued(ask: Ask) -> None:
    turns = [*QUESTION, {"role": "assistant", "content": "The weather in"}]
    _, answer, _ = ask("/apply-template", messages=turns)
    assert answer["prompt"].endswith("<|im_start|>assistant\nThe weather in")


@pytest.mark.parametrize(("said", "status"), [('{"city": "Os', 400), ("Here it is: ", 200)])
def test_a_value_that_the_assistant_has_begun_is_not_begun_anew(ask: Ask, said: str, status: int) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": CITY}}
    turns = [*QUESTION, {"role": "assistant", "content": said}]
    got, answer, _ = ask(messages=turns, response_format=form, max_tokens=30)
    assert got == status
    assert got == 200 or answer["error"]["param"] == "response_format"


@pytest.mark.parametrize("text", ["word " * 9000, "\u6c34" * 9000, "x" * 20_000])
def test_a_text_longer_than_its_tokenizer_takes_is_not_cut(ask: Ask, text: str) -> None:
    _, answer, _ = ask("/tokenize", content=text)
    assert ask("/detokenize", tokens=answer["tokens"])[1]["content"] == text


def test_what_is_put_together_of_two_halves_is_what_one_would_be(ask: Ask) -> None:
    words = " It was 1984, and he couldn't say why: a b\n\n c  d."
    short = ask("/tokenize", content=words * 300)[1]["tokens"]
    long = ask("/tokenize", content=words * 600)[1]["tokens"]
    assert len(short) < 8192 < len(long)
    assert long == short * 2


def test_a_token_is_told_with_its_text_or_its_bytes(ask: Ask) -> None:
    _, answer, _ = ask("/tokenize", content="hi\U0001f389", with_pieces=True)
    told = [each["piece"] for each in answer["tokens"]]
    assert told[0] == "hi"
    assert b"".join(bytes(each) for each in told[1:]).decode() == "\U0001f389"


def test_an_image_is_refused(ask: Ask) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    status, answer, _ = ask(messages=[{"role": "user", "content": [part]}])
    assert (status, answer["error"]["param"]) == (400, "messages.0.content")


def test_a_path_that_it_does_not_serve_is_a_404(ask: Ask) -> None:
    assert ask("/v1/embeddings", input="x")[0] == 404


@pytest.mark.parametrize(("name", "value"), [("thread", 1), ("threads", 0), ("kv_cache", "f99"), ("batch", "many")])
def test_a_wrong_option_is_named(name: str, value: object) -> None:
    pytest.importorskip("openvino_genai")
    from helexa.neuron.engines.openvino import options

    with pytest.raises(BadOption) as wrong:
        options.parse({name: value})
    assert wrong.value.name == name


async def test_it_is_taken_by_itself_for_a_crowd_and_it_is_said_why(smollm2_path: Path) -> None:
    pytest.importorskip("openvino_genai")
    pytest.importorskip("xllamacpp")
    config = NeuronConfig(port=0, devices=[DeviceEntry(kind="cpu", memory_mb=2000)])
    async with Neuron(config, drain_s=0.5) as neuron:
        client = Client(neuron)

        async def planned(**spec: Any) -> tuple[str, str]:
            got = await client.post("/models/preflight", {"model_id": f"file:{smollm2_path}", "context": 1024, **spec})
            plan = got.json["plan"]
            return plan["harness"], plan.get("harness_reason") or ""

        crowd = await planned(options={"slots": 8})
        assert crowd == ("openvino", "8 slots were asked for, and for a crowd openvino is the faster")
        assert await planned() == ("llama", "openvino pays from 4 slots on, none asked for")
        assert await planned(harness="openvino") == ("openvino", "")
        await client.origin.aclose()


TOKENS = st.lists(st.integers(0, 3), max_size=4 * BLOCK_TOKENS)


def test_several_prompts_are_answered_each_in_its_place(ask: Ask) -> None:
    alone = [ask("/v1/completions", prompt=text, max_tokens=1)[1]["usage"]["prompt_tokens"] for text in PROMPTS]
    status, both, _ = ask("/v1/completions", prompt=[*PROMPTS], n=2, max_tokens=2, temperature=0)
    assert status == 200
    assert [each["index"] for each in both["choices"]] == [0, 1, 2, 3]
    assert [each["text"].rstrip(",") for each in both["choices"]] == [
        said for said in PROMPTS.values() for _ in range(2)
    ]
    assert both["usage"]["prompt_tokens"] == sum(alone)


@pytest.mark.parametrize("prompt", ["", [1 << 30], [], [[]], ["a", ""], [1, "a"]])
def test_a_prompt_that_cannot_be_is_refused(ask: Ask, prompt: object) -> None:
    status, said, _ = ask("/v1/completions", prompt=prompt, max_tokens=3)
    assert (status, said["error"]["param"]) == (400, "prompt"), said


@given(TOKENS, TOKENS)
def test_never_more_is_said_to_be_cached_than_two_prompts_share(first: list[int], second: list[int]) -> None:
    prefixes = Prefixes(100)
    assert prefixes.cached(first) == 0
    prefixes.computed(first)
    shared = next((at for at, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]), None)
    shared = min(len(first), len(second)) if shared is None else shared
    cached = prefixes.cached(second)
    assert cached <= min(shared, max(0, len(second) - 1))
    assert cached == min(shared // BLOCK_TOKENS * BLOCK_TOKENS, max(0, len(second) - 1))


def test_blocks_that_others_need_are_forgotten_oldest_first() -> None:
    prefixes = Prefixes(4)
    old, new = [1] * 2 * BLOCK_TOKENS, [2] * 2 * BLOCK_TOKENS
    prefixes.computed(old)
    prefixes.computed(new)
    prefixes.used(blocks_of(2 * BLOCK_TOKENS))
    assert prefixes.cached([*old, 0]) == 0
    assert prefixes.cached([*new, 0]) == 2 * BLOCK_TOKENS
