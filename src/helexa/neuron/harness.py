"""What an engine promises, and the plain values that cross into its worker process and back.

An engine lives in a device worker (`device/worker.py`) and serves each loaded model over HTTP, in the OpenAI dialect,
on a private Unix socket that the worker is told to use. The daemon relays bytes to that socket: no token of an answer
ever becomes a Python object in the daemon. Control (load, unload, memory) goes through the worker's job channel.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec


class DeviceRef(msgspec.Struct, frozen=True, kw_only=True):
    """A device as an engine sees it. `memory_mb` caps what helexa may use on it (MiB)."""

    kind: str
    index: int
    memory_mb: int
    threads: int | None = None
    part: float = 1.0
    """Its part of a model's layers (0..1) where the model is split over several devices."""


class LoadOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an engine needs to load one model; made by preflight, executed as it stands.

    `files` are absolute paths, the first one the entry point; `socket` is where the model must be served;
    `context` is tokens per sequence, `slots` how many sequences decode together; `options` are the engine's own, and
    an engine raises `BadOption` for one that it does not know. In `kv_folder` it may keep the KV cache of so many
    tokens of idle conversations while the model is unloaded; empty, or gone by then: nothing.
    """

    model_id: str
    files: tuple[str, ...]
    devices: tuple[DeviceRef, ...]
    socket: str
    context: int
    slots: int
    options: dict[str, Any] = {}
    kv_folder: str = ""
    kv_keep_tokens: int = 0


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model once it is loaded. `used_mb` is measured (MiB), None when it cannot be; `mapped`: the
    pages of the weights' files are not in it."""

    context_length: int
    max_output_tokens: int
    capabilities: tuple[str, ...]
    used_mb: int | None
    mapped: bool = False
    tool_call: bool = False
    reasoning: bool = False
    kv_restored_tokens: int = 0
    """Tokens of conversations that were kept across an unload and need no prefill now."""
    kv_tokens: int | None = None
    """Tokens of KV cache that all sequences share; None: each has its own, for `context_length` tokens."""
    pulse: str = ""
    """A path on its socket that it answers between two steps, by which a step that never ends is noticed."""
    hears_on_write: bool = False
    """It notices that a client has left only when it writes, so it has to be made to write (`api/coax.py`)."""
    counts_choices: bool = False
    """It counts the tokens of each choice alone, and thoughts not at all (`api/usage.py`)."""
    vocabulary: int | None = None
    """Tokens there are, None where a request's token ids need not be looked at."""
    calls_by_schema: bool = False
    """A call that must come is asked of it as an answer by a schema (`core/chat/choice.py`)."""
    fields: tuple[str, ...] = ()
    """The fields of a request that it honours; empty for an engine that looks after that itself."""
    spellings: dict[str, str] = {}
    """What others call a field, and what it calls it."""


class Report(Protocol):
    """How an engine tells of its progress while it loads: a stage, and 0..1 in it (None: not known)."""

    def __call__(self, stage: str, progress: float | None) -> None: ...


class Resident(Protocol):
    """One loaded model."""

    @property
    def facts(self) -> Facts: ...

    def unload(self) -> None:
        """Stop serving, free the memory; returns when both are done."""
        ...


class Engine(Protocol):
    """One per worker and harness. Called only from the worker's device thread."""

    def load(self, order: LoadOrder, report: Report) -> Resident:
        """Load and serve. Raises BadOption, DeviceFault (the device is lost: poisons the worker) or any other
        exception (this load failed and left nothing behind)."""
        ...

    def memory(self) -> tuple[int, int] | None:
        """(used, free) MiB of this worker's device as the driver reports it, or None when it cannot say."""
        ...


class BadOption(Exception):
    """An option that the engine does not know, or a value it cannot use."""

    def __init__(self, name: str, known: tuple[str, ...], problem: str) -> None:
        self.name, self.known, self.problem = name, known, problem
        super().__init__(f"option `{name}`: {problem}")


class DeviceFault(Exception):
    """The device itself failed (context lost, ECC, out of memory that left it unusable)."""
