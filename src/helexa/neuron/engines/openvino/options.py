"""What a profile or a load request may set of the openvino engine."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from helexa.neuron.harness import BadOption


class OpenVinoOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`threads` for a step (None: the device's); `batch` tokens of prompts and answers in one step; `kv_cache` how keys
    and values are kept; `prefix_cache`: prompts that begin alike share what was computed."""

    threads: int | None = None
    batch: int = 64
    kv_cache: Literal["u8", "f16"] = "u8"
    prefix_cache: bool = True


KNOWN = OpenVinoOptions.__struct_fields__


def parse(options: dict[str, Any]) -> OpenVinoOptions:
    """Raises BadOption that names the option at fault."""
    for name in options:
        if name not in KNOWN:
            raise BadOption(name, KNOWN)
    try:
        parsed = msgspec.convert(options, OpenVinoOptions)
    except msgspec.ValidationError as error:
        name = str(error).rpartition("$.")[2].rstrip("`")
        raise BadOption(name, KNOWN, f"option `{name}`: {error}") from error
    for name in ("threads", "batch"):
        value = getattr(parsed, name)
        if value is not None and value < 1:
            raise BadOption(name, KNOWN, f"option `{name}`: must be at least 1")
    return parsed
