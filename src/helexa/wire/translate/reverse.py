"""A chat-completions client in front of an upstream that speaks Anthropic Messages: Mapping C as one exchange.

No neuron speaks Messages today. The mapping is here because a canon that is only ever read from two dialects and
written to one would not be proven to be one.
"""

from __future__ import annotations

from collections.abc import Callable

from helexa.base.errors import HelexaError
from helexa.wire import envelopes, sse
from helexa.wire.canon import Capabilities, Fault, Usage
from helexa.wire.translate.chat_answer import ChatStream, Head, whole_chat
from helexa.wire.translate.chat_request_in import ChatAsk, read_chat
from helexa.wire.translate.exchange import Exchange
from helexa.wire.translate.messages_reading import MessagesReader
from helexa.wire.translate.messages_request_out import write_messages_request

Ids = Callable[[str], str]

_ANY = Capabilities()


class ChatExchange:
    """One request and its answer; the same shape as the other exchanges."""

    def __init__(self, read: ChatAsk, request: bytes, head: Head, ids: Ids) -> None:
        self.request = request
        self.stream = read.ask.stream
        self.notices = read.notices
        self.affinity = read.affinity
        self.usage: Usage | None = None
        self._head = head
        self._ids = ids
        self._reader = MessagesReader()
        self._writer = ChatStream(head, ids)

    def answer(self, body: bytes) -> bytes:
        """A whole Messages answer as a chat completion. Raises BadAnswer."""
        events = self._reader.whole(body)
        self.usage = self._reader.usage
        return whole_chat(events, self._head, self._ids)

    def opening(self) -> bytes:
        """The role chunk."""
        return self._writer.opening()

    def keepalive(self, stage: str | None = None) -> bytes:
        """The role chunk, then comments."""
        return b"" if self._writer.over else self._writer.opening() or sse.COMMENT

    def feed(self, data: bytes) -> bytes:
        """Messages stream bytes as chat stream bytes; a ping is a comment."""
        out = self._writer.write(self._reader.feed(data))
        self.usage = self._reader.usage
        return out or (sse.COMMENT if self._reader.pinged else b"")

    def fail(self, error: HelexaError | Fault) -> bytes:
        """`data: {"error": …}`."""
        return self._writer.fail(envelopes.fault_of(error))

    def end(self) -> bytes:
        """The rest of a finished answer, or the error for one that broke off."""
        return self._writer.write(self._reader.end())


_EXCHANGE: type[Exchange] = ChatExchange


def open_chat(
    body: bytes,
    *,
    ids: Ids,
    now: int,
    version: str = "2023-06-01",
    model: str | None = None,
    can: Capabilities = _ANY,
    strict: bool = False,
) -> ChatExchange:
    """Read a `/v1/chat/completions` body for a Messages upstream of protocol `version`. Raises InvalidRequest.

    `strict` refuses what Messages has no word for (`seed`, `logprobs`, `n`) and does not drop it.
    """
    read = read_chat(body, can=can, model=model, strict=strict)
    request = write_messages_request(read.ask, version=version, max_output_tokens=can.context_tokens)
    return ChatExchange(read, request, Head(ids("chatcmpl-"), now, read.model, read.include_usage), ids)
