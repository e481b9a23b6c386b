"""May a model go? Several gateways evict here and none sees the others' requests, so the answer is the node's."""

from __future__ import annotations

from dataclasses import dataclass

from helexa.base.units import human_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """A loaded model's time here, in seconds. `idle_s` is the time since its last request ended, 0 while one is in
    flight, None as long as nobody has used it. `load_id` tells its stays apart."""

    loaded_s: float
    idle_s: float | None
    load_id: str = ""

    def holds(self, *, spare_unused_s: float, min_idle_s: float, load_id: str) -> str | None:
        """Why it is not to be unloaded on these conditions, or None.

        A model that nobody has used yet was loaded for a request that is on its way: it is spared for `spare_unused_s`,
        or two gateways evict each other's loads for ever. `min_idle_s` is for who wants only idle models gone,
        `load_id` for who decided on what it had seen: a stay that it does not know of was not weighed.
        """
        if load_id and load_id != self.load_id:
            return "has left and come back since it was chosen"
        if self.idle_s is None and self.loaded_s < spare_unused_s:
            return f"was loaded {human_seconds(self.loaded_s)} ago and not used yet"
        idle_s = self.loaded_s if self.idle_s is None else self.idle_s
        return f"was used {human_seconds(idle_s)} ago" if idle_s < min_idle_s else None
