"""The grammar of HTTP/1.1 as this room speaks it: a request's head in, heads and chunks out. No I/O.

Strict on purpose: whatever two readers could take differently is refused, never repaired. The request line is matched
here because llhttp lets some of it through (two spaces, RTSP, no version at all); field syntax and the rules on
Content-Length and Transfer-Encoding are llhttp's, checked again where a wrong guess would be request smuggling.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from typing import Self, TypeAlias
from urllib.parse import unquote

import msgspec
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from helexa.http1.limits import Limits

Header = tuple[bytes, bytes]

METHODS = {m.encode(): m for m in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
BODILESS = frozenset((204, 304))

_REQUEST_LINE = re.compile(rb"([A-Z]+) ([!-~]+) HTTP/1\.([01])\r\n")
_OTHER_VERSION = re.compile(rb"[A-Z]+ [!-~]+(?: HTTP/(?!1\.[01]\r)[0-9](?:\.[0-9])?)?\r\n")
_ABSOLUTE = re.compile(rb"https?://[^/?#]+", re.IGNORECASE)
_HOST = re.compile(rb"(?:[\w.~%-]*|\[[\w:.%~-]+\])(?::[0-9]*)?")
_SINGLE = b"host content-length transfer-encoding content-type content-encoding expect authorization".split()
# Framing and the connection belong to this room; what a handler or caller says about them is dropped.
_OURS = frozenset(b"content-length transfer-encoding connection keep-alive proxy-connection te trailer upgrade".split())
_OURS_UPSTREAM = _OURS | {b"host", b"expect"}
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)", re.IGNORECASE)
MOST_DIGITS = 18
_SELDOM = frozenset((b"transfer-encoding", b"content-encoding", b"connection", b"expect"))
_WITH_BODY = frozenset((b"POST", b"PUT", b"PATCH"))
_STATUS_LINES = {s.value: b"HTTP/1.1 %d %b\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}


class Refusal(Exception):
    """The peer's request will not be served: answered with `status`, and the connection ends."""

    def __init__(self, status: int, code: str, message: str, target: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.target = target


class Request(msgspec.Struct, eq=False, gc=False):
    """One request, complete. Header names are lower-case; `path` is percent-decoded, `target` is what was sent."""

    method: str
    target: bytes
    path: str
    query: str
    headers: list[Header]
    fields: dict[bytes, bytes]
    """The headers by name; of a repeated one, the last."""
    http11: bool
    peer: str
    keep_alive: bool
    length: int = 0
    chunked: bool = False
    expects_continue: bool = False
    body: bytes = b""

    @classmethod
    def of(cls, method: str, target: bytes, headers: list[Header], http11: bool, peer: str = "") -> Self:
        """A request without a body, whose framing is not looked at yet."""
        path, query = _split(target)
        return cls(method, target, path, query, headers, dict(headers), http11, peer, http11)

    def header(self, name: bytes) -> bytes | None:
        """The value of the header `name` (lower-case); of a repeated one, the last."""
        return self.fields.get(name)

    def among(self, names: frozenset[bytes]) -> frozenset[bytes]:
        """Which of `names` (lower-case) this request has a header of."""
        return names.intersection(self.fields)

    def again(self, length: bytes, length_bytes: int) -> Request:
        """A request with this one's head, but for the value of its Content-Length."""
        headers, fields = self.headers, self.fields
        if fields[b"content-length"] != length:
            fields = {**fields, b"content-length": length}
            headers = [(name, length if name == b"content-length" else value) for name, value in headers]
        return Request(
            self.method,
            self.target,
            self.path,
            self.query,
            headers,
            fields,
            self.http11,
            self.peer,
            self.keep_alive,
            length_bytes,
        )

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.target.decode('latin-1')} from {self.peer}, {len(self.body)} bytes>"


@lru_cache(maxsize=256)
def _split(target: bytes) -> tuple[str, str]:
    """A target's path and query."""
    path, _, query = target.decode("ascii").partition("?")
    return path if "%" not in path else unquote(path, errors="replace"), query


