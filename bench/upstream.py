"""The mock upstream's remote control, and the clients that leave."""

from __future__ import annotations

import http.client
import json
import socket
import time

from processes import wait_until

GIVE_UP_S = 2.0


class Mock:
    """The running mock: its shape and its counters."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)

    def shape(self, *, chunks: int = 20, delay_us: int = 0, ttft_us: int = 0, json_delay_us: int = 0) -> None:
        self._get(f"/_set?chunks={chunks}&delay_us={delay_us}&ttft_us={ttft_us}&json_delay_us={json_delay_us}")

    def stats(self) -> dict[str, int]:
        return json.loads(self._get("/_stats"))

    def quiet(self, within_s: float = 10.0) -> bool:
        """Whether nothing is being answered any more."""
        return wait_until(lambda: self.stats()["active"] == 0, within_s, every_s=0.02)

    def _get(self, path: str) -> bytes:
        self._connection.request("GET", path)
        return self._connection.getresponse().read()


LEAVERS = {
    "streaming": ({"chunks": 75, "delay_us": 20_000}, True),
    "before the first token": ({"ttft_us": 3_000_000}, True),
    "not streamed": ({"json_delay_us": 3_000_000}, False),
}
"""When a client leaves: the mock's shape, and whether the request asks for a stream."""


def leave(mock: Mock, port: int, kind: str, body: bytes) -> float | None:
    """Milliseconds from a client's close() to the mock's seeing its request aborted; None when it never was."""
    shape, _ = LEAVERS[kind]
    mock.shape(**shape)
    before = mock.stats()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(head.encode() + body)
        if kind == "streaming":
            _read_first_event(client)
        elif not wait_until(lambda: mock.stats()["active"] > before["active"], 2.0, every_s=0.005):
            return None
        time.sleep(0.02)
        left_us = time.monotonic_ns() / 1000
    aborted = wait_until(lambda: mock.stats()["aborted"] > before["aborted"], GIVE_UP_S, every_s=0.005)
    return max(0.0, (mock.stats()["last_abort_us"] - left_us) / 1000) if aborted else None


def _read_first_event(client: socket.socket) -> None:
    seen = b""
    while b"data:" not in seen:
        piece = client.recv(65536)
        if not piece:
            raise ConnectionError(f"the stream ended before its first event: {seen[:300]!r}")
        seen += piece
