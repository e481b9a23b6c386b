"""The upstream client against upstreams that behave, and ones that do not."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import weakref

import pytest

from helexa.base.errors import HelexaError
from helexa.http1.client import ConnectFailed, Origin, UpstreamBroken, UpstreamError, UpstreamTimeout
from helexa.http1.limits import Limits
from helexa.http1.server import Server
from tests.http1.wires import Upstream, eventually, reset, within

OK = b"HTTP/1.1 200 OK\r\n"


def answering(*raw: bytes, stay: bool = True):
    """A script: one raw answer a request, on every connection anew; then wait for the client to leave, or close."""

    async def script(wire, _number) -> None:
        for answer in raw:
            await wire.read_until(b"\r\n\r\n")
            await wire.say(answer)
        if stay:
            await wire.reader.read()

    return script


async def fetch(origin: Origin, method: bytes = b"GET", **options) -> tuple[int, bytes]:
    answer = await within(origin.request(method, b"/", **options))
    return answer.status, await within(answer.read(1_000_000))


async def test_a_request_arrives_as_it_was_given(origin_of):
    async def script(wire, _number) -> None:
        head = await upstream.heard(wire)
        upstream.requests.append(await wire.reader.readexactly(4))
        await wire.say(OK + b"X-A: b \r\nContent-Length: 2\r\n\r\nhi")
        assert head

    async with Upstream(script) as upstream:
        origin = origin_of(upstream.port)
        headers = [(b"a", b"b"), (b"Host", b"evil"), (b"connection", b"close"), (b"content-length", b"99")]
        answer = await within(origin.request(b"POST", b"/x?y", headers, b"body"))
        assert (answer.status, answer.header(b"x-a"), await within(answer.read(10))) == (200, b"b", b"hi")
    expected = b"POST /x?y HTTP/1.1\r\nhost: 127.0.0.1:%d\r\na: b\r\ncontent-length: 4\r\n\r\n" % upstream.port
    assert upstream.requests == [expected, b"body"]


@pytest.mark.parametrize("target", [b"/a b", b"/a\r\nEvil: yes", b"/a\n"])
async def test_a_target_cannot_break_out_of_its_line(origin_of, target):
    with pytest.raises(ValueError, match=r"target|CR"):
        await origin_of(1).request(b"GET", target)


async def test_a_header_cannot_break_out_of_its_line(origin_of):
    with pytest.raises(ValueError, match="CR"):
        await origin_of(1).request(b"GET", b"/", [(b"a", b"b\r\nEvil: yes")])


ANSWERS = {
    "a length": (OK + b"Content-Length: 5\r\n\r\nhello", b"hello"),
    "chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;a=b\r\nllo\r\n0\r\nA: b\r\n\r\n", b"hello"),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "not modified, with a length": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b""),
    "interim answers before": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 H\r\nLink: x\r\n\r\n" + OK + b"Content-Length: 5\r\n\r\nhello",
        b"hello",
    ),
    "no reason phrase": (b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
}


@pytest.mark.parametrize(("raw", "body"), ANSWERS.values(), ids=ANSWERS)
async def test_a_complete_answer_gives_its_connection_back(origin_of, raw, body):
    async with Upstream(answering(raw, raw)) as upstream:
        origin = origin_of(upstream.port)
        assert [(await fetch(origin))[1] for _ in range(2)] == [body, body]
        assert upstream.connections == 1


async def test_the_answer_to_head_has_no_body_and_its_connection_is_kept(origin_of):
    raw = OK + b"Content-Length: 5\r\n\r\n"
    async with Upstream(answering(raw, raw + b"hello")) as upstream:
        origin = origin_of(upstream.port)
        assert await fetch(origin, b"HEAD") == (200, b"")
        assert await fetch(origin) == (200, b"hello")
        assert upstream.connections == 1


NOT_KEPT = {
    "Connection: close": (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi", True),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", True),
    "the connection's end": (OK + b"\r\nhi", False),
    "more than the answer": (OK + b"Content-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n", True),
    "another whole answer": (OK + b"Content-Length: 2\r\n\r\nhi" + OK + b"Content-Length: 3\r\n\r\nbad", True),
    "another answer in chunks": ((OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n") * 2, True),
    "garbage after the answer": (OK + b"Content-Length: 2\r\n\r\nhi\0\0\0", True),
}


@pytest.mark.parametrize(("raw", "stay"), NOT_KEPT.values(), ids=NOT_KEPT)
async def test_a_connection_that_cannot_serve_again_is_not_kept(origin_of, raw, stay):
    async with Upstream(answering(raw, stay=stay)) as upstream:
        origin = origin_of(upstream.port)
        assert [await fetch(origin) for _ in range(2)] == [(200, b"hi")] * 2
        assert upstream.connections == 2


BROKEN = {
    "a bad chunk size": OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nzz\r\n",
    "chunks without their end": OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
    "less than the length": OK + b"Content-Length: 5\r\n\r\nhi",
    "a length and chunks": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
    "another coding": OK + b"Transfer-Encoding: gzip\r\n\r\nhi",
    "two codings": OK + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "half a head": OK + b"Content-Le",
    "a protocol switch": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH\r\n",
    "LF-only lines": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
}


@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN)
async def test_an_answer_that_breaks_off_or_makes_no_sense_is_broken(origin_of, raw):
    async with Upstream(answering(raw, stay=False)) as upstream:
        origin = origin_of(upstream.port)
        with pytest.raises(UpstreamBroken) as broken:
            await fetch(origin)
        assert broken.value.answered
        assert isinstance(broken.value, UpstreamError | HelexaError)
        assert (broken.value.code, broken.value.status) == ("upstream_broken", 502)
        assert upstream.connections == 1


async def test_a_head_without_end_is_broken(origin_of):
    async with Upstream(answering(OK + b"A: b\r\n" * 1000)) as upstream:
        with pytest.raises(UpstreamBroken, match="too large"):
            await fetch(origin_of(upstream.port, limits=Limits(max_header_bytes=1000)))


async def test_a_body_over_the_readers_bound_is_not_read_on(origin_of):
    async with Upstream(answering(OK + b"Content-Length: 9\r\n\r\ntoo long!")) as upstream:
        origin = origin_of(upstream.port)
        answer = await within(origin.request(b"GET", b"/"))
        with pytest.raises(UpstreamBroken, match="over 5 bytes"):
            await within(answer.read(5))


async def test_an_answer_that_ended_in_an_error_is_not_kept_by_it(origin_of):
    async with Upstream(answering(OK + b"Content-Length: 9\r\n\r\nsho", stay=False)) as upstream:
        origin = origin_of(upstream.port)
        gc.disable()
        try:
            answer = await within(origin.request(b"GET", b"/"))
            kept = weakref.ref(answer)
            with contextlib.suppress(UpstreamBroken):
                async with asyncio.timeout(10):
                    await answer.read(9)
            del answer
            assert kept() is None
        finally:
            gc.enable()


# -- streams


async def test_a_relay_hands_over_each_piece_as_it_comes(origin_of):
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(wire, _number) -> None:
        await wire.read_until(b"\r\n\r\n")
        await wire.say(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        for piece in (b"two", b"six"):
            go = await within(acks.get())
            assert go
            await wire.say(b"3\r\n" + piece + b"\r\n")
        await within(acks.get())
        await wire.say(b"0\r\n\r\n")

    acks: asyncio.Queue[bool] = asyncio.Queue()
    async with Upstream(script) as upstream:
        answer = await within(origin_of(upstream.port).request(b"GET", b"/"))
        relaying = asyncio.create_task(answer.relay(heard.put_nowait))
        for expected in (b"one", b"two", b"six"):
            assert await within(heard.get()) == expected
            assert not relaying.done()
            acks.put_nowait(True)
        await within(relaying)


async def test_events_that_came_together_are_handed_over_together(origin_of):
    pieces: list[bytes] = []
    async with Upstream(
        answering(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
    ) as upstream:
        answer = await within(origin_of(upstream.port).request(b"GET", b"/"))
        await within(answer.relay(pieces.append))
    assert b"".join(pieces) == b"onetwo"


async def test_a_relay_says_when_its_stream_breaks_and_keeps_what_came_before(origin_of):
    pieces: list[bytes] = []
    async with Upstream(answering(BROKEN["chunks without their end"], stay=False)) as upstream:
        answer = await within(origin_of(upstream.port).request(b"GET", b"/"))
        with pytest.raises(UpstreamBroken):
            await within(answer.relay(pieces.append))
    assert pieces == [b"hi"]


async def test_what_the_sink_throws_ends_the_relay_and_the_connection(origin_of):
    def sink(piece: bytes) -> None:
        raise ZeroDivisionError

    left = asyncio.Event()

    async def script(wire, _number) -> None:
        await wire.read_until(b"\r\n\r\n")
        await wire.say(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        await within(listening.wait())
        await wire.say(b"3\r\none\r\n")
        await wire.reader.read()
        left.set()

    listening = asyncio.Event()
    async with Upstream(script) as upstream:
        answer = await within(origin_of(upstream.port).request(b"GET", b"/"))
        asyncio.get_running_loop().call_soon(listening.set)
        with pytest.raises(ZeroDivisionError):
            await within(answer.relay(sink))
        await within(left.wait())


async def test_chunks_can_be_iterated(origin_of):
    raw = OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
    async with Upstream(answering(raw, raw)) as upstream:
        origin = origin_of(upstream.port)
        for _ in range(2):
            answer = await within(origin.request(b"GET", b"/"))
            assert b"".join([piece async for piece in answer.chunks()]) == b"onetwo"
        assert upstream.connections == 1


async def test_a_reader_that_waits_holds_the_upstream_back_and_memory_stays_bounded(origin_of):
    async def script(wire, _number) -> None:
        await wire.read_until(b"\r\n\r\n")
        await wire.say(OK + b"Content-Length: 50000000\r\n\r\n")
        wire.writer.transport.set_write_buffer_limits(high=0)
        sent = 0
        while sent < 50_000_000:
            wire.writer.write(b"x" * 100_000)
            sent += 100_000
            drained = asyncio.ensure_future(wire.writer.drain())
            done, _ = await asyncio.wait([drained], timeout=None if go_on.is_set() else 0.2)
            if not done:
                stuck.set()
                await drained
        await wire.reader.read()

    stuck, go_on = asyncio.Event(), asyncio.Event()
    async with Upstream(script) as upstream:
        answer = await within(origin_of(upstream.port).request(b"GET", b"/"))
        await within(stuck.wait())
        assert answer._held_bytes < 1_000_000
        go_on.set()
        assert len(await within(answer.read(50_000_000))) == 50_000_000


async def test_pressure_on_the_reply_stops_the_upstream(serve, origin_of):
    """The whole chain: a client that does not read, our server, our client, an upstream that streams."""
    relayed = 0

    async def source(request, reply) -> None:
        reply.start(200, [])
        for _ in range(300):
            reply.write(b"x" * 100_000)
            await reply.drain()
        reply.finish()

    async def relay(request, reply) -> None:
        nonlocal relayed
        async with await origin.request(b"GET", b"/") as answer:
            reply.start(answer.status, list(answer.headers.items()))
            reply.on_pressure = pressure(answer)

            def count(piece: bytes) -> None:
                nonlocal relayed
                relayed += len(piece)
                reply.write(piece)

            await answer.relay(count)
            reply.finish()

    def pressure(answer):
        def press(on: bool) -> None:
            answer.pause(on)
            pressed.append(on)
            full.set()

        return press

    pressed: list[bool] = []
    full = asyncio.Event()
    behind, front = await serve(source), await serve(relay)
    origin = origin_of(behind.port)
    async with await front.dial() as wire:
        wire.writer.transport.pause_reading()
        await wire.say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await within(full.wait())
        assert relayed < 30_000_000
        wire.writer.transport.resume_reading()
        answer = await wire.answer()
        assert (len(answer.body), answer.whole) == (30_000_000, True)
    assert pressed[:2] == [True, False]


# -- leaving


@pytest.mark.parametrize("when", ["before the head", "mid-relay", "mid-read", "mid-chunks", "by close", "by its block"])
async def test_leaving_before_the_end_closes_the_connection(origin_of, when):
    asked, left = asyncio.Event(), asyncio.Event()

    async def script(wire, _number) -> None:
        await wire.read_until(b"\r\n\r\n")
        if when != "before the head":
            await wire.say(OK + b"Content-Length: 5\r\n\r\nhi")
        asked.set()
        await wire.reader.read()
        left.set()

    async def use() -> None:
        answer = await origin.request(b"GET", b"/")
        match when:
            case "mid-relay":
                await answer.relay(lambda _: None)
            case "mid-read":
                await answer.read(100)
            case "mid-chunks":
                async for _ in answer.chunks():
                    pass
            case "by close":
                answer.close()
            case _:
                async with answer:
                    pass

    async with Upstream(script) as upstream:
        origin = origin_of(upstream.port)
        using = asyncio.create_task(use())
        await within(asked.wait())
        await within(eventually(lambda: using.done() or using._fut_waiter is not None))
        if when not in ("by close", "by its block"):
            using.cancel()
            with pytest.raises(asyncio.CancelledError):
                await within(using)
        await within(left.wait())
        await within(using) if not using.cancelled() else None
        assert "0 connections" in repr(origin)


async def test_closing_the_client_breaks_off_what_is_under_way(origin_of):
    async with Upstream(answering(OK + b"Content-Length: 5\r\n\r\nhi")) as upstream:
        origin = origin_of(upstream.port)
        answer = await within(origin.request(b"GET", b"/"))
        reading = asyncio.create_task(answer.read(100))
        await within(eventually(lambda: reading._fut_waiter is not None))
        await origin.aclose()
        with pytest.raises(UpstreamBroken, match="closed"):
            await within(reading)
        with pytest.raises(ConnectFailed):
            await fetch(origin)


# -- connections that went stale


def dying(*lives: int):
    """A script whose n-th connection answers `lives[n]` requests and hangs up on the next one, having read it."""

    async def script(wire, number) -> None:
        for _ in range(lives[number - 1]):
            await wire.read_until(b"\r\n\r\n")
            await wire.say(OK + b"Content-Length: 2\r\n\r\nhi")
        await wire.read_until(b"\r\n\r\n")

    return script


async def test_an_idle_connection_that_dies_under_a_request_is_replaced_once(origin_of):
    async with Upstream(dying(1, 1)) as upstream:
        origin = origin_of(upstream.port)
        assert [await fetch(origin, b"POST", body=b"x") for _ in range(2)] == [(200, b"hi")] * 2
        assert upstream.connections == 2


@pytest.mark.parametrize("body", [b"small", b"x" * 1_000_000])
async def test_an_idle_connection_that_was_reset_unseen_is_replaced(origin_of, body):
    """The reset is in the kernel, the loop has not seen it: the write itself fails."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        origin = origin_of(listener.getsockname()[1])
        asking = asyncio.create_task(fetch(origin))
        await within(eventually(lambda: "1 connections" in repr(origin)))
        first, _ = listener.accept()
        first.sendall(OK + b"Content-Length: 2\r\n\r\nhi")
        assert await within(asking) == (200, b"hi")
        reset(first)
        asking = asyncio.create_task(origin.request(b"POST", b"/", body=body))
        await asyncio.sleep(0)
        await within(eventually(lambda: "1 connections" in repr(origin)))
        second, _ = listener.accept()
        second.sendall(OK + b"Content-Length: 2\r\n\r\nyo")
        assert await within((await within(asking)).read(10)) == b"yo"
        second.close()


