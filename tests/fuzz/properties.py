"""What must hold for any bytes at all, each as a function that raises when it does not.

Hypothesis asks them in the default suite (test_properties.py), a coverage-guided fuzzer as long as one likes (run.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from helexa.base.errors import InvalidRequest
from helexa.neuron.core.footprint import gguf_shape
from helexa.neuron.core.gguf import NotGguf, read_header
from helexa.wire.checks import CHECKS
from helexa.wire.peek import peek, rewrite_model
from helexa.wire.sse import SseDecoder
from helexa.wire.translate import count_tokens_request, open_messages, open_responses
from tests.http1.test_fuzz import converse
from tests.wire.shared import counter, nothing_stored
from tests.wire.test_sse import reference


def sse(data: bytes) -> None:
    """The decoder reads what the standard says, however the stream is cut."""
    cut, stream = _cut(data)
    decoder = SseDecoder()
    assert decoder.feed(stream[:cut]) + decoder.feed(stream[cut:]) == reference(stream)


def rewritten(data: bytes) -> None:
    """A body that can be read names its model, and after the rewrite another one; nothing else is different."""
    try:
        peek(data)
    except InvalidRequest:
        return
    after = rewrite_model(data, "new/name")
    assert peek(after).model == "new/name"
    assert _but_model(after) == _but_model(data)


def checked(data: bytes) -> None:
    """Every check reads or refuses."""
    for check in CHECKS.values():
        _read(check, data)


def messages(data: bytes) -> None:
    """What is read of a Messages request is a chat request that a neuron accepts."""
    _translated(lambda body: open_messages(body, ids=counter()).request, data)
    _translated(count_tokens_request, data)


def responses(data: bytes) -> None:
    """The same of a Responses request."""
    _translated(lambda body: open_responses(body, ids=counter(), now=0, lookup=nothing_stored).request, data)


def head(data: bytes) -> None:
    """A conversation cut in two is the same conversation, as far as both go."""
    cut, raw = _cut(data)
    whole, said = converse([raw])
    parts, _ = converse([piece for piece in (raw[:cut], raw[cut:]) if piece])
    shorter = min(len(whole), len(parts))
    assert whole[:shorter] == parts[:shorter]
    assert said.count(b"HTTP/1.1 ") >= len(whole)


def gguf(data: bytes) -> None:
    """The head of a model's file is refused in one way, or read; and what was read has a footprint."""
    try:
        header = read_header(b"GGUF" + data)
    except NotGguf:
        return
    gguf_shape(header)


PROPERTIES: dict[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (sse, rewritten, checked, messages, responses, head, gguf)
}


def _cut(data: bytes) -> tuple[int, bytes]:
    """Where to cut, from the first byte; and the rest."""
    rest = data[1:]
    return (data[0] * len(rest) // 256 if data else 0), rest


def _read(reader: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return reader(data)
    except InvalidRequest:
        return None


def _translated(reader: Callable[[bytes], bytes], data: bytes) -> None:
    request = _read(reader, data)
    if request is not None:
        CHECKS["/v1/chat/completions"](request)


def _but_model(body: bytes) -> list[tuple[str, Any]]:
    """The members of the top-level object in their order, less the values of its models. Numbers stay text."""
    top: list[tuple[str, Any]] = json.loads(body, object_pairs_hook=list, parse_int=str, parse_float=str)
    return [(key, None if key == "model" else value) for key, value in top]
