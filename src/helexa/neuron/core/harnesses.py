"""What preflight must know of an engine, without importing it. The registry fills these in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from helexa.neuron.core.options import Options


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What an engine needs of a GGUF file, where it does not read them all: types of tensors and tokenizers
    ("model/pre"). It is taken by itself from `from_slots` slots on.

    `weights_ratio`: bytes in memory for each byte of the weights in the file; `kv_type` as which keys and values are
    counted, by the option `kv_cache`."""

    types: frozenset[str]
    tokenizers: frozenset[str]
    from_slots: int
    weights_ratio: float
    kv_type: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessInfo:
    """An engine by name. `formats` it reads ("gguf", "dense_safetensors"; "any" loads without weights and is taken only
    when asked for by name); `extra` is what `pip install helexa[...]` brings it; `device_kinds` it runs on;
    `options` that it has; `architectures` it reads, None for "not listed: the engine decides"; `version` as installed;
    `splits`: one model can lie on several devices."""

    name: str
    formats: tuple[str, ...]
    options: Options
    installed: bool = True
    extra: str = ""
    device_kinds: tuple[str, ...] = ("cuda", "rocm", "metal", "cpu")
    architectures: frozenset[str] | None = None
    version: str = ""
    splits: bool = False
    needs: Needs | None = None

    @property
    def weightless(self) -> bool:
        return "any" in self.formats

    @property
    def engine(self) -> str:
        """Name and version, as measurements are kept by."""
        return f"{self.name} {self.version}".strip()

    def reads(self, weights_format: str) -> bool:
        return weights_format in self.formats

    def runs_on(self, kinds: Iterable[str]) -> bool:
        return any(kind in self.device_kinds for kind in kinds)

    def knows(self, architecture: str) -> bool:
        return self.architectures is None or architecture in self.architectures
