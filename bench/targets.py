"""What is measured: each target is one command between the load and the mock upstream."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from processes import Process, wait_until

HERE = Path(__file__).resolve().parent
BUILD = HERE / ".build"
START_S = 60.0
CHAT = {"model": "mock", "messages": [{"role": "user", "content": "Are you there?"}]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a run happens: the mock's port, a scratch folder, the core the gateways share."""

    upstream: int
    scratch: Path
    cpu: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Something that answers on `port`. `process` is None for the mock itself, which is measured as `direct`."""

    name: str
    port: int
    version: str
    process: Process | None


class Missing(Exception):
    """A target cannot be started here; the text says what to do."""


@contextmanager
def started(names: list[str], ports: list[int], place: Place) -> Iterator[list[Target]]:
    """All targets, running side by side and each seen to answer a chat."""
    with ExitStack() as stack:
        targets = []
        for name, port in zip(names, ports, strict=True):
            command, version = COMMANDS[name](port, place)
            if not command:
                targets.append(Target(name=name, port=place.upstream, version=version, process=None))
                continue
            process = stack.enter_context(Process(command, cpu=place.cpu, log=place.scratch / f"{name}.log"))
            target = Target(name=name, port=port, version=version, process=process)
            if not wait_until(lambda target=target: _answers(target), START_S):
                raise Missing(f"{name} does not answer on port {port}:\n{process.tail()}")
            targets.append(target)
        yield targets


def _answers(target: Target) -> bool:
    assert target.process is not None
    if target.process.over():
        raise Missing(f"{target.name} ended at once:\n{target.process.tail()}")
    request = urllib.request.Request(
        f"http://127.0.0.1:{target.port}/v1/chat/completions",
        json.dumps(CHAT).encode(),
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return b"choices" in answer.read()
    except (urllib.error.URLError, OSError):
        return False


def _direct(port: int, place: Place) -> tuple[list[str], str]:
    return [], ""


def _nginx(port: int, place: Place) -> tuple[list[str], str]:
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if binary is None:
        raise Missing("nginx is not here; on Debian and Ubuntu: apt install nginx-light")
    config = place.scratch / "nginx.conf"
    config.write_text(NGINX.format(port=port, upstream=place.upstream, scratch=place.scratch, user=_nginx_user()))
    found = subprocess.run([binary, "-v"], capture_output=True, text=True, check=True).stderr
    return [binary, "-p", str(place.scratch), "-c", str(config)], found.strip().rpartition("/")[2]


def _nginx_user() -> str:
    return "user root;" if os.geteuid() == 0 else ""


NGINX = """\
{user} daemon off; worker_processes 1; pid {scratch}/nginx.pid; error_log {scratch}/nginx-error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off; tcp_nodelay on; keepalive_requests 1000000000; client_body_buffer_size 1m;
    client_body_temp_path {scratch}/nginx-body; proxy_temp_path {scratch}/nginx-proxy;
    fastcgi_temp_path {scratch}/nginx-f; uwsgi_temp_path {scratch}/nginx-u; scgi_temp_path {scratch}/nginx-s;
    upstream mock {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_buffering off; proxy_read_timeout 600s;
        }}
    }}
}}
"""


def _vllm_router(port: int, place: Place) -> tuple[list[str], str]:
    binary = Path(os.environ.get("BENCH_VLLM_ROUTER") or _install_vllm_router())
    if not binary.exists():
        raise Missing(f"BENCH_VLLM_ROUTER names {binary}, which is not there")
    version = subprocess.run(
        [binary.parent / "python", "-c", "from importlib.metadata import version; print(version('vllm-router'))"],
        capture_output=True,
        text=True,
    )
    command = [str(binary), "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin"]
    command += ["--worker-urls", f"http://127.0.0.1:{place.upstream}", "--log-level", "warning"]
    return [*command, "--prometheus-port", str(port + 100)], version.stdout.strip()


def _install_vllm_router() -> Path:
    """vllm-router from PyPI in an environment of its own, kept for the next run."""
    home = BUILD / "vllm-router"
    binary = home / "bin" / "vllm-router"
    if not binary.exists():
        print("installing vllm-router", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "vllm-router"], check=True)
    return binary


def _cortex(port: int, place: Place) -> tuple[list[str], str]:
    """The gateway with all it does by default: accounting, metrics, ids, access log, planner, polling."""
    config = place.scratch / "cortex.toml"
    config.write_text(
        f'models_config = "{place.scratch}/models.toml"\n'
        f'[gateway]\nlisten = "127.0.0.1:{port}"\nmetrics_listen = "127.0.0.1:{port + 100}"\n'
        f'[[neurons]]\nname = "mock"\nendpoint = "http://127.0.0.1:{place.upstream}"\n'
    )
    (place.scratch / "models.toml").write_text("")
    binary = Path(sys.executable).parent / "cortex"
    found = subprocess.run([binary, "--version"], capture_output=True, text=True)
    return [str(binary), "serve", "--config", str(config)], found.stdout.strip()


COMMANDS: dict[str, Callable[[int, Place], tuple[list[str], str]]] = {
    "direct": _direct,
    "nginx": _nginx,
    "vllm-router": _vllm_router,
    "cortex": _cortex,
}
