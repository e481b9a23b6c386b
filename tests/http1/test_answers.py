"""How the server answers, and what becomes of a handler whose client leaves."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import ssl
import subprocess

import pytest

from helexa.http1.server import Server
from tests.http1.wires import PATIENCE_S, Wire, eventually, reset, within

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n\r\n"


def stream_of(*pieces: bytes, status: int = 200, **options):
    async def handle(request, reply) -> None:
        reply.start(status, [(b"a", b"b")], **options)
        for piece in pieces:
            reply.write(piece)
        reply.finish()

    return handle


async def test_one_connection_serves_many_requests(serve, echo):
    served = await serve(echo)
    async with await served.dial() as wire:
        answers = [await wire.ask(b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx" % n) for n in range(5)]
    assert [answer.body for answer in answers] == [b"POST /%d x" % n for n in range(5)]
    assert b"connection" not in answers[0].headers


@pytest.mark.parametrize(
    "close", [b"Connection: close", b"Connection: Keep-Alive, CLOSE", b"A: b\r\nConnection: close"]
)
async def test_a_client_that_asks_for_it_has_its_connection_closed(serve, echo, close):
    served = await serve(echo)
    async with await served.dial() as wire:
        answer = await wire.ask(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: a\r\n" + close + b"\r\n\r\n")
        assert answer.headers[b"connection"] == b"close"
        assert await wire.closed()


async def test_the_answer_to_head_has_no_body(serve, echo):
    served = await serve(echo)
    async with await served.dial() as wire:
        answer = await wire.ask(HEAD, "HEAD")
        assert (answer.body, answer.headers[b"content-length"]) == (b"", b"7")
        assert (await wire.ask(GET)).body == b"GET / "


async def test_a_streamed_answer_to_head_has_no_body(serve):
    served = await serve(stream_of(b"one", b"two"))
    async with await served.dial() as wire:
        assert (await wire.ask(HEAD, "HEAD")).body == b""
        assert (await wire.ask(GET)).body == b"onetwo"


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_a_body_has_none(serve, status):
    async def handle(request, reply) -> None:
        if request.path == "/stream":
            reply.start(status, [])
            reply.write(b"nobody reads this")
            reply.finish()
        else:
            reply.send(status, [], b"nobody reads this")

    served = await serve(handle)
    async with await served.dial() as wire:
        for path in (b"/", b"/stream"):
            answer = await wire.ask(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            assert (answer.status, answer.body, answer.headers) == (status, b"", {})


async def test_a_stream_is_chunked_one_chunk_a_write_and_empty_writes_are_nothing(serve):
    served = await serve(stream_of(b"one", b"", b"two"))
    async with await served.dial() as wire:
        await wire.say(GET)
        raw = await wire.read_until(b"0\r\n\r\n")
    assert raw == b"HTTP/1.1 200 OK\r\na: b\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"


async def test_a_stream_without_a_piece_is_an_empty_answer(serve):
    served = await serve(stream_of())
    async with await served.dial() as wire:
        answer = await wire.ask(GET)
        assert (answer.status, answer.body, answer.whole) == (200, b"", True)


async def test_a_stream_to_http_1_0_ends_with_the_connection(serve):
    served = await serve(stream_of(b"one", b"two"))
    async with await served.dial() as wire:
        answer = await wire.ask(OLD)
        assert (answer.body, answer.whole, b"transfer-encoding" in answer.headers) == (b"onetwo", True, False)


async def test_a_stream_of_a_known_length_is_counted(serve):
    served = await serve(stream_of(b"one", b"two", length=6))
    async with await served.dial() as wire:
        answer = await wire.ask(GET)
        assert (answer.body, answer.headers[b"content-length"]) == (b"onetwo", b"6")


@pytest.mark.parametrize("length", [5, 7])
async def test_a_stream_of_another_length_than_declared_is_broken_off(serve, length, caplog):
    served = await serve(stream_of(b"one", b"two", length=length))
    async with await served.dial() as wire:
        assert not (await wire.ask(GET)).whole


async def test_a_held_head_can_be_sent_before_the_first_piece(serve):
    go_on = asyncio.Event()

    async def handle(request, reply) -> None:
        reply.start(200, [])
        reply.flush()
        await go_on.wait()
        reply.write(b"late")
        reply.finish()

    served = await serve(handle)
    async with await served.dial() as wire:
        await wire.say(GET)
        assert (await wire.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
        go_on.set()
        assert await wire.read_until(b"0\r\n\r\n") == b"4\r\nlate\r\n0\r\n\r\n"


async def test_framing_belongs_to_the_server(serve):
    meddling = [(b"Content-Length", b"1"), (b"transfer-encoding", b"x"), (b"Connection", b"upgrade"), (b"a", b"b")]

    async def handle(request, reply) -> None:
        reply.send(200, meddling, b"four")

    served = await serve(handle)
    async with await served.dial() as wire:
        assert (await wire.ask(GET)).headers == {b"a": b"b", b"content-length": b"4"}


@pytest.mark.parametrize("value", [b"b\r\nEvil: yes", b"b\nEvil: yes", b"b\rEvil", b"b\0"])
async def test_a_header_cannot_break_out_of_its_line(serve, value, caplog):
    async def handle(request, reply) -> None:
        reply.send(200, [(b"a", value)], b"")

    served = await serve(handle)
    async with await served.dial() as wire:
        answer = await wire.ask(GET)
        assert (answer.status, b"evil" in answer.headers) == (500, False)


# -- handlers that go wrong


async def test_a_handler_that_fails_is_a_500_and_a_traceback_and_the_connection_goes_on(serve, caplog):
    async def handle(request, reply) -> None:
        raise ZeroDivisionError("the reason")

    served = await serve(handle)
    with caplog.at_level(logging.ERROR, "helexa.http1.connection"):
        async with await served.dial() as wire:
            assert [(await wire.ask(GET)).status for _ in range(2)] == [500, 500]
    assert "the reason" in caplog.text


async def test_a_handler_that_says_nothing_is_a_500(serve):
    async def handle(request, reply) -> None:
        pass

    served = await serve(handle)
    async with await served.dial() as wire:
        assert (await wire.ask(GET)).status == 500


@pytest.mark.parametrize("fault", ["raises", "returns", "aborts"])
@pytest.mark.parametrize("request_bytes", [GET, OLD], ids=["HTTP/1.1", "HTTP/1.0"])
async def test_half_a_stream_never_looks_complete(serve, fault, request_bytes, caplog):
    async def handle(request, reply) -> None:
        reply.start(200, [])
        reply.write(b"half")
        if fault == "raises":
            raise ZeroDivisionError
        if fault == "aborts":
            reply.abort()

    served = await serve(handle)
    async with await served.dial() as wire:
        await wire.say(request_bytes)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)) as broken:
            await wire.read_until(b"0\r\n\r\n")
        if request_bytes is OLD:  # EOF would be this answer's proper end
            assert isinstance(broken.value, ConnectionResetError)


async def test_an_answer_is_begun_once_and_written_while_it_is_open(serve):
    errors = []

    async def handle(request, reply) -> None:
        for step in (
            lambda: reply.write(b"early"),
            lambda: reply.send(200, [], b"ok"),
            lambda: reply.send(200, [], b"again"),
            lambda: reply.start(200, []),
            lambda: reply.write(b"late"),
        ):
            try:
                step()
            except RuntimeError as error:
                errors.append(str(error))
        reply.finish()

    served = await serve(handle)
    async with await served.dial() as wire:
        assert (await wire.ask(GET)).body == b"ok"
    assert len(errors) == 4


# -- clients that leave


class Witness:
    """A handler that streams its first bytes if told to, waits, and notes how it ended."""

    def __init__(self, first: bytes = b"") -> None:
        self.first = first
        self.working = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, request, reply) -> None:
        if self.first:
            reply.start(200, [])
            reply.write(self.first)
        self.working.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            reply.write(b"into the void") if self.first else None
            raise


@pytest.mark.parametrize("leave", ["close", "reset", "half-close"])
@pytest.mark.parametrize("first", [b"", b"first"], ids=["before the first byte", "mid-stream"])
async def test_a_client_that_leaves_cancels_its_handler(serve, leave, first):
    witness = Witness(first)
    served = await serve(witness)
    wire = await served.dial()
    await wire.say(GET)
    await within(witness.working.wait())
    if leave == "half-close":
        wire.writer.write_eof()
    else:
        wire.hang_up(reset=leave == "reset")
    await within(witness.cancelled.wait())  # nothing else would end it: there is no timeout here
    await within(eventually(lambda: served.server.in_flight == 0))
    wire.hang_up()


@pytest.mark.parametrize("way", ["send", "stream"])
async def test_an_answer_to_a_client_that_has_just_gone_is_nothing(serve, caplog, way):
    """The reset is in the kernel, the loop has not seen it: the first write fails, and none of them raises."""
    done = asyncio.Event()

    async def handle(request, reply) -> None:
        if sock.fileno() >= 0:  # the next request in the pipeline may be served before the loss is noticed
            reset(sock)
        if way == "send":
            reply.send(200, [], b"x" * 100_000)
        else:
            reply.start(200, [])
            for _ in range(5):
                reply.write(b"x" * 1000)
            reply.finish()
        await reply.drain()
        done.set()

    served = await serve(handle)
    sock = socket.create_connection(("127.0.0.1", served.port))
    sock.sendall(GET * 3)
    await within(done.wait())
    await within(eventually(lambda: not served.server._connections))
    assert caplog.text == ""


async def test_a_refusal_of_a_client_that_has_just_gone_is_nothing(serve, caplog):
    async def handle(request, reply) -> None:
        reply.send(200, [], b"")
        reset(sock)

    served = await serve(handle)
    sock = socket.create_connection(("127.0.0.1", served.port))
    sock.sendall(GET + b"nonsense\r\n\r\n")
    await within(eventually(lambda: sock.fileno() < 0))
    await within(eventually(lambda: not served.server._connections))
    assert caplog.text == ""


async def test_a_client_that_leaves_with_pipelined_requests_behind_is_noticed(serve):
    witness = Witness()
    served = await serve(witness)
    wire = await served.dial()
    await wire.say(GET * 5)
    await within(witness.working.wait())
    wire.hang_up()
    await within(witness.cancelled.wait())


async def test_a_handler_at_work_after_its_answer_is_complete_is_left_alone(serve):
    gone, noted = asyncio.Event(), asyncio.Event()

    async def handle(request, reply) -> None:
        reply.send(200, [], b"")
        await gone.wait()
        noted.set()

    served = await serve(handle)
    async with await served.dial() as wire:
        assert (await wire.ask(GET)).status == 200
    await within(eventually(lambda: not served.server._connections))
    gone.set()
    await within(noted.wait())


async def test_a_client_that_leaves_inside_a_request_leaves_nothing_behind(serve, echo):
    served = await serve(echo)
    for part in (b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab"):
        async with await served.dial() as wire:
            await wire.say(part)
            await within(eventually(lambda: len(served.server._connections) == 1))
        await within(eventually(lambda: not served.server._connections))


# -- back-pressure


class Firehose:
    """Streams until the client is slow; `reading` plays the upstream that is told to stop."""

    def __init__(self) -> None:
        self.pressed: list[bool] = []
        self.most_unsent = 0
        self.full, self.finished = asyncio.Event(), asyncio.Event()

    async def __call__(self, request, reply) -> None:
        reply.start(200, [])
        reply.on_pressure = self._pressure
        self.reply = reply
        for _ in range(200):
            reply.write(b"x" * 100_000)
            self.most_unsent = max(self.most_unsent, reply._conn._transport.get_write_buffer_size())
            await reply.drain()
        reply.finish()
        self.finished.set()

    def _pressure(self, on: bool) -> None:
        self.pressed.append(on)
        if on:
            self.full.set()


async def test_a_client_that_does_not_read_stops_the_writer_and_memory_stays_bounded(serve):
    hose = Firehose()
    served = await serve(hose, write_high_bytes=100_000)
    async with await served.dial() as wire:
        wire.writer.transport.pause_reading()
        await wire.say(GET)
        await within(hose.full.wait())
        assert hose.reply._conn.congested
        wire.writer.transport.resume_reading()
        answer = await wire.answer()
        assert (len(answer.body), answer.whole) == (20_000_000, True)
    assert hose.pressed[:2] == [True, False]
    assert hose.most_unsent < 300_000


async def test_a_client_that_never_reads_again_is_broken_off(serve):
    hose = Firehose()
    served = await serve(hose, write_high_bytes=100_000, stall_timeout_s=0.05)
    async with await served.dial() as wire:
        wire.writer.transport.pause_reading()
        await wire.say(GET)
        await within(hose.full.wait())
        await within(eventually(lambda: not served.server._connections and served.server.in_flight == 0))
    assert not hose.finished.is_set()


def answering_at_once(request, reply) -> None:
    reply.send(200, [], b"x" * 100_000)


async def answering_in_a_task(request, reply) -> None:
    await asyncio.sleep(0)
    answering_at_once(request, reply)


@pytest.mark.parametrize("handler", [answering_at_once, answering_in_a_task])
async def test_a_client_that_asks_ahead_and_does_not_read_is_answered_as_it_reads(serve, handler):
    unsent: list[int] = []

    def counting(request, reply):
        unsent.append(reply._conn._transport.get_write_buffer_size())
        return handler(request, reply)

    served = await serve(counting, max_pipelined_bytes=1000)
    async with await served.dial() as wire:
        wire.writer.transport.pause_reading()
        wire.writer.write(GET * 300)
        await eventually(lambda: any(conn.congested for conn in served.server._connections))
        wire.writer.write(GET * 20_000)
        (conn,) = served.server._connections
        await eventually(lambda: not conn._reading)
        assert len(conn._input) < 600_000
        wire.writer.transport.resume_reading()
        for _ in range(300):
            assert len((await wire.answer()).body) == 100_000
        assert max(unsent) <= conn._server.limits.write_high_bytes


async def test_a_client_that_asks_ahead_and_never_reads_is_broken_off(serve):
    served = await serve(answering_at_once, stall_timeout_s=0.05, keepalive_timeout_s=0.05)
    async with await served.dial() as wire:
        wire.writer.transport.pause_reading()
        wire.writer.write(GET * 1000)
        await eventually(lambda: any(conn.congested for conn in served.server._connections))
        await eventually(lambda: not served.server._connections)


# -- the end of the server


async def test_drain_lets_running_answers_finish_and_closes_idle_connections(serve):
    working, go_on = asyncio.Event(), asyncio.Event()

    async def handle(request, reply) -> None:
        if request.path == "/slow":
            working.set()
            await go_on.wait()
        reply.send(200, [], b"done")

    served = await serve(handle)
    idle, busy = await served.dial(), await served.dial()
    assert b"connection" not in (await idle.ask(GET)).headers
    await busy.say(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    await within(working.wait())
    draining = asyncio.create_task(served.server.drain(PATIENCE_S))
    assert await idle.closed()
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await served.dial()
    go_on.set()
    answer = await busy.answer()
    assert (answer.body, answer.headers[b"connection"]) == (b"done", b"close")
    assert await busy.closed()
    await within(draining)
    idle.hang_up()
    busy.hang_up()


async def test_drain_turns_away_who_comes_while_an_answer_runs(serve):
    working, go_on = asyncio.Event(), asyncio.Event()

    async def handle(request, reply) -> None:
        working.set()
        await go_on.wait()
        reply.send(200, [], b"done")

    def turn_away(request, reply) -> None:
        reply.send(503, [(b"retry-after", b"5")], b"not now")

    served = await serve(handle)
    early, busy = await served.dial(), await served.dial()
    await busy.say(GET)
    await within(working.wait())
    draining = asyncio.create_task(served.server.drain(PATIENCE_S, turn_away))
    await within(eventually(lambda: served.server.draining))
    late, silent = await served.dial(), await served.dial()
    for wire in (early, late):
        answer = await wire.ask(GET)
        assert (answer.status, answer.headers[b"connection"]) == (503, b"close")
        assert await wire.closed()
    go_on.set()
    assert (await busy.answer()).body == b"done"
    await within(draining)
    assert await silent.closed()
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await served.dial()
    for wire in (early, late, busy, silent):
        wire.hang_up()


async def test_drain_breaks_off_what_does_not_finish_in_time(serve):
    witness = Witness(b"first")
    served = await serve(witness)
    async with await served.dial() as wire:
        await wire.say(GET)
        await within(witness.working.wait())
        await within(served.server.drain(0.01))
        assert witness.cancelled.is_set()
        assert not (await wire.answer()).whole


async def test_drain_ends_although_a_handler_ignores_its_cancellation(serve, caplog):
    working, release = asyncio.Event(), asyncio.Event()

    async def handle(request, reply) -> None:
        working.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    served = await serve(handle, cleanup_timeout_s=0.01)
    async with await served.dial() as wire:
        await wire.say(GET)
        await within(working.wait())
        await within(served.server.drain(0.01))
        assert "ignore their cancellation" in caplog.text
        release.set()


async def test_in_flight_counts_requests_in_work(serve):
    witness = Witness()
    served = await serve(witness)
    wires = [await served.dial() for _ in range(3)]
    for wire in wires:
        await wire.say(GET)
    await within(eventually(lambda: served.server.in_flight == 3))
    assert "3 in flight" in repr(served.server)
    wires[0].hang_up()
    await within(eventually(lambda: served.server.in_flight == 2))
    for wire in wires:
        wire.hang_up()


# -- where it listens


async def test_it_serves_a_unix_socket(echo, tmp_path):
    server = Server(echo)
    await server.listen_unix(str(tmp_path / "s"))
    async with Wire(*await asyncio.open_unix_connection(str(tmp_path / "s"))) as wire:
        assert (await wire.ask(GET)).body == b"GET / "
    await within(server.drain(0.0))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificate with openssl")
    folder = tmp_path_factory.mktemp("tls")
    names = ["-keyout", str(folder / "key"), "-out", str(folder / "cert"), "-subj", "/CN=localhost"]
    san = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run([*make, "-days", "1", *names, *san], check=True, capture_output=True, timeout=30)
    return folder


def contexts(certificate) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate / "cert", certificate / "key")
    return server, ssl.create_default_context(cafile=certificate / "cert")


async def test_it_speaks_tls(serve, echo, certificate, origin_of):
    ours, theirs = contexts(certificate)
    served = await serve(echo, ssl=ours, max_body_bytes=1000)
    origin = origin_of(served.port, ssl=theirs)
    for _ in range(2):
        answer = await within(origin.request(b"POST", b"/", body=b"hello"))
        assert await within(answer.read(100)) == b"POST / hello"
    answer = await within(origin.request(b"POST", b"/", body=b"x" * 2000))
    assert answer.status == 413


async def test_a_tls_client_that_leaves_cancels_its_handler(serve, certificate):
    ours, theirs = contexts(certificate)
    witness = Witness(b"first")
    served = await serve(witness, ssl=ours)
    async with await served.dial(ssl=theirs, server_hostname="localhost") as wire:
        await wire.say(GET)
        await within(witness.working.wait())
    await within(witness.cancelled.wait())
