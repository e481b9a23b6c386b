"""May this request run now, wait, or must it be turned away? One gate per loaded model; pure.

Seats bound how many requests decode together, `kv_tokens` how many tokens of KV cache they may need together, the queue
bounds how many wait, the deadline bounds how long. A saturated model is not a broken one: it answers 503 with an honest
Retry-After and stays loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

Verdict = Literal["take", "wait", "full"]

SHORTEST_RETRY_S, LONGEST_RETRY_S = 1.0, 120.0
BYTES_PER_TOKEN = 3
"""Of a request's body; four are usual for English prose, and to promise too little is worse than too much."""
_UNSAID_SHARE = 4
"""A request that sets no limit is promised this part of the context for its answer."""


class _Limits(msgspec.Struct):
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """`seats` decode together, `queue` wait beyond them; a waiter is turned away after `max_wait_s`. `kv_tokens` is the
    KV cache that the seats share, None where each has its own for `context` tokens."""

    seats: int
    queue: int
    max_wait_s: float
    context: int = 0
    kv_tokens: int | None = None

    def demand(self, body: bytes) -> int:
        """Tokens of KV cache to promise to a request; 0 where nothing is shared. Never more than there is: a request
        that needs all of it runs alone."""
        if self.kv_tokens is None:
            return 0
        return min(self.kv_tokens, self.context, -(-len(body) // BYTES_PER_TOKEN) + self._answer_tokens(body))

    def _answer_tokens(self, body: bytes) -> int:
        try:
            asked = msgspec.json.decode(body, type=_Limits)
        except (msgspec.DecodeError, msgspec.ValidationError):  # the engine will say what is wrong with it
            return 0
        limit = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
        tokens = self.context // _UNSAID_SHARE if limit is None or limit < 0 else limit
        return tokens * max(1, asked.n or 1)

    def verdict(self, in_flight: int, waiting: int, *, reserved: int = 0, demand: int = 0) -> Verdict:
        """What becomes of one more request. Who waits is older, so a newcomer never overtakes."""
        if waiting == 0 and self.free(in_flight, reserved=reserved, demand=demand):
            return "take"
        return "wait" if waiting < self.queue else "full"

    def free(self, in_flight: int, *, reserved: int = 0, demand: int = 0) -> bool:
        """Whether the oldest waiter may sit, with `reserved` tokens of KV cache promised and `demand` wanted."""
        return in_flight < self.seats and (self.kv_tokens is None or reserved + demand <= self.kv_tokens)

    def retry_after_s(self, waiting: int, service_s: float) -> float:
        """When to come back: after those ahead were served, `service_s` each and `seats` at a time; 1 to 120 s."""
        return min(LONGEST_RETRY_S, max(SHORTEST_RETRY_S, service_s * (waiting + 1) / max(1, self.seats)))
