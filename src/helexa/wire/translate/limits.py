"""What a model's limits do to a request, the same in every dialect."""

from __future__ import annotations

from helexa.wire.canon import Capabilities


def clamped(limit: int | None, can: Capabilities) -> int | None:
    """Clients ask for 32k or 64k tokens blindly; only a prompt may be too long, never a wish."""
    return min(limit, can.context_tokens) if limit and can.context_tokens else limit
