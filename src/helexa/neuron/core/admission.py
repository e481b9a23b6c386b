"""May this request run now, wait, or must it be turned away? One gate per loaded model; pure.

Seats bound how many requests decode together, the queue bounds how many wait, the deadline bounds how long. A saturated
model is not a broken one: it answers 503 with an honest Retry-After and stays loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["take", "wait", "full"]

LONGEST_RETRY_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """`seats` decode together, `queue` wait beyond them; a waiter is turned away after `max_wait_s`."""

    seats: int
    queue: int
    max_wait_s: float

    def verdict(self, in_flight: int, waiting: int) -> Verdict:
        """What becomes of one more request. Who waits is older, so a newcomer never overtakes."""
        if in_flight < self.seats and waiting == 0:
            return "take"
        return "wait" if waiting < self.queue else "full"

    def free(self, in_flight: int) -> bool:
        """Whether the oldest waiter may take a seat."""
        return in_flight < self.seats

    def retry_after_s(self, waiting: int) -> float:
        """When to come back: two seconds for each request ahead, between 1 and 120."""
        return min(LONGEST_RETRY_S, max(1.0, 2.0 * (waiting + 1) / max(1, self.seats)))