async def test_a_second_death_is_the_callers(origin_of):
    async with Upstream(dying(1, 0)) as upstream:
        origin = origin_of(upstream.port)
        await fetch(origin)
        with pytest.raises(UpstreamBroken) as broken:
            await fetch(origin)
        assert (broken.value.answered, upstream.connections) == (False, 2)


async def test_a_fresh_connection_that_dies_is_not_tried_again(origin_of):
    async with Upstream(dying(0)) as upstream:
        with pytest.raises(UpstreamBroken) as broken:
            await fetch(origin_of(upstream.port))
        assert (broken.value.answered, upstream.connections) == (False, 1)


async def test_nothing_is_sent_again_where_the_caller_forbids_it(origin_of):
    async with Upstream(dying(1, 1)) as upstream:
        origin = origin_of(upstream.port)
        await fetch(origin)
        with pytest.raises(UpstreamBroken):
            await fetch(origin, retry=False)
        assert upstream.connections == 1


@pytest.mark.parametrize("part", [b"H", OK, OK + b"Content-Length: 5\r\n\r\n", OK + b"Content-Length: 5\r\n\r\nhi"])
async def test_nothing_is_sent_again_once_a_byte_of_the_answer_came(origin_of, part):
    first = OK + b"Content-Length: 2\r\n\r\nhi"
    async with Upstream(answering(first, part, stay=False)) as upstream:
        origin = origin_of(upstream.port)
        await fetch(origin)
        with pytest.raises(UpstreamBroken) as broken:
            await fetch(origin)
        assert (broken.value.answered, upstream.connections) == (True, 1)


