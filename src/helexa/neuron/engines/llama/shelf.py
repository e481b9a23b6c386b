"""The KV cache of idle conversations across an unload: llama.cpp writes a slot to a file, and reads it back.

What goes wrong here is not worth a failed load or unload: the conversation is then computed anew, as it would be
without.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from helexa.neuron.engines.llama.inside import ask

LEAST_TOKENS = 32
"""A shorter conversation is computed again as fast as it is read."""
_SUFFIX = ".kv"
_LOOK_S, _MOVE_S = 2.0, 30.0


class _Slot(msgspec.Struct):
    id: int
    is_processing: bool = False
    n_prompt_tokens: int = 0


class _Restored(msgspec.Struct):
    n_restored: int = 0


def save(socket: str, folder: str, room_tokens: int) -> int:
    """Write the idle slots of the server at `socket` to `folder`, as far as `room_tokens` reach; returns the tokens
    written. A folder that is not there any more is not wanted any more."""
    place = Path(folder)
    if not folder or not place.is_dir():
        return 0
    for old in place.glob(f"*{_SUFFIX}"):
        old.unlink()
    written = 0
    try:
        for slot in sorted(_slots(socket), key=lambda slot: -slot.n_prompt_tokens):
            idle = not slot.is_processing and slot.n_prompt_tokens >= LEAST_TOKENS
            if idle and written + slot.n_prompt_tokens <= room_tokens and _move(socket, slot.id, "save") is not None:
                written += slot.n_prompt_tokens
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        return written
    return written


def restore(socket: str, folder: str, slots: int) -> int:
    """Read back what was saved, slot by slot; returns the tokens read."""
    read = 0
    if not folder:
        return read
    try:
        for slot in range(slots):
            file = Path(folder) / f"{slot}{_SUFFIX}"
            if file.is_file():
                answer = _move(socket, slot, "restore")
                read += 0 if answer is None else msgspec.json.decode(answer, type=_Restored).n_restored
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        return read
    return read


def _slots(socket: str) -> list[_Slot]:
    status, body = ask(socket, "GET", "/slots", timeout_s=_LOOK_S)
    return msgspec.json.decode(body, type=list[_Slot]) if status == 200 else []


def _move(socket: str, slot: int, action: str) -> bytes | None:
    """The answer to a save or restore, None for a refusal: not every kind of model can do it."""
    name = msgspec.json.encode({"filename": f"{slot}{_SUFFIX}"})
    status, body = ask(socket, "POST", f"/slots/{slot}?action={action}", name, timeout_s=_MOVE_S)
    return body if status == 200 else None
