"""One request and its answer, between a client's dialect and the neuron's chat completions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from helexa.base.errors import HelexaError
from helexa.wire import envelopes
from helexa.wire.canon import Ask, Capabilities, Event, Fault, Usage
from helexa.wire.translate.chat_reading import ChatReader
from helexa.wire.translate.chat_request import write_chat_request
from helexa.wire.translate.messages_answer import Head, MessagesStream, whole_message
from helexa.wire.translate.messages_request import MessagesAsk, read_messages
from helexa.wire.translate.responses_answer import Kit, Record, ResponsesStream
from helexa.wire.translate.responses_request import Lookup, ResponsesAsk, read_responses

Ids = Callable[[str], str]

_BYTES_PER_TOKEN = 4  # for the estimate a stream begins with; the engine's count replaces it at the end
_ANY = Capabilities()


class Exchange(Protocol):
    """What the gateway needs of any dialect but the neuron's own."""

    request: bytes
    """The chat-completions body for the neuron."""
    stream: bool
    notices: tuple[str, ...]
    """Fields that were ignored, to be logged once."""
    affinity: str | None
    """The client's session, where it names one: requests with the same key share a prompt prefix."""
    usage: Usage | None
    """The engine's count, once it is known."""

    def answer(self, body: bytes) -> bytes:
        """A whole chat answer as the dialect's. Raises BadAnswer."""
        ...

    def opening(self) -> bytes:
        """What may be sent before the upstream answers; b"" the second time."""
        ...

    def keepalive(self, stage: str | None = None) -> bytes:
        """Valid bytes of the dialect for a client that waits. `stage` is "queued" until work on it has begun."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Upstream stream bytes, cut anywhere, as the client's stream bytes."""
        ...

    def fail(self, error: HelexaError | Fault) -> bytes:
        """The dialect's error event. Afterwards everything else is b""."""
        ...

    def end(self) -> bytes:
        """The upstream has closed: the rest of a finished answer, or the error event for one that broke off."""
        ...


class _Writer(Protocol):
    def write(self, events: Sequence[Event]) -> bytes: ...


class _Streaming:
    """The half both exchanges share: the upstream's bytes through a reader into a writer."""

    def __init__(self, ask: Ask, writer: _Writer) -> None:
        self.request = write_chat_request(ask)
        self.stream = ask.stream
        self.usage: Usage | None = None
        self._reader = ChatReader()
        self._writer = writer

    def feed(self, data: bytes) -> bytes:
        out = self._writer.write(self._reader.feed(data))
        self.usage = self._reader.usage
        return out

    def end(self) -> bytes:
        out = self._writer.write(self._reader.end())
        self.usage = self._reader.usage
        return out

    def _events(self, body: bytes) -> list[Event]:
        events = self._reader.whole(body)
        self.usage = self._reader.usage
        return events


class MessagesExchange(_Streaming):
    """An Anthropic Messages client in front of a neuron."""

    def __init__(self, read: MessagesAsk, head: Head, ids: Ids, request_id: str) -> None:
        self._head = head
        self._ids = ids
        self._messages = MessagesStream(head, ids, request_id)
        super().__init__(read.ask, self._messages)
        self.notices = read.notices
        self.affinity = read.affinity

    def answer(self, body: bytes) -> bytes:
        """The whole Messages answer. Raises BadAnswer."""
        return whole_message(self._events(body), self._head, self._ids)

    def opening(self) -> bytes:
        """`message_start` and a ping."""
        return self._messages.opening()

    def keepalive(self, stage: str | None = None) -> bytes:
        """A ping; the dialect has no word for a stage."""
        return self._messages.keepalive()

    def fail(self, error: HelexaError | Fault) -> bytes:
        """`event: error`."""
        return self._messages.fail(envelopes.fault_of(error))


class ResponsesExchange(_Streaming):
    """An OpenAI Responses client in front of a neuron."""

    def __init__(self, read: ResponsesAsk, kit: Kit) -> None:
        self._responses = ResponsesStream(kit)
        super().__init__(read.ask, self._responses)
        self.response_id = kit.id
        self.items = read.items
        """The resolved input, raw items: with the record's outputs, what the next `previous_response_id` stands for."""
        self.notices = read.notices
        self.affinity = read.affinity

    @property
    def record(self) -> Record | None:
        """The finished response, whole or streamed; None before, and for one that failed."""
        return self._responses.record

    def answer(self, body: bytes) -> bytes:
        """The whole response object. Raises BadAnswer."""
        self._responses.write(self._events(body))
        assert self._responses.record  # whole() ends in Done or raises
        return self._responses.record.body

    def opening(self) -> bytes:
        """`response.created` and `response.in_progress`."""
        return self._responses.opening()

    def keepalive(self, stage: str | None = None) -> bytes:
        """`response.queued`, `response.in_progress` or, once something was said, a comment."""
        return self._responses.keepalive(stage)

    def fail(self, error: HelexaError | Fault) -> bytes:
        """`response.failed`."""
        return self._responses.fail(envelopes.fault_of(error))


_EXCHANGES: tuple[type[Exchange], ...] = (MessagesExchange, ResponsesExchange)


def open_messages(
    body: bytes,
    *,
    ids: Ids,
    version: str | None = None,
    model: str | None = None,
    can: Capabilities = _ANY,
    prompt_tokens: int | None = None,
    request_id: str = "",
) -> MessagesExchange:
    """Read a `/v1/messages` body. Raises InvalidRequest naming the field.

    `version` is the `anthropic-version` header; `model` what the alias resolved to (the answer keeps the client's
    name); `prompt_tokens` goes into `message_start`, estimated from the size when it is not given.
    """
    read = read_messages(body, can=can, model=model)
    estimate = prompt_tokens if prompt_tokens is not None else max(1, len(body) // _BYTES_PER_TOKEN)
    head = Head(ids("msg_"), read.model, estimate, version or "", can.context_tokens)
    return MessagesExchange(read, head, ids, request_id)


def open_responses(
    body: bytes,
    *,
    lookup: Lookup,
    ids: Ids,
    now: int,
    model: str | None = None,
    can: Capabilities = _ANY,
) -> ResponsesExchange:
    """Read a `/v1/responses` body. Raises InvalidRequest naming the field; `now` is a Unix time in seconds."""
    read = read_responses(body, lookup=lookup, can=can, model=model)
    kit = Kit(ids("resp_"), now, read.echo, read.names, ids, max(1, len(body) // _BYTES_PER_TOKEN))
    return ResponsesExchange(read, kit)


def count_tokens_request(body: bytes, *, model: str | None = None, can: Capabilities = _ANY) -> bytes:
    """A `/v1/messages/count_tokens` body as the chat body whose prompt is to be counted: the same renderer as ever."""
    return write_chat_request(read_messages(body, can=can, model=model, counting=True).ask)


def responses_count_request(
    body: bytes, *, lookup: Lookup, model: str | None = None, can: Capabilities = _ANY
) -> bytes:
    """The same for a `/v1/responses/input_tokens` body."""
    return write_chat_request(read_responses(body, lookup=lookup, can=can, model=model, counting=True).ask)
