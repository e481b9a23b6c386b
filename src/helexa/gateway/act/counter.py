"""Counting the tokens of a prompt with the model's own template and tokenizer, on a node that has them.

No count takes a decoding slot, so it is not queued behind anybody's tokens. A model that is loaded nowhere is counted
on a node that has its files; only when there is none is it loaded for the count.
"""

from __future__ import annotations

from collections.abc import Mapping

from helexa.base.errors import HelexaError
from helexa.gateway.act.dispatcher import Dispatcher
from helexa.gateway.act.loader import spec_of
from helexa.gateway.act.neuron_client import NeuronClient, NeuronRefused
from helexa.gateway.plan.place import holders, seats

MOST_ASKED = 8
"""How many nodes are asked for their files, the likeliest first, before the model is loaded."""


class NotCounted(HelexaError):
    """The node refused to count: {reason}"""

    code = "invalid_request_error"
    status = 400


class Counter:
    """Counts through the nodes' own tokenizers."""

    def __init__(self, clients: Mapping[str, NeuronClient], dispatcher: Dispatcher) -> None:
        self._clients = clients
        self._dispatcher = dispatcher

    async def count(self, model: str, body: bytes) -> int:
        """Tokens of the prompt that a chat request `body` would make. Raises HelexaError."""
        fleet, now = self._dispatcher.fleet, self._dispatcher.clock.now()
        ready = seats(fleet, model, now, frozenset())
        if ready:
            return await self._on(min(ready, key=lambda place: place.outstanding).node, model, body)
        for node in holders(fleet, model, now)[:MOST_ASKED]:
            try:
                return await self._on(node, model, body)
            except NotCounted:
                raise
            except HelexaError:
                continue  # not there, or not now: another node may have the files, and in the end it can be loaded
        async with self._dispatcher.seat(model) as seat:
            return await self._on(seat.node, model, body)

    async def _on(self, node: str, model: str, body: bytes) -> int:
        spec = spec_of(model, self._dispatcher.fleet.profiles.get(model))
        try:
            return await self._clients[node].count_tokens(spec, body)
        except NeuronRefused as error:
            if error.answer_status == 400:
                raise NotCounted(node=node, reason=error.message) from error
            raise
