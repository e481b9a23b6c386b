"""The facade the gateway calls: one exchange per request, from a client's dialect to chat completions and back.

    exchange = open_messages(body, version="2023-06-01", ids=fresh)
    send(exchange.request)                                  # to the neuron
    client << exchange.opening() << exchange.keepalive("loading") << exchange.feed(chunk) << exchange.end()

Nothing here waits, reads a clock or draws a random number. Ids come from `ids(prefix)`, the time from `now`.
"""

from __future__ import annotations

from helexa.wire.translate.exchange import (
    Exchange,
    MessagesExchange,
    ResponsesExchange,
    count_tokens_request,
    open_messages,
    open_responses,
    responses_count_request,
)
from helexa.wire.translate.responses_answer import Record
from helexa.wire.translate.responses_request import Lookup, PreviousResponseNotFound
from helexa.wire.translate.reverse import ChatExchange, open_chat

__all__ = [
    "ChatExchange",
    "Exchange",
    "Lookup",
    "MessagesExchange",
    "PreviousResponseNotFound",
    "Record",
    "ResponsesExchange",
    "count_tokens_request",
    "open_chat",
    "open_messages",
    "open_responses",
    "responses_count_request",
]