async def test_an_idle_connection_the_upstream_closes_is_forgotten(origin_of):
    async with Upstream(answering(OK + b"Content-Length: 2\r\n\r\nhi", stay=False)) as upstream:
        origin = origin_of(upstream.port)
        await fetch(origin)
        await within(eventually(lambda: "0 connections" in repr(origin)))
        assert await fetch(origin) == (200, b"hi")


async def test_an_idle_connection_on_which_something_arrives_is_dropped(origin_of):
    async def script(wire, _number) -> None:
        await wire.read_until(b"\r\n\r\n")
        await wire.say(OK + b"Content-Length: 2\r\n\r\nhi")
        await within(answered.wait())
        await wire.say(OK + b"Content-Length: 6\r\n\r\npoison")
        await wire.reader.read()

    answered = asyncio.Event()
    async with Upstream(script) as upstream:
        origin = origin_of(upstream.port)
        await fetch(origin)
        answered.set()
        await within(eventually(lambda: "0 connections" in repr(origin)))


async def test_no_more_connections_are_kept_than_allowed(origin_of, serve):
    both = asyncio.Event()
    waiting = 0

    async def handle(request, reply) -> None:
        nonlocal waiting
        waiting += 1
        if waiting == 3:
            both.set()
        await both.wait()
        reply.send(200, [], b"hi")

    served = await serve(handle)
    origin = origin_of(served.port, max_idle=2)
    await within(asyncio.gather(*(fetch(origin) for _ in range(3))))
    assert "2 idle" in repr(origin)


