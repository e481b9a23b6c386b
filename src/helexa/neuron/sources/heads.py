"""From the first bytes of a model's files to the shape of the model: as many bytes as it takes, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from helexa.neuron.core.footprint import ModelShape, dense_shape, gguf_shape, with_draft
from helexa.neuron.core.gguf import Header, NotGguf, Truncated, read_header
from helexa.neuron.core.plan import RemoteFile
from helexa.neuron.core.preflight import Selection, refusal
from helexa.neuron.sources.contract import HeadUnavailable, Source
from helexa.neuron.sources.local import first_bytes
from helexa.neuron.sources.templates import problem

FIRST: Final = 2 * 1024 * 1024
MOST: Final = 256 * 1024 * 1024
MOST_TOKENS: Final = 1 << 30
_MAX_CONFIG: Final = 4 * 1024 * 1024


async def shape_of(source: Source, selection: Selection) -> ModelShape | None:
    """What the selected weights look like; None when their head cannot be had before they are fetched.

    Raises Refused (`bad_weights`) for files that are no model.
    """
    if selection.source is None:
        return None
    try:
        if selection.format == "gguf":
            shape, draft = await _gguf(source, selection), await _draft(selection)
            return shape if draft is None else with_draft(shape, draft)
        return await _dense(source, selection)
    except HeadUnavailable:
        return None
    except NotGguf as error:
        name = selection.files[0].name
        detail = f"`{name}` is not a usable GGUF file: {error.reason}"
        hint = "fetch the file again, or choose another one"
        raise refusal("bad_weights", selection.model_id, detail, file=name, suggestion=hint) from error


async def _gguf(source: Source, selection: Selection) -> ModelShape:
    assert selection.source is not None
    first, *others = [f for f in selection.files if "mmproj" not in f.name.lower()]
    header = await _header(partial(source.head, selection.source, first), first.size_bytes)
    _check_context(header)
    if not others:
        _check_layers(header)
    await _try_template(selection, first, header)
    more = sum(file.size_bytes or 0 for file in others)
    return await asyncio.to_thread(gguf_shape, header, weight_bytes=header.weight_bytes + more)


async def _draft(selection: Selection) -> ModelShape | None:
    """The model that the options say shall draft: a file on this host. Raises Refused for one that cannot."""
    given = [selection.options(harness).get("draft") for harness in selection.harnesses]
    path = next((Path(each) for each in given if isinstance(each, str)), None)
    if path is None:
        return None
    try:
        if not path.is_file():  # a pipe would be read for ever
            raise NotGguf("there is no such file")
        header = await _header(lambda length: asyncio.to_thread(first_bytes, path, length), path.stat().st_size)
    except (OSError, NotGguf) as error:
        why = error.reason if isinstance(error, NotGguf) else error.strerror
        hint = "name a GGUF file on this host, or leave it out"
        detail = f"option `draft`: `{path}` cannot be used: {why}; {hint}"
        raise refusal("invalid_option", selection.model_id, detail, option="draft", suggestion=hint) from error
    return await asyncio.to_thread(gguf_shape, header)


def _check_layers(header: Header) -> None:
    """Every layer has tensors of its own. llama.cpp aborts on more layers than it was built for: the whole worker."""
    layers = header.number("block_count") or 0
    if layers > len(header.tensors):
        raise NotGguf(f"it says that it has {layers} layers, in {len(header.tensors)} tensors")


def _check_context(header: Header) -> None:
    """llama.cpp counts tokens in 32 bits: a longer context becomes a negative one, at which its process ends."""
    trained = header.number("context_length") or 0
    if trained > MOST_TOKENS:
        raise NotGguf(f"it says that it was trained on {trained} tokens at once")


async def _try_template(selection: Selection, file: RemoteFile, header: Header) -> None:
    """Raises Refused for a chat template that no engine should be given: the file's, or the asker's in its place."""
    given = selection.spec.options.get("chat_template", header.metadata.get("tokenizer.chat_template"))
    why = await asyncio.to_thread(problem, given) if isinstance(given, str) else None
    if why is not None:
        detail = f"the chat template of `{file.name}` cannot be used: {why}"
        hint = "name another one with options.chat_template, or choose another model"
        raise refusal("bad_weights", selection.model_id, detail, file=file.name, suggestion=hint)


async def _header(head: Callable[[int], Awaitable[bytes]], file_bytes: int | None) -> Header:
    """A GGUF file's head, asked for in growing pieces until it is whole."""
    length = FIRST
    while True:
        data = await head(length)
        try:
            return await asyncio.to_thread(read_header, data, file_bytes=file_bytes)
        except Truncated as error:
            if len(data) < length or error.needed > MOST:
                raise NotGguf(f"its head is cut short or beyond {MOST >> 20} MiB") from error
            length = min(MOST, max(4 * length, error.needed))


async def _dense(source: Source, selection: Selection) -> ModelShape:
    assert selection.source is not None
    config = next((file for file in selection.files if file.name == "config.json"), None)
    weights = sum(file.size_bytes or 0 for file in selection.weight_files)
    table: dict[str, Any] = {}
    if config is not None:
        table = _table(await source.head(selection.source, config, _MAX_CONFIG), selection)
    return dense_shape(table, weights)


def _table(data: bytes, selection: Selection) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _bad_config(selection, str(error)) from error
    if not isinstance(found, dict):
        raise _bad_config(selection, "it is no table")
    return cast(dict[str, Any], found)


def _bad_config(selection: Selection, why: str) -> Exception:
    detail = f"config.json cannot be read: {why}"
    return refusal("bad_weights", selection.model_id, detail, file="config.json", suggestion="fetch the model again")
