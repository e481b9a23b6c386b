"""Which part of a prompt the pipeline has computed already. It does not say, so its cache is kept account of here.

The pipeline keeps keys and values in blocks and finds a block again by all the tokens up to its end; when it needs room
it overwrites the one that was used longest ago. Only whole blocks are counted, and the last token is always computed,
so what is told is at most what was saved.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final

BLOCK_TOKENS: Final = 32
"""Tokens of a block on a CPU."""


class Prefixes:
    """The blocks that a cache of `blocks` holds."""

    def __init__(self, blocks: int) -> None:
        self._blocks = blocks
        self._known: OrderedDict[int, None] = OrderedDict()

    def cached(self, prompt: Sequence[int]) -> int:
        """Tokens at the beginning of `prompt` that need no prefill."""
        found = 0
        for key in _keys(prompt):
            if key not in self._known:
                break
            self._known.move_to_end(key)
            found += BLOCK_TOKENS
        return min(found, max(0, len(prompt) - 1))

    def computed(self, tokens: Sequence[int]) -> None:
        """All of `tokens` has been computed."""
        for key in _keys(tokens):
            self._known[key] = None
            self._known.move_to_end(key)

    def used(self, blocks: int) -> None:
        """So many blocks more are in use by sequences that are being made: the oldest others are gone."""
        while self._known and len(self._known) + blocks > self._blocks:
            self._known.popitem(last=False)


def blocks_of(tokens: int) -> int:
    """Blocks that hold so many tokens."""
    return -(-tokens // BLOCK_TOKENS)


def _keys(tokens: Sequence[int]) -> Iterator[int]:
    key = 0
    for end in range(BLOCK_TOKENS, len(tokens) + 1, BLOCK_TOKENS):
        key = hash((key, *tokens[end - BLOCK_TOKENS : end]))
        yield key
