"""The engines by name. Nothing here imports one: that happens in a worker, by the target's name."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import helexa
from helexa.base.errors import ConfigError
from helexa.neuron.core.architectures import architectures_of
from helexa.neuron.core.harnesses import HarnessInfo, Needs
from helexa.neuron.core.options import ECHO, LLAMA, OPENVINO, Options, read
from helexa.neuron.harness import BadOption


@dataclass(frozen=True, slots=True, kw_only=True)
class Harness:
    """One engine. `target` is "module:Class"; `module` is the library whose presence means that it is installed (None:
    always); `light`: cheap enough to import into every worker ahead of the first load; `splits`: it can spread one
    model over several devices."""

    name: str
    target: str
    formats: tuple[str, ...]
    options: Options
    module: str | None = None
    extra: str = ""
    kinds: tuple[str, ...] = ("cuda", "rocm", "metal", "cpu")
    light: bool = True
    splits: bool = False
    needs: Needs | None = None
    vocabulary: str | None = None
    """The engine that serves a model's tokenizer and template without its weights, as `target`, where there is one."""

    @property
    def installed(self) -> bool:
        return self.module is None or importlib.util.find_spec(self.module) is not None

    @property
    def version(self) -> str:
        """The library's version; helexa's own for an engine of its own, none for one that is not installed."""
        try:
            return helexa.__version__ if self.module is None else _version(self.module)
        except importlib.metadata.PackageNotFoundError:
            return ""

    def info(self) -> HarnessInfo:
        """What preflight must know of it."""
        return HarnessInfo(
            name=self.name,
            formats=self.formats,
            options=self.options,
            installed=self.installed,
            extra=self.extra,
            device_kinds=self.kinds,
            architectures=architectures_of(self.module, self.version),
            version=self.version,
            splits=self.splits,
            needs=self.needs,
        )


@cache
def _version(module: str) -> str:
    """Of an installed library: reading it takes milliseconds of every preflight."""
    return importlib.metadata.version(module)


_ALL = (
    Harness(
        name="llama",
        target="helexa.neuron.engines.llama:LlamaEngine",
        formats=("gguf",),
        options=LLAMA,
        module="xllamacpp",
        extra="llama",
        splits=True,
        vocabulary="helexa.neuron.engines.llama.vocabulary:VocabularyEngine",
    ),
    Harness(
        name="openvino",
        target="helexa.neuron.engines.openvino:OpenVinoEngine",
        formats=("gguf",),
        options=OPENVINO,
        module="openvino_genai",
        extra="openvino",
        kinds=("cpu",),
        light=False,
        needs=Needs(
            types=frozenset(("F32", "F16", "Q4_0", "Q4_1", "Q8_0")),
            tokenizers=frozenset(("gpt2/qwen2", "gpt2/smollm")),
            from_slots=4,
            weights_ratio=3.7,
            kv_type={"u8": "q8_1", "f16": "f16"},
        ),
    ),
    Harness(name="echo", target="helexa.neuron.engines.echo:EchoEngine", formats=("any",), options=ECHO),
)
HARNESSES = {harness.name: harness for harness in _ALL}


def offered(names: Iterable[str], configured: Mapping[str, Mapping[str, Any]]) -> tuple[Harness, ...]:
    """The engines that this host offers: those named, else every one that is installed. `configured` are the tables of
    options by engine.

    An engine that is named and not installed stays in, so that a load can say which extra brings it. Raises ConfigError
    for a name that is no engine's, and for an option that an engine does not have.
    """
    wanted = tuple(names)
    unknown = [name for name in (*wanted, *configured) if name not in HARNESSES]
    if unknown:
        raise ConfigError(
            path="harnesses", problem=f"no engine is called `{unknown[0]}`; there are {', '.join(HARNESSES)}"
        )
    for name, given in configured.items():
        try:
            read(given, HARNESSES[name].options)
        except BadOption as error:
            raise ConfigError(path=f"harness.{name}", problem=str(error)) from error
    if wanted:
        return tuple(HARNESSES[name] for name in wanted)
    return tuple(harness for harness in _ALL if harness.installed)
