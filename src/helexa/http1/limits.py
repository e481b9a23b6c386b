"""What one peer may cost us: sizes in bytes, times in seconds. Shared by the server and the upstream client."""

from __future__ import annotations

from dataclasses import dataclass

from helexa.base.units import MIB

KIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one connection. Every wait and every buffer in this room ends at one of them."""

    max_body_bytes: int = 64 * MIB
    max_target_bytes: int = 8 * KIB
    max_header_bytes: int = 64 * KIB
    max_headers: int = 128
    max_framing_bytes: int = 64 * KIB  # chunk sizes, extensions and trailers, beyond 8 bytes for each byte of body
    max_pipelined_bytes: int = 64 * KIB  # read ahead while a request is in work; then reading stops

    head_timeout_s: float = 10.0  # from a head's first byte (or the accept) to its last
    body_timeout_s: float = 30.0  # between two pieces of a body
    keepalive_timeout_s: float = 75.0  # between an answer and the next request
    stall_timeout_s: float = 60.0  # a client that reads nothing while its answer waits
    linger_timeout_s: float = 5.0  # after a refusal, for a client that is still sending
    cleanup_timeout_s: float = 5.0  # after a drain's time is up, for cancelled handlers
    max_linger_bytes: int = 128 * MIB

    write_high_bytes: int = 256 * KIB  # unsent answer from which the writer is told to wait
    read_high_bytes: int = 256 * KIB  # answer nobody has asked for yet, from which the upstream has to wait
    backlog: int = 2048
