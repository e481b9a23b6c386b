"""The tokenizer of a loaded pipeline: text to ids, and each id's bytes."""

from __future__ import annotations

import re
from typing import Any

from helexa.neuron.core.chat.tools import MARKS

MOST_AT_ONCE = 8192
"""Tokens that the tokenizer of a GGUF makes of one text; of a longer one it gives the last of them and says nothing."""
_SEAM = re.compile(r"(?<=[^\W\d_]) (?=[^\W\d_])")
"""A space between two words, at which the word splitting of every tokenizer that is read begins anew."""
_SPECIAL = re.compile(rb"<[^\s<>]*>|\[[^\s\[\]]*\]")
_ENDS = frozenset((b"<|im_end|>", b"<|endoftext|>", b"<|eot_id|>", b"<|end_of_text|>", b"<|eom_id|>", b"</s>"))
"""Tokens that end an answer whatever the file says: files name one, models use several."""
_MARKS = frozenset(mark.encode() for mark in MARKS)


class Vocabulary:
    """`raw` are each token's bytes, `pieces` none for those that nobody should see; `ends` are the ids that end an
    answer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        by_id: dict[int, bytes] = {token: raw for raw, token in tokenizer.get_vocab().items()}
        special = self._special(by_id)
        size = max(by_id, default=-1) + 1
        self.raw: list[bytes] = [by_id.get(token, b"") for token in range(size)]
        self.pieces: list[bytes] = [self._shown(raw, token in special) for token, raw in enumerate(self.raw)]
        found = {token for token in special if by_id[token] in _ENDS}
        self.ends: frozenset[int] = frozenset({*found, tokenizer.get_eos_token_id()} - {-1})

    def encode(self, text: str, *, begin: bool) -> list[int]:
        """Token ids; special tokens in `text` are taken as such."""
        if not text:
            return []
        tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=begin).input_ids.data[0].tolist()
        if len(tokens) < MOST_AT_ONCE:
            return tokens
        seam = _seam(text)
        return self.encode(text[:seam], begin=begin) + self.encode(text[seam:], begin=False)

    def _special(self, by_id: dict[int, bytes]) -> frozenset[int]:
        """The tokens that the tokenizer leaves out of what it shows."""
        like = [token for token, raw in by_id.items() if _SPECIAL.fullmatch(raw)]
        shown: list[str] = self._tokenizer.decode([[token] for token in like], skip_special_tokens=True) if like else []
        return frozenset(token for token, text in zip(like, shown, strict=True) if not text)

    @staticmethod
    def _shown(raw: bytes, special: bool) -> bytes:
        return b"" if special and raw not in _MARKS else raw


def _seam(text: str) -> int:
    """Where a text can be halved and its tokens stay the same; where it has no two words, its very middle."""
    middle = len(text) // 2
    found = _SEAM.search(text, middle) or _SEAM.search(text)
    return found.start() if found else middle
