"""A Starlette application behind this room's server."""

from __future__ import annotations

import asyncio

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from helexa.http1.bridge import asgi_handler
from tests.http1.wires import eventually, within


def app_of(**endpoints) -> Starlette:
    return Starlette(routes=[Route(f"/{name}", end, methods=["GET", "POST"]) for name, end in endpoints.items()])


def ask(path: str, method: str = "GET", body: bytes = b"") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\nX-A: b\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def test_an_application_sees_the_request_and_answers_it(serve):
    async def show(request: Request) -> JSONResponse:
        body = (await request.body()).decode()
        return JSONResponse([request.method, request.url.path, request.query_params["q"], request.headers["x-a"], body])

    served = await serve(asgi_handler(app_of(show=show)))
    async with await served.dial() as wire:
        for _ in range(2):
            answer = await wire.ask(ask("/show?q=1", "POST", b"hello"))
            assert (answer.status, answer.body) == (200, b'["POST","/show","1","b","hello"]')
            assert answer.headers[b"content-type"] == b"application/json"
        assert (await wire.ask(ask("/absent"))).status == 404


async def test_head_and_empty_answers_keep_their_shape(serve):
    async def text(request: Request) -> Response:
        return PlainTextResponse("hello")

    async def empty(request: Request) -> Response:
        return Response(status_code=204)

    served = await serve(asgi_handler(app_of(text=text, empty=empty)))
    async with await served.dial() as wire:
        answer = await wire.ask(ask("/text", "HEAD"), "HEAD")
        assert (answer.body, answer.headers[b"content-length"]) == (b"", b"5")
        assert (await wire.ask(ask("/empty"))).status == 204
        assert (await wire.ask(ask("/text"))).body == b"hello"


async def test_a_file_keeps_its_length(serve, tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 300_000)

    async def file(request: Request) -> Response:
        return FileResponse(tmp_path / "f")

    served = await serve(asgi_handler(app_of(file=file)))
    async with await served.dial() as wire:
        answer = await wire.ask(ask("/file"))
        assert (len(answer.body), answer.headers[b"content-length"]) == (300_000, b"300000")
        head = await wire.ask(ask("/file", "HEAD"), "HEAD")
        assert (head.body, head.headers[b"content-length"]) == (b"", b"300000")


async def test_events_leave_as_they_are_made_and_a_client_that_leaves_ends_them(serve):
    ended = asyncio.Event()

    async def events(request: Request) -> Response:
        async def make():
            try:
                yield b"data: one\n\n"
                await asyncio.Event().wait()
            finally:
                ended.set()

        return StreamingResponse(make(), media_type="text/event-stream")

    served = await serve(asgi_handler(app_of(events=events)))
    async with await served.dial() as wire:
        await wire.say(ask("/events"))
        assert b"data: one" in await wire.read_until(b"one\n\n")
    await within(ended.wait())


async def test_a_stream_waits_for_a_client_that_does_not_read(serve):
    made = 0

    async def flood(request: Request) -> Response:
        async def make():
            nonlocal made
            for _ in range(200):
                made += 1
                yield b"x" * 100_000

        return StreamingResponse(make())

    served = await serve(asgi_handler(app_of(flood=flood)), write_high_bytes=100_000)
    async with await served.dial() as wire:
        wire.writer.transport.pause_reading()
        await wire.say(ask("/flood"))
        await eventually(lambda: any(conn.congested for conn in served.server._connections))
        assert made < 200
        wire.writer.transport.resume_reading()
        answer = await wire.answer()
        assert (len(answer.body), answer.whole) == (20_000_000, True)


async def test_an_application_that_fails_is_a_500_or_a_broken_stream(serve, caplog):
    async def fails(request: Request) -> Response:
        raise ZeroDivisionError

    async def breaks(request: Request) -> Response:
        async def make():
            yield b"half"
            raise ZeroDivisionError

        return StreamingResponse(make())

    served = await serve(asgi_handler(app_of(fails=fails, breaks=breaks)))
    async with await served.dial() as wire:
        assert (await wire.ask(ask("/fails"))).status == 500
        assert not (await wire.ask(ask("/breaks"))).whole


async def test_the_body_is_followed_by_a_disconnect_once_the_answer_is_out(serve):
    seen = []

    async def app(scope, receive, send) -> None:
        seen.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": [[b"a", b"b"]]})
        await send({"type": "http.response.body", "body": b"hi"})
        seen.append(await receive())

    served = await serve(asgi_handler(app))
    async with await served.dial() as wire:
        answer = await wire.ask(ask("/", "POST", b"body"))
    assert (answer.body, answer.headers[b"a"]) == (b"hi", b"b")
    assert seen == [{"type": "http.request", "body": b"body", "more_body": False}, {"type": "http.disconnect"}]


@pytest.mark.parametrize("event", [{"type": "http.response.body", "body": b""}, {"type": "websocket.accept"}])
async def test_an_application_that_breaks_asgi_is_told_so(serve, event, caplog):
    async def app(scope, receive, send) -> None:
        await send(event)

    served = await serve(asgi_handler(app))
    async with await served.dial() as wire:
        assert (await wire.ask(ask("/"))).status == 500
    assert "RuntimeError" in caplog.text
