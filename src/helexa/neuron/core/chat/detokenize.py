"""Token ids to text as they come, in whole characters."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence


class Detokenizer:
    """One answer's tokens as text.

    `pieces` holds each token's bytes by its id; the tokens that nobody should see have none. A character may be spread
    over several tokens: it comes out with the last of them.
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, tokens: Iterable[int]) -> str:
        """The text that these tokens complete. An id outside of the vocabulary is nothing."""
        pieces, known = self._pieces, len(self._pieces)
        return self._decoder.decode(b"".join(pieces[token] for token in tokens if 0 <= token < known))

    def end(self) -> str:
        """What is left of a character that was never completed, as U+FFFD."""
        return self._decoder.decode(b"", final=True)
