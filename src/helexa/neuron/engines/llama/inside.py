"""HTTP to the server that runs in this very process: small questions from the device thread, one connection each."""

from __future__ import annotations

import socket

TIMEOUT_S = 10.0


def ask(path: str, method: str, target: str, body: bytes = b"", *, timeout_s: float = TIMEOUT_S) -> tuple[int, bytes]:
    """Status and body of the answer at the Unix socket `path`. Raises OSError when there is none in time."""
    with socket.socket(socket.AF_UNIX) as conn:
        conn.settimeout(timeout_s)
        conn.connect(path)
        head = f"{method} {target} HTTP/1.0\r\nHost: engine\r\nContent-Type: application/json\r\n"
        conn.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = b"".join(iter(lambda: conn.recv(65536), b""))
    first, _, rest = answer.partition(b"\r\n\r\n")
    status = first.split(b" ", 2)[1:2]
    return (int(status[0]) if status and status[0].isdigit() else 0), rest
