"""Finished responses, kept for a while: for `previous_response_id`, `item_reference` and `GET /v1/responses/{id}`.

A small LRU bounded by bytes. It lives in one gateway: a client that loses it sends its whole conversation, as the
dialect tells it to.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from helexa.wire.translate import Record

MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Kept:
    record: Record
    items: tuple[bytes, ...]

    @property
    def size(self) -> int:
        return len(self.record.body) + sum(map(len, self.items))


class Shelf:
    """Responses by id, and their items by theirs."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._items: dict[str, bytes] = {}
        self._bytes = 0

    def put(self, record: Record, inputs: Sequence[bytes]) -> None:
        """Keep a finished response with the input that it answered, unless its client said not to."""
        if not record.store:
            return
        kept = _Kept(record, (*inputs, *(item for _, item in record.outputs)))
        self.drop(record.id)
        self._kept[record.id] = kept
        self._items.update(record.outputs)
        self._bytes += kept.size
        while self._bytes > self._max_bytes and len(self._kept) > 1:
            self.drop(next(iter(self._kept)))

    def get(self, response_id: str) -> bytes | None:
        """The response object, as it was sent."""
        kept = self._kept.get(response_id)
        if kept is None:
            return None
        self._kept.move_to_end(response_id)
        return kept.record.body

    def lookup(self, key: str) -> Sequence[bytes] | None:
        """The items behind the id of a response, or the one item behind the id of an item."""
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            return kept.items
        item = self._items.get(key)
        return None if item is None else (item,)

    def drop(self, response_id: str) -> bool:
        """Forget a response; False when it was not here."""
        kept = self._kept.pop(response_id, None)
        if kept is None:
            return False
        self._bytes -= kept.size
        for item_id, _ in kept.record.outputs:
            self._items.pop(item_id, None)
        return True