class _Fields:
    """Collects what llhttp finds."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: list[Header] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.found.append((name.lower(), value.rstrip(b" \t")))


def parse_head(raw: bytes, limits: Limits, peer: str = "") -> Request:
    """A request from its head, `raw` ending with the empty line. Raises Refusal."""
    line = _REQUEST_LINE.match(raw)
    if line is None:
        raise _bad_line(raw)
    method_name, target, minor = line.groups()
    if len(target) > limits.max_target_bytes:
        raise Refusal(414, "target_too_long", f"The request target is over {limits.max_target_bytes} bytes.")
    if len(raw) - line.end() > limits.max_header_bytes:
        raise _too_many_bytes(limits, target)
    method = METHODS.get(method_name)
    if method is None:
        raise Refusal(501, "method_not_implemented", "This method is not served here.", target)
    fields = _parse_fields(raw, target)
    if len(fields) > limits.max_headers:
        raise Refusal(431, "headers_too_large", f"More than {limits.max_headers} headers.", target)
    if target[0] != 0x2F:
        target = _origin_form(target, method)
    request = Request.of(method, target, fields, minor == b"1", peer)
    _settle_framing(request, limits)
    return request


class KnownHead:
    """A head, as the mould of the next one on its connection: one that differs from it in nothing but the value of its
    Content-Length, as most do, costs a comparison and not a parse."""

    __slots__ = ("_after", "_before", "_start", "_stop")

    def __init__(self, before: bytes, after: bytes) -> None:
        self._before, self._after = before, after
        self._start = len(before)
        self._stop = self._start + MOST_DIGITS + len(after)

    @classmethod
    def of(cls, head: bytes) -> Self | None:
        """From a valid head, ending with the empty line; None where it has no Content-Length."""
        found = _LENGTH.search(head)
        return None if found is None else cls(head[: found.start(1)], head[found.end(1) :])

    def cut(self, data: bytes) -> tuple[bytes, bytes] | None:
        """The digits of the Content-Length and what follows the head, where `data` begins with such a head."""
        if not data.startswith(self._before):
            return None
        end = data.find(self._after, self._start, self._stop)
        length = data[self._start : end]
        if end < 0 or not length.isdigit():
            return None
        return length, data[end + len(self._after) :]


class Heads:
    """Reads the heads that one client sends."""

    __slots__ = ("_known", "_limits", "_peer")

    def __init__(self, limits: Limits, peer: str) -> None:
        self._limits = limits
        self._peer = peer
        self._known: tuple[KnownHead, Request] | None = None

    def again(self, data: bytes) -> tuple[Request, bytes] | None:
        """The request and what follows its head, where that is known; else it has to be cut off, and read."""
        if self._known is None:
            return None
        head, last = self._known
        found = head.cut(data)
        if found is None:
            return None
        length, rest = found
        length_bytes = int(length)
        return None if length_bytes > self._limits.max_body_bytes else (last.again(length, length_bytes), rest)

    def read(self, raw: bytes) -> Request:
        """As `parse_head`."""
        request = parse_head(raw, self._limits, self._peer)
        if not request.chunked and not request.expects_continue and (head := KnownHead.of(raw)) is not None:
            self._known = head, request
        return request


def check_start(raw: bytes, limits: Limits) -> None:
    """Refuse a head early whose start can no longer become a good one. `raw` holds no empty line yet."""
    newline = raw.find(b"\n")
    if newline < 0:
        if len(raw) > limits.max_target_bytes + 32:
            raise Refusal(414, "target_too_long", "The request target is too long.")
    elif _REQUEST_LINE.match(raw) is None:
        raise _bad_line(raw)
    elif len(raw) - newline > limits.max_header_bytes:
        raise _too_many_bytes(limits)


def _bad_line(raw: bytes) -> Refusal:
    if _OTHER_VERSION.match(raw):
        return Refusal(505, "version_not_supported", "Only HTTP/1.1 and HTTP/1.0 are served here.")
    return _bad("The request line is not valid.")


def _bad(message: str, target: bytes = b"") -> Refusal:
    return Refusal(400, "bad_request", message, target)


def _too_many_bytes(limits: Limits, target: bytes = b"") -> Refusal:
    return Refusal(431, "headers_too_large", f"The headers are over {limits.max_header_bytes} bytes.", target)


def _parse_fields(raw: bytes, target: bytes) -> list[Header]:
    fields = _Fields()
    try:
        HttpRequestParser(fields).feed_data(raw)
    except HttpParserUpgrade:
        pass  # an offer to upgrade may be ignored (RFC 9110, 7.8); the body is cut by us, so llhttp's stop is harmless
    except HttpParserError as error:
        raise _bad(f"The request head is not valid: {error}.", target) from None
    return fields.found


def _settle_framing(request: Request, limits: Limits) -> None:
    """Where the body ends and whether the connection goes on: the one place that decides it."""
    index, target = request.fields, request.target
    if len(index) != len(request.headers):
        _refuse_repeated(request, index)
    host = index.get(b"host")
    if host is None:
        if request.http11:
            raise _bad("HTTP/1.1 needs a Host header.", target)
    elif not _is_host(host):
        raise _bad("The Host header is no host.", target)
    length = index.get(b"content-length")
    if not _SELDOM.isdisjoint(index):
        _settle_seldom(request, index, target)
    if length is not None:
        if request.chunked:
            raise _bad("A body has a Content-Length or is chunked, not both.", target)
        request.length = _body_length(length, limits, target)


@lru_cache(maxsize=16)
def _is_host(value: bytes) -> bool:
    """Remembered, because nearly everybody says the same."""
    return _HOST.fullmatch(value) is not None


def _settle_seldom(request: Request, index: dict[bytes, bytes], target: bytes) -> None:
    header = index.get
    if (coding := header(b"transfer-encoding")) is not None:
        if not request.http11 or coding.lower() != b"chunked":
            raise _bad("Only `Transfer-Encoding: chunked`, alone and in HTTP/1.1, is understood.", target)
        request.chunked = True
    if (coded := header(b"content-encoding")) is not None and coded.lower() != b"identity":
        problem = f"A body in Content-Encoding `{coded.decode('latin-1')[:32]}` is not read here; send it as it is."
        raise Refusal(415, "unsupported_content_encoding", problem, target)
    if (connection := header(b"connection")) is not None and request.http11:
        request.keep_alive = b"close" not in _tokens(connection)
    if (expected := header(b"expect")) is not None and request.http11:
        if expected.lower() != b"100-continue":
            raise Refusal(417, "expectation_failed", "Only `Expect: 100-continue` is understood.", target)
        request.expects_continue = True


def _refuse_repeated(request: Request, index: dict[bytes, bytes]) -> None:
    names = [name for name, _ in request.headers]
    for name in _SINGLE:
        if names.count(name) > 1:
            raise _bad(f"The header {name.decode()} may be given once only.", request.target)
    joined = b",".join(value for name, value in request.headers if name == b"connection")
    if joined:
        index[b"connection"] = joined


def _body_length(value: bytes, limits: Limits, target: bytes) -> int:
    if not value.isdigit():
        raise _bad("Content-Length is not a number.", target)
    if len(value) > MOST_DIGITS or (length := int(value)) > limits.max_body_bytes:
        raise too_large(limits, target)
    return length


def too_large(limits: Limits, target: bytes) -> Refusal:
    """The refusal of a body over the limit."""
    return Refusal(413, "request_too_large", f"The body is over {limits.max_body_bytes} bytes.", target)


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip() for token in value.lower().split(b",")]


def _origin_form(target: bytes, method: str) -> bytes:
    if target == b"*" and method == "OPTIONS":
        return target
    if (absolute := _ABSOLUTE.match(target)) is None:
        raise _bad("The request target is not a path.", target)
    rest = target[absolute.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


class ChunkedBody:
    """A chunked request body, put together by llhttp."""

    __slots__ = ("_fed_bytes", "_limits", "_parser", "_target", "complete", "content", "excess")

    def __init__(self, limits: Limits, target: bytes) -> None:
        self._limits = limits
        self._target = target
        self._fed_bytes = 0
        self.content = bytearray()
        self.complete = False
        self.excess = False  # something followed the body; llhttp does not say where, so it cannot be served
        self._parser = HttpRequestParser(self)
        self._parser.feed_data(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")

    def feed(self, data: bytes) -> bool:
        """Whether the body is complete. Raises Refusal (bad framing, or too much of it)."""
        self._fed_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            if not self.complete:
                raise _bad(f"The chunked body is not valid: {error}.", self._target) from None
            self.excess = True
        if len(self.content) > self._limits.max_body_bytes:
            raise too_large(self._limits, self._target)
        if self._fed_bytes > self._limits.max_framing_bytes + 9 * len(self.content):
            raise _bad("The chunked body is mostly framing.", self._target)
        return self.complete

    def on_message_begin(self) -> None:
        if self.complete:
            raise HttpParserError("bytes after the body")  # before llhttp takes another one's body for more of this one

    def on_body(self, data: bytes) -> None:
        self.content += data

    def on_message_complete(self) -> None:
        self.complete = True


Lines: TypeAlias = bytes
"""Header lines as they go on the wire, checked and each ended: worded once, sent many times."""
Headers: TypeAlias = Iterable[Header] | Lines


def lines_of(headers: Headers, ours: frozenset[bytes] = _OURS_UPSTREAM) -> Lines:
    """Header lines without those that are `ours` to say. Raises ValueError where a header would be more than one."""
    if isinstance(headers, bytes):
        return headers
    lines = b"".join(listed := [b"%b: %b\r\n" % header for header in headers if header[0].lower() not in ours])
    if len(lines.translate(None, b"\r\n\0")) != len(lines) - 2 * len(listed):
        raise ValueError("a header may not hold CR, LF or NUL")
    return lines


def answer_head(status: int, headers: Headers, framing: bytes) -> bytes:
    """The head of an answer; `framing` holds this room's own lines. Raises ValueError, as `lines_of` does."""
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    lines = headers if isinstance(headers, bytes) else lines_of(headers, _OURS)
    return b"%b%b%b\r\n" % (line, lines, framing)


def request_head(method: bytes, target: bytes, host: bytes, headers: Headers, body_bytes: int) -> bytes:
    """The head of a request to an upstream. Raises ValueError, as `lines_of` does."""
    start = _request_start(method, target, host)
    lines = headers if isinstance(headers, bytes) else lines_of(headers)
    if body_bytes or method in _WITH_BODY:
        return b"%b%bcontent-length: %d\r\n\r\n" % (start, lines, body_bytes)
    return b"%b%b\r\n" % (start, lines)


@lru_cache(maxsize=256)
def _request_start(method: bytes, target: bytes, host: bytes) -> bytes:
    if len(target.translate(None, b" \r\n\0")) != len(target):
        raise ValueError(f"not a request target: {target!r}")
    return b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (method, target, host)