async def test_idle_connections_end_after_their_time(origin_of, serve, echo):
    served = await serve(echo)
    origin = origin_of(served.port, idle_timeout_s=0.05)
    await fetch(origin)
    await within(eventually(lambda: "0 connections" in repr(origin)))


# -- time, and no connection at all


async def test_an_upstream_that_sends_no_head_is_timed_out(origin_of):
    async with Upstream(answering(b"")) as upstream:
        origin = origin_of(upstream.port)
        with pytest.raises(UpstreamTimeout) as timeout:
            await within(origin.request(b"GET", b"/", head_timeout_s=0.05))
        assert (timeout.value.status, timeout.value.code) == (504, "upstream_timeout")


@pytest.mark.parametrize("way", ["relay", "read", "chunks"])
async def test_a_stream_that_falls_silent_is_timed_out(origin_of, way):
    async with Upstream(answering(OK + b"Content-Length: 5\r\n\r\nhi")) as upstream:
        answer = await within(origin_of(upstream.port).request(b"GET", b"/", head_timeout_s=5.0))

        async def iterate() -> None:
            assert [piece async for piece in answer.chunks(idle_timeout_s=0.05)] == [b"hi"]

        ways = {
            "relay": lambda: answer.relay(lambda _: None, idle_timeout_s=0.05),
            "read": lambda: answer.read(100, idle_timeout_s=0.05),
            "chunks": iterate,
        }
        with pytest.raises(UpstreamTimeout):
            await within(ways[way]())


