"""The list of what llama.cpp runs: whole, and only for the version that it was taken from."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from helexa.neuron.core.architectures import architectures_of
from helexa.neuron.registry import HARNESSES


def test_the_installed_llama_cpp_is_the_one_that_was_listed() -> None:
    found = importlib.util.find_spec("xllamacpp")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("xllamacpp is not installed")
    known = HARNESSES["llama"].info().architectures
    assert known is not None, "a new version: take LLM_ARCH_NAMES of its llama.cpp over into core/architectures.py"
    (library,) = Path(found.submodule_search_locations[0]).glob("xllamacpp*.so")
    binary = library.read_bytes()
    assert [name for name in known if name.encode() + b"\0" not in binary] == []
    assert {"llama", "gemma3", "qwen3moe", "jina-bert-v3", "gpt-oss"} <= known


def test_another_version_is_left_to_decide_by_itself() -> None:
    assert architectures_of("xllamacpp", "2031.1.1") is None
    assert architectures_of("transformers", "") is None
