"""The two fields a pass-through request is looked at for, and the one it may be changed in.

A request that stays in its dialect travels as bytes: `peek` reads `model` and `stream` and nothing else, and
`rewrite_model` replaces the value of the top-level `model` and leaves every other byte where it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from helexa.base.errors import InvalidRequest
from helexa.wire import intake


class Peek(msgspec.Struct, frozen=True):
    """What routing needs to know of a body."""

    model: str
    stream: bool | None = None


PREFIX_BYTES = 512
"""A prompt that is shorter is read anew sooner than its cache would be worth a detour; a longer conversation keeps
these bytes whatever is added to it."""
KEY_WITHIN = 1024
"""Parameters may come first; further on the key is not looked for."""
_PROMPTS = {"/v1/chat/completions": b'"messages"', "/v1/completions": b'"prompt"'}
_PEEK = msgspec.json.Decoder(Peek)
_KEY = b'"model"'

# Possessive, so that each is one pass over the bytes whatever they hold.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_TOKEN = re.compile(rb'[^"{}\[\]]*+(' + _STRING + rb"|[{}\[\]])", re.DOTALL)
_BRACKET = re.compile(rb'(?:[^"{}\[\]]|' + _STRING + rb")*+([{}\[\]])", re.DOTALL)
_COLON = re.compile(rb"[ \t\r\n]*+:[ \t\r\n]*+")
_VALUE = re.compile(_STRING, re.DOTALL)


def peek(body: bytes) -> Peek:
    """The body's `model` and `stream`. Raises InvalidRequest naming the field, or none when it is not JSON."""
    found = intake.read(_PEEK, body)
    if not found.model:
        raise InvalidRequest("model: must name a model", param="model")
    return found


def prefix_of(body: bytes, endpoint: str) -> str | None:
    """The bytes with which the prompt begins, to tell prompts that share a beginning; None for a short one."""
    key = _PROMPTS.get(endpoint)
    if key is None or len(body) < PREFIX_BYTES:
        return None
    at = body.find(key, 0, KEY_WITHIN)
    if at < 0 or len(body) - at < PREFIX_BYTES:
        return None
    return body[at : at + PREFIX_BYTES].decode("latin-1")


def rewrite_model(body: bytes, new: str) -> bytes:
    """`body`, valid JSON, with `new` as its top-level `model`; nested ones, spacing and key order stay.

    A key given twice is replaced twice: parsers differ in which one wins. A body without a `model` string is
    returned as it is.
    """
    value = msgspec.json.encode(new)
    out: list[bytes] = []
    done = 0
    for start, end in _model_values(body):
        out += (body[done:start], value)
        done = end
    out.append(body[done:])
    return b"".join(out)


def _model_values(body: bytes) -> Iterator[tuple[int, int]]:
    """Spans of the string values of top-level `model` keys, quotes included."""
    last = _last_candidate(body)
    depth = position = 0
    while position <= last:
        match = (_TOKEN if depth == 1 else _BRACKET).match(body, position)
        if match is None:
            return
        position = match.end()
        token = match[1]
        if token in (b"{", b"["):
            depth += 1
        elif token in (b"}", b"]"):
            depth -= 1
        elif colon := _COLON.match(body, position):
            position = colon.end()
            value = _VALUE.match(body, position)
            if value and _is_model(token):
                yield value.span()


def _last_candidate(body: bytes) -> int:
    """Where the last possible key starts. An escaped spelling such as `mod\\u0065l` means: look everywhere."""
    return len(body) if b"\\u006" in body else body.rfind(_KEY)


def _is_model(token: bytes) -> bool:
    if b"\\" not in token:
        return token == _KEY
    return msgspec.json.decode(token) == "model"