async def test_an_upstream_held_back_by_us_is_not_timed_out(origin_of):
    async def script(wire, _number) -> None:
        await wire.read_until(b"\r\n\r\n")
        await wire.say(OK + b"Content-Length: 5\r\n\r\nhi")
        await wire.reader.read()

    async with Upstream(script) as upstream:
        answer = await within(origin_of(upstream.port).request(b"GET", b"/"))
        answer.pause(True)
        relaying = asyncio.create_task(answer.relay(lambda _: None, idle_timeout_s=0.02))
        done, _ = await asyncio.wait([relaying], timeout=0.3)
        assert not done
        answer.pause(False)
        with pytest.raises(UpstreamTimeout):
            await within(relaying)


async def test_who_knows_that_an_upstream_is_gone_can_give_up_what_it_is_silent_about(origin_of):
    async def script(wire, number) -> None:
        await wire.read_until(b"\r\n\r\n")
        if number > 1:
            await wire.say(OK + b"Content-Length: 5\r\n\r\nhi")
        await wire.reader.read()

    async with Upstream(script) as upstream:
        origin = origin_of(upstream.port)
        silent = asyncio.create_task(origin.request(b"GET", b"/"))
        await within(eventually(lambda: "1 connections" in repr(origin)))
        begun = await within(origin.request(b"GET", b"/"))
        relaying = asyncio.create_task(begun.relay(lambda _: None, idle_timeout_s=60.0))
        origin.give_up_silent(30.0)
        done, _ = await asyncio.wait([silent, relaying], timeout=0.05)
        assert not done
        origin.give_up_silent(0.0)
        for waiting in (silent, relaying):
            with pytest.raises(UpstreamBroken, match="answers nobody"):
                await within(waiting)


