"""What a profile or a load request may set of the openvino engine."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from helexa.neuron.core.options import OPENVINO, read


class OpenVinoOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`threads` for a step (None: the device's); `batch` tokens of prompts and answers in one step; `kv_cache` how keys
    and values are kept; `prefix_cache`: prompts that begin alike share what was computed."""

    threads: int | None = None
    batch: int = 64
    kv_cache: Literal["u8", "f16"] = "u8"
    prefix_cache: bool = True


def parse(options: dict[str, Any]) -> OpenVinoOptions:
    """Raises BadOption that names the option at fault."""
    return msgspec.convert(read(options, OPENVINO), OpenVinoOptions)
