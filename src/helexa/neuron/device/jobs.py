"""What crosses between the daemon and a device worker: plain values in length-prefixed msgpack frames.

Down go jobs, each with an id; up come exactly one reply for each job, and in between, unasked, progress and heartbeats.
A reply that names an unknown job is a fault of the worker, never matched to another job: replies that got out of step
once left a whole pipe answering the wrong questions.
"""

from __future__ import annotations

from typing import Any

import msgspec

from helexa.neuron.harness import Facts, LoadOrder

HEADER_BYTES = 4
FRAME_LIMIT = 16 * 1024 * 1024


class Job(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of what goes down; `id` is unique within one worker's life."""

    id: int


class Prepare(Job, frozen=True):
    """Import an engine ahead of its first load, so that the load does not pay for it. `engine` is "module:Class"."""

    engine: str


class Load(Job, frozen=True):
    """Load a model with the engine at "module:Class" and serve it on `order.socket`."""

    engine: str
    order: LoadOrder


class Unload(Job, frozen=True):
    """Stop serving a model and free its memory."""

    model_id: str


class Memory(Job, frozen=True):
    """How much of the device is used and free, as the driver says."""


class Up(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of what comes up."""


class Hello(Up, frozen=True):
    """The worker is ready for its first job."""

    pid: int


class Done(Up, frozen=True):
    """A job succeeded. `facts` answers Load; `used_mb` and `free_mb` answer Memory (None: cannot be said)."""

    id: int
    facts: Facts | None = None
    used_mb: int | None = None
    free_mb: int | None = None


class Broke(Up, frozen=True):
    """A job failed; `fault` means that the device is lost, and with it this worker. `causes` runs from the error that
    was seen to the one that began it; `fields` are an option error's own."""

    id: int
    causes: list[str]
    fault: bool = False
    fields: dict[str, Any] | None = None


class Progress(Up, frozen=True):
    """How far a load has come: a stage, and 0..1 in it (None: not known)."""

    id: int
    stage: str
    progress: float | None = None


class Heartbeat(Up, frozen=True):
    """The process lives."""


Down = Prepare | Load | Unload | Memory
Upward = Hello | Done | Broke | Progress | Heartbeat
Reply = Done | Broke

_encoder = msgspec.msgpack.Encoder()
down = msgspec.msgpack.Decoder(Down)
upward = msgspec.msgpack.Decoder(Upward)


def frame(message: Job | Up) -> bytes:
    """One message with its length before it."""
    body = _encoder.encode(message)
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def length(header: bytes) -> int:
    """The length that a header announces. Raises ValueError for one that no honest peer sends."""
    size = int.from_bytes(header, "big")
    if size > FRAME_LIMIT:
        raise ValueError(f"a frame of {size} bytes is over the limit of {FRAME_LIMIT}")
    return size