async def test_what_we_do_not_read_is_not_silence(origin_of):
    async with Upstream(answering(OK + b"Content-Length: 5\r\n\r\nhi")) as upstream:
        origin = origin_of(upstream.port)
        answer = await within(origin.request(b"GET", b"/"))
        answer.pause(True)
        origin.give_up_silent(0.0)
        assert "1 connections" in repr(origin)


async def test_nobody_listening_is_a_failed_connection(origin_of):
    async with Upstream(answering()) as upstream:
        port = upstream.port
    with pytest.raises(ConnectFailed) as failed:
        await fetch(origin_of(port))
    assert (failed.value.status, failed.value.code) == (503, "upstream_unreachable")
    assert f"127.0.0.1:{port}" in str(failed.value)


async def test_a_unix_socket_is_an_origin_too(tmp_path, echo):
    server = Server(echo)
    await server.listen_unix(str(tmp_path / "s"))
    origin = Origin.from_url(f"unix://{tmp_path / 's'}")
    assert await fetch(origin) == (200, b"GET / ")
    await origin.aclose()
    await within(server.drain(0.0))
    with pytest.raises(ConnectFailed):
        await fetch(Origin(unix_path=str(tmp_path / "absent")))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://node:8001", "node:8001"),
        ("http://node", "node:80"),
        ("https://node", "node:443"),
        ("http://[::1]:9", "[::1]:9"),
        ("unix:///run/x.sock", "unix:/run/x.sock"),
    ],
)
def test_an_origin_is_named_by_its_url(url, shown):
    assert str(Origin.from_url(url)) == shown


@pytest.mark.parametrize("url", ["node:8001", "ftp://node", "http://", "unix://"])
def test_other_urls_are_no_origin(url):
    with pytest.raises(ValueError, match="not an http"):
        Origin.from_url(url)
