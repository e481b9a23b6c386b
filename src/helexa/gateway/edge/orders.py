"""Bodies of the operator API."""

from __future__ import annotations

import msgspec


class Named(msgspec.Struct):
    """A model, everywhere or on one node."""

    model: str
    node: str | None = None


class Plan(msgspec.Struct):
    """One of the three: what would be done to serve `model`, to `unload` a model, to `drain` a node."""

    model: str | None = None
    unload: str | None = None
    drain: str | None = None


class Pin(msgspec.Struct):
    model: str
    pinned: bool = True
    node: str | None = None


class Drain(msgspec.Struct):
    node: str
    drain: bool = True
