"""Chat templates from anywhere: bounded ones pass, bombs are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from helexa.base.errors import Refused
from helexa.neuron.core import options
from helexa.neuron.core.gguf import read_header
from helexa.neuron.core.harnesses import HarnessInfo
from helexa.neuron.core.plan import DeviceState
from helexa.neuron.sources.library import Library
from helexa.neuron.sources.local import LocalFiles
from helexa.neuron.sources.templates import problem
from helexa.wire.control import ModelSpec
from tests.neuron.core.gguf_files import tiny_llama

pytest.importorskip("jinja2")

BOMBS = {
    "a loop that never ends": "{% for i in range(1000000000) %}x{% endfor %}",
    "loops in loops": "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "a text that fills the memory": "{{ 'x' * 10000000000 }}",
    "a text that doubles": "{% set n = namespace(t='x') %}"
    "{% for i in range(99) %}{% set n.t = n.t + n.t %}{% endfor %}",
    "a macro that calls itself": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "parentheses without end": "{{ " + "(" * 60_000 + "1" + ")" * 60_000 + " }}",
    "a very long text": "x" * 300_000,
    "a loop that waits for tools": "{% if tools %}{% for i in range(1000000000) %}x{% endfor %}{% endif %}",
    "a loop behind a refusal": "{% if messages|length < 2 %}{{ raise_exception('no') }}{% endif %}"
    "{% for i in range(1000000000) %}x{% endfor %}",
}
HARMLESS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}",
    "{{ raise_exception('no') }}",
    "{% if %}",
    "{{ nothing.of.the.kind }}",
    "",
)
CPU = DeviceState(index=0, kind="cpu", name="cpu", total_mb=4000)


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_that_does_too_much_is_named(name: str) -> None:
    assert problem(BOMBS[name])


@pytest.mark.parametrize("source", HARMLESS)
def test_a_template_that_ends_is_left_to_the_engine(source: str) -> None:
    assert problem(source) is None


def test_the_real_models_template_is_harmless(smollm2_path: Path) -> None:
    with smollm2_path.open("rb") as file:
        template = read_header(file.read(4 << 20)).metadata["tokenizer.chat_template"]
    assert isinstance(template, str)
    assert problem(template) is None


async def test_a_file_with_a_bomb_is_refused_before_any_engine_sees_it(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny_llama(**{"tokenizer.chat_template": BOMBS["a loop that never ends"]}))
    library = Library(
        {"file": LocalFiles()}, lambda: {"llama": HarnessInfo(options=options.LLAMA, name="llama", formats=("gguf",))}
    )
    spec = ModelSpec(model_id=f"file:{path}")
    with pytest.raises(Refused, match="chat template") as refused:
        await library.plan(spec, [CPU])
    assert refused.value.fields["kind"] == "bad_weights"
    spec.options = {"chat_template": HARMLESS[0]}
    assert (await library.plan(spec, [CPU])).harness == "llama"
