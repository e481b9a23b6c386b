"""What a profile or a load request may set of the openvino engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from helexa.neuron.core.options import OPENVINO, read


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVinoOptions:
    """`threads` for a step (None: the device's); `batch` tokens of prompts and answers in one step; `kv_cache` how keys
    and values are kept; `prefix_cache`: prompts that begin alike share what was computed."""

    threads: int | None = None
    batch: int = 64
    kv_cache: str = "u8"
    prefix_cache: bool = True


def parse(options: dict[str, Any]) -> OpenVinoOptions:
    """Raises BadOption that names the option at fault."""
    return OpenVinoOptions(**read(options, OPENVINO))
