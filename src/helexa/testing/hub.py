"""A model hub on loopback that speaks the Hub's own API to the Hub's own client, and fails when it is told to.

    with MockHub() as hub:
        hub.add("org/name", {"model-Q4_K_M.gguf": path_or_bytes, "config.json": b"{}"})
        hub.fail(503, times=2, path="/api/models/*")
        ... HF_ENDPOINT = hub.url ...
        assert hub.seen[-1].range == "bytes=4096-"

Weights are answered as the Hub answers large files: a redirect with `X-Linked-Size` and `X-Linked-Etag` to another
origin, which serves ranges. Small files come at once.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

HOLD_LIMIT_S = 60.0
REVISION = "0123456789abcdef0123456789abcdef01234567"
_LARGE = (".gguf", ".safetensors", ".bin")
_RANGE = re.compile(r"bytes=(?P<first>\d+)-(?P<last>\d*)$")
_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/(?P<what>revision|tree)/(?P<revision>[^/]+))?$")
_FILE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)$")
_BLOB = re.compile(r"/blobs/(?P<digest>[0-9a-f]{64})$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    range: str = ""
    authorization: str = ""


@dataclass(slots=True, kw_only=True)
class _Fault:
    """What to do instead of answering: a status, a connection cut after so many bytes of body, other bytes, or
    nothing yet."""

    path: str
    times: int
    status: int = 0
    cut_after: int | None = None
    flip_byte: int | None = None
    until: threading.Event | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    name: str
    content: bytes

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def large(self) -> bool:
        return self.name.endswith(_LARGE)

    @property
    def oid(self) -> str:
        """What git calls the content."""
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    def sibling(self) -> dict[str, Any]:
        entry: dict[str, Any] = {"rfilename": self.name, "size": len(self.content), "blobId": self.oid}
        if self.large:
            entry["lfs"] = {"sha256": self.digest, "size": len(self.content), "pointerSize": 134}
        return entry


class _Server(ThreadingHTTPServer):
    """Knows its open connections, so that closing it also ends those that a client keeps alive."""

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Listener:
    """One port with a thread that answers on it."""

    def __init__(self, name: str, handler: type[BaseHTTPRequestHandler]) -> None:
        self._server = _Server(handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name=name)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.hang_up()
        self._server.server_close()


class MockHub:
    """Serves from its own threads, so blocking and asynchronous clients can both be driven against it."""

    def __init__(self, *, token: str | None = None) -> None:
        self.seen: list[Seen] = []
        self._token = token
        self._repos: dict[str, dict[str, _File]] = {}
        self._faults: list[_Fault] = []
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._api, self._store = _Listener("mock-hub", handler), _Listener("mock-hub-store", handler)

    @property
    def url(self) -> str:
        """The endpoint."""
        return self._api.url

    @property
    def store_url(self) -> str:
        """Where large files lie: another origin, which must never see the hub's token."""
        return self._store.url

    def add(self, repo: str, files: Mapping[str, bytes | Path]) -> None:
        """Make a repository, or replace it."""
        self._repos[repo] = {
            name: _File(name=name, content=content if isinstance(content, bytes) else content.read_bytes())
            for name, content in files.items()
        }

    def fail(self, status: int, *, path: str = "*", times: int = 1, headers: Mapping[str, str] | None = None) -> None:
        """Answer the next `times` requests whose path matches with `status`."""
        self._script(_Fault(path=path, times=times, status=status, headers=headers or {}))

    def cut(self, after: int, *, path: str = "/blobs/*", times: int = 1) -> None:
        """Break the connection after so many bytes of the body."""
        self._script(_Fault(path=path, times=times, cut_after=after))

    def corrupt(self, at: int = 0, *, path: str = "/blobs/*", times: int = 1) -> None:
        """Send the right number of bytes with one of them wrong."""
        self._script(_Fault(path=path, times=times, flip_byte=at))

    def hold(self, *, path: str = "/blobs/*", times: int = 1) -> threading.Event:
        """Answer only once the event that is returned is set, or after HOLD_LIMIT_S."""
        until = threading.Event()
        self._script(_Fault(path=path, times=times, until=until))
        return until

    def requests(self, method: str, path: str) -> list[Seen]:
        """What was asked so far, by method and a path pattern."""
        with self._lock:
            return [each for each in self.seen if each.method == method and fnmatch.fnmatch(each.path, path)]

    def close(self) -> None:
        """Stop answering; connections are refused from here on."""
        self._api.close()
        self._store.close()

    def __enter__(self) -> Self:
        self._api.start()
        self._store.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _script(self, fault: _Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def note(self, seen: Seen) -> _Fault | None:
        """Remember a request, and say what is to go wrong with it."""
        with self._lock:
            self.seen.append(seen)
            for fault in self._faults:
                if fault.times > 0 and fnmatch.fnmatch(seen.path, fault.path):
                    fault.times -= 1
                    return fault
        return None

    def allows(self, authorization: str) -> bool:
        return self._token is None or authorization == f"Bearer {self._token}"

    def repo(self, name: str) -> Mapping[str, _File] | None:
        return self._repos.get(name)

    def blob(self, digest: str) -> _File | None:
        files = (file for repo in self._repos.values() for file in repo.values())
        return next((file for file in files if file.digest == digest), None)


class _Handler(BaseHTTPRequestHandler):
    """One connection. The class is made anew for each hub, which is its `hub`."""

    hub: MockHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: object) -> None:
        """Tests read `seen` instead."""

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        authorization = self.headers.get("Authorization", "")
        fault = self.hub.note(
            Seen(
                method=self.command,
                path=path,
                range=self.headers.get("Range", ""),
                authorization=authorization,
            )
        )
        if fault is not None and fault.status:
            return self._send(fault.status, b"{}", fault.headers)
        if fault is not None and fault.until is not None:
            fault.until.wait(HOLD_LIMIT_S)
        blob = _BLOB.match(path)
        if blob:
            return self._blob(self.hub.blob(blob["digest"]), fault)
        return self._repository(path, authorization, fault)

    def _repository(self, path: str, authorization: str, fault: _Fault | None) -> None:
        match = _API.match(path) or _FILE.match(path)
        files = self.hub.repo(match["repo"]) if match else None
        if match is None or not self.hub.allows(authorization):
            return self._missing(401 if match else 404, "RepoNotFound")
        if files is None:
            return self._missing(404, "RepoNotFound")
        if match.re is _API:
            return self._json(_listing(match["repo"], match["what"], files.values()))
        file = files.get(match["name"])
        return self._file(file, fault) if file else self._missing(404, "EntryNotFound")

    def _file(self, file: _File, fault: _Fault | None) -> None:
        headers = {"X-Repo-Commit": REVISION}
        if not file.large:
            return self._content(file.content, {**headers, "ETag": f'"{file.oid}"'}, fault)
        linked = {"X-Linked-Size": str(len(file.content)), "X-Linked-Etag": f'"{file.digest}"'}
        return self._send(302, b"", {**headers, **linked, "Location": f"{self.hub.store_url}/blobs/{file.digest}"})

    def _blob(self, file: _File | None, fault: _Fault | None) -> None:
        if file is None:
            return self._missing(404, "EntryNotFound")
        return self._content(file.content, {"ETag": f'"{file.digest}"'}, fault)

    def _content(self, content: bytes, headers: Mapping[str, str], fault: _Fault | None) -> None:
        """All of it, or the range that was asked for."""
        if fault is not None and fault.flip_byte is not None:
            at = fault.flip_byte
            content = content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]
        asked = _RANGE.match(self.headers.get("Range", ""))
        cut = fault.cut_after if fault else None
        if not asked:
            return self._send(200, content, {**headers, "Accept-Ranges": "bytes"}, cut)
        first, last = int(asked["first"]), min(int(asked["last"] or len(content) - 1), len(content) - 1)
        if first > last:
            return self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        piece = content[first : last + 1]
        return self._send(206, piece, {**headers, "Content-Range": f"bytes {first}-{last}/{len(content)}"}, cut)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _missing(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": "not here"})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        try:
            if self.command != "HEAD":
                self.wfile.write(body if cut is None else body[:cut])
            if cut is not None:
                self.close_connection = True
        except OSError:
            self.close_connection = True


def _listing(repo: str, what: str | None, files: Iterable[_File]) -> object:
    if what == "tree":
        return [{"type": "file", "path": f.name, "size": len(f.content), "oid": f.oid} for f in files]
    return {
        "_id": "0" * 24,
        "id": repo,
        "modelId": repo,
        "sha": REVISION,
        "private": False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "siblings": [file.sibling() for file in files],
    }
