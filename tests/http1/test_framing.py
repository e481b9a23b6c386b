"""What the server takes for a request and what it refuses, byte by byte."""

from __future__ import annotations

import asyncio

import pytest

from tests.http1.wires import eventually, within

HOST = b"Host: x\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST
POST = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

REFUSED = {
    "no version (HTTP/0.9)": (b"GET /\r\n\r\n", 505),
    "HTTP/0.9 by name": (b"GET / HTTP/0.9\r\n\r\n", 505),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
    "the HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "another protocol": (b"OPTIONS / RTSP/1.0\r\n\r\n", 400),
    "a TLS hello with a line end": (b"\x16\x03\x01\x02\x00\x01\n", 400),
    "LF-only lines": (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    "an LF-only header line": (b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", 400),
    "an empty line before": (b"\r\n" + GET + b"\r\n", 400),
    "two spaces": (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a space after the version": (b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n", 400),
    "a space in the target": (b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a tab for a space": (b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "bytes over 0x7e in the target": (b"GET /\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a target that is no path": (b"GET foo HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "an asterisk for GET": (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a lower-case method": (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "an unknown method": (b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    "CONNECT": (b"CONNECT x:443 HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    "TRACE": (b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    "no Host": (b"GET / HTTP/1.1\r\nA: b\r\n\r\n", 400),
    "two Hosts": (GET + b"Host: y\r\n\r\n", 400),
    "a Host with a space": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "a Host with a path": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "a Host with a user": (b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
    "a list of Hosts": (b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 400),
    "a Host with a word for its port": (b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400),
    "a Host beyond ASCII": (b"GET / HTTP/1.1\r\nHost: \xc3\xa9\r\n\r\n", 400),
    "a folded header": (GET + b"A: b\r\n c\r\n\r\n", 400),
    "a header that starts with a space": (b"GET / HTTP/1.1\r\n Host: x\r\n\r\n", 400),
    "a space before the colon": (GET + b"A : b\r\n\r\n", 400),
    "no colon": (GET + b"A b\r\n\r\n", 400),
    "an empty name": (GET + b": b\r\n\r\n", 400),
    "a name that is no token": (GET + b"A(b): c\r\n\r\n", 400),
    "NUL in a value": (GET + b"A: b\0c\r\n\r\n", 400),
    "CR in a value": (GET + b"A: b\rc\r\n\r\n", 400),
    "a control character in a value": (GET + b"A: b\x01c\r\n\r\n", 400),
    "a body that is packed": (POST + b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", 415),
    "two content codings": (POST + b"Content-Encoding: identity\r\n" * 2 + b"Content-Length: 1\r\n\r\nx", 400),
    "an unknown expectation": (POST + b"Expect: a-miracle\r\nContent-Length: 1\r\n\r\n", 417),
}

SMUGGLED = {
    "CL.TE": (POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG", 400),
    "TE.CL": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n", 400),
    "two lengths that differ": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    "two lengths that agree": (POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    "a list of lengths": (POST + b"Content-Length: 3, 3\r\n\r\nabc", 400),
    "a signed length": (POST + b"Content-Length: +3\r\n\r\nabc", 400),
    "a negative length": (POST + b"Content-Length: -3\r\n\r\nabc", 400),
    "a length in hex": (POST + b"Content-Length: 0x3\r\n\r\nabc", 400),
    "a length with a space in it": (POST + b"Content-Length: 3 0\r\n\r\nabc", 400),
    "an empty length": (POST + b"Content-Length:\r\n\r\n", 400),
    "a length over 64 bits": (POST + b"Content-Length: 99999999999999999999999\r\n\r\n", 400),
    "Unicode digits": (POST + "Content-Length: ٣\r\n\r\nabc".encode(), 400),
    "TE: xchunked": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "TE: identity": (POST + b"Transfer-Encoding: identity\r\n\r\n", 400),
    "TE: gzip, chunked": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "TE: chunked, chunked": (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    "TE: chunked, identity": (POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    "TE twice": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "TE quoted": (POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n', 400),
    "TE with a parameter": (POST + b"Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n", 400),
    "TE with a vertical tab": (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "TE empty": (POST + b"Transfer-Encoding:\r\n\r\n", 400),
    "TE folded": (POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    "TE with a space before the colon": (POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    "TE in HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a chunk size in 0x": (CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n", 400),
    "a negative chunk size": (CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n", 400),
    "a chunk size with a space": (CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n", 400),
    "a chunk size over 64 bits": (CHUNKED + b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n", 400),
    "an empty chunk size": (CHUNKED + b"\r\nabc\r\n0\r\n\r\n", 400),
    "a chunk size ended by LF": (CHUNKED + b"3\nabc\r\n0\r\n\r\n", 400),
    "chunk data ended by LF": (CHUNKED + b"3\r\nabc\n0\r\n\r\n", 400),
    "a chunk longer than its size": (CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", 400),
    "LF in a chunk extension": (CHUNKED + b"3;a\nabc\r\n0\r\n\r\n", 400),
    "a bad trailer": (CHUNKED + b"0\r\nA : b\r\n\r\n", 400),
    "a coding among the trailers": (CHUNKED + b"0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "a chunk size with a plus": (CHUNKED + b"+1\r\na\r\n0\r\n\r\n", 400),
    "a chunk size with an underscore": (CHUNKED + b"1_0\r\na\r\n0\r\n\r\n", 400),
    "a line end in a quoted chunk extension": (CHUNKED + b'1;a="\r\n"\r\na\r\n0\r\n\r\n', 400),
    "CR twice after a chunk size": (CHUNKED + b"1\r\r\na\r\n0\r\n\r\n", 400),
    "a length among the trailers": (CHUNKED + b"0\r\nContent-Length: 3\r\n\r\n", 400),
}


@pytest.mark.parametrize(("raw", "status"), [*REFUSED.values(), *SMUGGLED.values()], ids=[*REFUSED, *SMUGGLED])
async def test_a_doubtful_request_gets_one_typed_refusal_and_no_second_reading(serve, echo, raw, status):
    served = await serve(echo)
    async with await served.dial() as wire:
        answer = await wire.ask(raw)
        assert (answer.status, answer.headers[b"connection"]) == (status, b"close")
        assert await wire.closed()
    assert served.server.in_flight == 0


ACCEPTED = {
    "tab and spaces around a length": (POST + b"Content-Length: \t3 \t\r\n\r\nabc", b"POST / abc"),
    "leading zeros": (POST + b"Content-Length: 003\r\n\r\nabc", b"POST / abc"),
    "a coding in capitals": (POST + b"Transfer-Encoding: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n", b"POST / abc"),
    "chunks in pieces": (CHUNKED + b"1\r\na\r\n02\r\nbc\r\n0\r\n\r\n", b"POST / abc"),
    "chunk extensions": (CHUNKED + b"3;a=b;c\r\nabc\r\n0;d\r\n\r\n", b"POST / abc"),
    "trailers": (CHUNKED + b"3\r\nabc\r\n0\r\nA: b\r\n\r\n", b"POST / abc"),
    "an absolute target": (b"GET http://x/a?b HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /a?b "),
    "an absolute target without a path": (b"GET http://x HTTP/1.1\r\n" + HOST + b"\r\n", b"GET / "),
    "a Host with a port": (b"GET / HTTP/1.1\r\nHost: a_b-c.d:80\r\n\r\n", b"GET / "),
    "an IPv6 Host": (b"GET / HTTP/1.1\r\nHost: [fe80::1%25eth0]:80\r\n\r\n", b"GET / "),
    "an empty Host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", b"GET / "),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", b"OPTIONS * "),
    "HTTP/1.0 without Host": (b"GET / HTTP/1.0\r\n\r\n", b"GET / "),
    "an offer to upgrade": (
        POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc",
        b"POST / abc",
    ),
    "an offer to upgrade, chunked": (
        POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"POST / abc",
    ),
}


@pytest.mark.parametrize(("raw", "body"), ACCEPTED.values(), ids=ACCEPTED)
async def test_what_the_grammar_allows_is_served(serve, echo, raw, body):
    served = await serve(echo)
    async with await served.dial() as wire:
        answer = await wire.ask(raw)
        assert (answer.status, answer.body) == (200, body)


async def test_a_body_may_come_in_pieces_and_the_next_request_with_its_last(serve, echo):
    served = await serve(echo)
    async with await served.dial() as wire:
        await wire.say(POST + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n")
        for piece in (b"one", b"two"):
            await wire.say(piece)
            conn = next(iter(served.server._connections))
            await eventually(lambda conn=conn, piece=piece: conn._body.endswith(piece))
        assert (await wire.ask(b"six" + GET + b"\r\n")).body == b"POST / onetwosix"
        assert (await wire.answer()).body == b"GET / "


async def test_a_request_reads_as_it_was_sent(serve):
    seen = []

    async def handle(request, reply) -> None:
        seen.append(request)
        reply.send(200, [], b"")

    served = await serve(handle)
    async with await served.dial() as wire:
        await wire.ask(b"GET /v1/a%2Fb%C3%A9?q=%20 HTTP/1.1\r\nHost: x\r\nX-One: 1 \r\nX-One: 2\r\n\r\n")
    request = seen[0]
    assert (request.method, request.target) == ("GET", b"/v1/a%2Fb%C3%A9?q=%20")
    assert (request.path, request.query, request.peer) == ("/v1/a/bé", "q=%20", "127.0.0.1")
    assert request.headers == [(b"host", b"x"), (b"x-one", b"1"), (b"x-one", b"2")]
    assert (request.header(b"x-one"), request.header(b"absent")) == (b"2", None)


SIZES = {
    "a long target": (b"GET /" + b"a" * 200 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    "a target without end": (b"GET /" + b"a" * 500, 414),
    "too many headers": (GET + b"A: b\r\n" * 20 + b"\r\n", 431),
    "long headers": (GET + b"A: " + b"b" * 2000 + b"\r\n\r\n", 431),
    "headers without end": (GET + b"A: b\r\n" * 400, 431),
    "a long body": (POST + b"Content-Length: 3000\r\n\r\n", 413),
    "a body of many digits": (POST + b"Content-Length: 1000000000000000000\r\n\r\n", 413),
    "a long chunked body": (CHUNKED + b"bb8\r\n" + b"a" * 3000, 413),
    "a flood of chunk extensions": (CHUNKED + b"1;" + b"e" * 2000, 400),
    "a flood of trailers": (CHUNKED + b"0\r\n" + b"A: b\r\n" * 400, 400),
}


@pytest.mark.parametrize(("raw", "status"), SIZES.values(), ids=SIZES)
async def test_every_size_has_its_limit(serve, echo, raw, status):
    limits = {"max_target_bytes": 100, "max_headers": 16, "max_header_bytes": 1000, "max_body_bytes": 2000}
    served = await serve(echo, **limits, max_framing_bytes=1000)
    async with await served.dial() as wire:
        answer = await wire.ask(raw)
        assert answer.status == status
        assert await wire.closed()


async def test_a_client_still_sending_a_body_too_large_reads_its_413(serve, echo):
    served = await serve(echo, max_body_bytes=1000)
    async with await served.dial() as wire:
        wire.writer.write(CHUNKED + (b"10000\r\n" + b"a" * 65536 + b"\r\n") * 128)
        answer = await wire.answer()
        assert (answer.status, answer.whole) == (413, True)


async def test_a_client_that_never_stops_sending_after_its_refusal_is_cut_off(serve, echo):
    served = await serve(echo, max_body_bytes=1000, max_linger_bytes=10_000)
    async with await served.dial() as wire:
        with pytest.raises(ConnectionError):
            await wire.say(CHUNKED + (b"10000\r\n" + b"a" * 65536) * 200)


async def test_a_refused_client_that_stays_is_closed_in_the_end(serve, echo):
    served = await serve(echo, linger_timeout_s=0.05)
    async with await served.dial() as wire:
        assert (await wire.ask(b"nonsense\r\n\r\n")).status == 400
        wire.writer.write(b"more")
        assert await wire.closed()
        await within(served.server.drain(PATIENT))


PATIENT = 5.0


async def test_refusals_speak_with_the_hooks_voice(serve, echo):
    def refuse(status, code, message, target):
        return [(b"x-code", code.encode())], b"%d on %b: %b" % (status, target, message.encode())

    served = await serve(echo, refuse=refuse)
    async with await served.dial() as wire:
        answer = await wire.ask(b"BREW /v1/pot HTTP/1.1\r\n" + HOST + b"\r\n")
        assert answer.headers[b"x-code"] == b"method_not_implemented"
        assert answer.body.startswith(b"501 on /v1/pot: ")


async def test_a_body_is_asked_for_only_when_it_may_come(serve, echo):
    served = await serve(echo, max_body_bytes=10)
    async with await served.dial() as wire:
        await wire.say(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert await wire.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await wire.ask(b"abc")).body == b"POST / abc"
        answer = await wire.ask(POST + b"Expect: 100-continue\r\nContent-Length: 30\r\n\r\n")
        assert (answer.status, answer.interim) == (413, [])


async def test_a_body_that_is_already_here_is_not_asked_for(serve, echo):
    served = await serve(echo)
    async with await served.dial() as wire:
        answer = await wire.ask(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc")
        assert (answer.body, answer.interim) == (b"POST / abc", [])


async def test_pipelined_requests_are_answered_in_order(serve):
    async def handle(request, reply) -> None:
        for _ in range(3 if request.path == "/0" else 0):
            await asyncio.sleep(0)
        reply.send(200, [], request.target + request.body)

    served = await serve(handle)
    async with await served.dial() as wire:
        await wire.say(b"".join(b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab" % n for n in range(50)))
        assert [(await wire.answer()).body for _ in range(50)] == [b"/%dab" % n for n in range(50)]


async def test_a_bad_request_behind_good_ones_is_refused_after_their_answers(serve, echo):
    served = await serve(echo)
    async with await served.dial() as wire:
        await wire.say(GET + b"\r\n" + GET + b"A : b\r\n\r\n" + GET + b"\r\n")
        assert [(await wire.answer()).status for _ in range(2)] == [200, 400]
        assert await wire.closed()


@pytest.mark.parametrize(
    "behind", [GET + b"\r\n", POST + b"Content-Length: 2\r\n\r\nde", CHUNKED + b"2\r\nde\r\n0\r\n\r\n"]
)
async def test_what_follows_a_chunked_body_at_once_is_not_guessed_at(serve, echo, behind):
    served = await serve(echo)
    async with await served.dial() as wire:
        answer = await wire.ask(CHUNKED + b"3\r\nabc\r\n0\r\n\r\n" + behind)
        assert (answer.body, answer.headers[b"connection"]) == (b"POST / abc", b"close")
        assert await wire.closed()


async def test_a_client_that_pipelines_without_end_stops_being_read(serve):
    working, go_on = asyncio.Event(), asyncio.Event()

    async def handle(request, reply) -> None:
        working.set()
        await go_on.wait()
        reply.send(200, [], b"")

    served = await serve(handle, max_pipelined_bytes=10_000)
    async with await served.dial() as wire:
        flood = (GET + b"\r\n") * 100_000
        wire.writer.write(flood)
        await within(working.wait())
        conn = next(iter(served.server._connections))
        assert not conn._reading
        assert len(conn._input) < 600_000  # what one read may bring, and no second one
        wire.hang_up()
        go_on.set()


async def test_a_slow_head_is_timed_out(serve, echo):
    served = await serve(echo, head_timeout_s=0.05)
    async with await served.dial() as wire:
        assert (await wire.ask(GET)).status == 408
        assert await wire.closed()


async def test_a_slow_body_is_timed_out(serve, echo):
    served = await serve(echo, body_timeout_s=0.05)
    async with await served.dial() as wire:
        assert (await wire.ask(POST + b"Content-Length: 10\r\n\r\nabc")).status == 408
        assert await wire.closed()


async def test_a_connection_that_says_nothing_is_closed(serve, echo):
    served = await serve(echo, head_timeout_s=0.05)
    async with await served.dial() as wire:
        assert await wire.closed()


async def test_an_idle_connection_is_closed_after_its_keepalive_time(serve, echo):
    served = await serve(echo, keepalive_timeout_s=0.05)
    async with await served.dial() as wire:
        assert (await wire.ask(GET + b"\r\n")).status == 200
        assert await wire.closed()
