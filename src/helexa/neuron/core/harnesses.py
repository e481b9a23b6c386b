"""What preflight must know of an engine, without importing it. The registry fills these in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessInfo:
    """An engine by name. `formats` it reads ("gguf", "dense_safetensors"; "any" loads without weights and is taken only
    when asked for by name); `extra` is what `pip install helexa[...]` brings it; `device_kinds` it runs on;
    `architectures` it reads, None for "not listed: the engine decides"; `version` as installed; `splits`: one model can
    lie on several devices."""

    name: str
    formats: tuple[str, ...]
    installed: bool = True
    extra: str = ""
    device_kinds: tuple[str, ...] = ("cuda", "rocm", "metal", "cpu")
    architectures: frozenset[str] | None = None
    version: str = ""
    splits: bool = False

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
