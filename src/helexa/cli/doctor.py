"""`cortex doctor`: what is wrong with this machine's part of a fleet, and with the rest as seen from here."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import httpx2
import msgspec
from cyclopts import Parameter

import helexa
from helexa.base.errors import ConfigError
from helexa.base.words import counted
from helexa.cli import diagnosis
from helexa.cli.diagnosis import Finding
from helexa.cli.link import AsJson
from helexa.cli.say import as_json, table

if TYPE_CHECKING:
    from helexa.cli.localhost import LocalHost
    from helexa.gateway.config import CortexConfig, ModelsFile, Neuron

MARKS = {"ok": "ok", "warn": "WARN", "fail": "FAIL"}
TIMEOUT_S = 5.0


def doctor(
    *,
    config: Annotated[Path | None, Parameter(name=("--config", "-c"))] = None,
    neuron_config: Path | None = None,
    json: AsJson = False,
) -> None:
    """Look at configuration, ports, permissions, drivers, disk, clocks, versions, and where gateway and neurons differ.

    Exit status 1 when something would not work. Nothing is changed.

    Parameters
    ----------
    config
        The cortex.toml; /etc/cortex/cortex.toml when not given, left out when there is none.
    neuron_config
        The neuron.toml; /etc/neuron/neuron.toml when not given, left out when there is none.
    """
    findings = list(_examine(config, neuron_config))
    if json:
        as_json({"ok": all(each.state != "fail" for each in findings), "findings": findings})
    else:
        rows = [[MARKS[f.state], f.what, f.detail, f.remedy] for f in findings]
        table("", ("", "WHAT", "HOW IT IS", "REMEDY"), rows)
    sys.exit(1 if any(each.state == "fail" for each in findings) else 0)


def _examine(cortex_path: Path | None, neuron_path: Path | None) -> Iterator[Finding]:
    yield Finding(what="helexa", state="ok", detail=f"{helexa.__version__}, Python {sys.version.split()[0]}")
    gateway = yield from _gateway_files(cortex_path)
    host = yield from _this_host(neuron_path)
    harnesses: set[str] = set()
    if gateway is not None:
        cortex, models = gateway
        yield from _gateway_ports(cortex)
        for neuron in cortex.neurons:
            harnesses |= yield from _neuron(neuron)
        defaults = host.config.default_models if host else []
        rows = [msgspec.to_builtins(each) for each in models.models]
        yield from diagnosis.agreement(rows, [msgspec.to_builtins(each) for each in defaults], harnesses)


# Files and this host --------------------------------------------------------------------------------------------------


def _gateway_files(path: Path | None) -> Generator[Finding, None, tuple[CortexConfig, ModelsFile] | None]:
    from helexa.gateway.app import read_files
    from helexa.gateway.config import DEFAULT_PATH

    where = path or DEFAULT_PATH
    if path is None and not where.exists():
        yield Finding(what=str(where), state="ok", detail="not there: this machine is no gateway")
        return None
    try:
        found = read_files(where)
    except ConfigError as error:
        yield Finding(what=str(where), state="fail", detail=error.message, remedy="mend the file: cortex config check")
        return None
    told = f"{counted(len(found[0].neurons), 'neuron')}, {counted(len(found[1].models), 'model')}"
    yield Finding(what=str(where), state="ok", detail=told)
    return found


def _this_host(path: Path | None) -> Generator[Finding, None, LocalHost | None]:
    from helexa.cli.localhost import look
    from helexa.neuron.app.folder import state_folder
    from helexa.neuron.config import DEFAULT_PATH
    from helexa.neuron.sources.disk import free_bytes

    where = path or DEFAULT_PATH
    if path is None and not where.exists():
        yield Finding(what=str(where), state="ok", detail="not there: a neuron here would run with defaults")
    try:
        host = look(path)
    except ConfigError as error:
        yield Finding(what=str(where), state="fail", detail=error.message, remedy="mend the file")
        return None
    discovery: dict[str, Any] = msgspec.to_builtins(host.view.discovery())
    yield from diagnosis.engines("this host", discovery)
    yield diagnosis.devices("this host: devices", discovery)
    for folder in host.library.folders():
        yield diagnosis.disk(f"model cache {folder}", free_bytes(folder), _writable(folder))
    state = state_folder(os.environ, host.config.state_dir)
    yield diagnosis.state_folder(str(state), _writable(state))
    yield _port("neuron", host.config.listen, host.config.port, "/health")
    return host


def _writable(folder: Path) -> bool:
    """Whether a folder, or the nearest one that is there, can be written to."""
    there = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    return os.access(there, os.W_OK | os.X_OK)


def _gateway_ports(config: CortexConfig) -> Iterator[Finding]:
    from helexa.gateway.config import parse_address

    scheme = "https" if config.gateway.tls_cert else "http"
    yield _port("gateway", *parse_address(config.gateway.listen, "gateway.listen"), "/version", scheme)
    yield _port("gateway: metrics", *parse_address(config.gateway.metrics_listen, "gateway.metrics_listen"), "/metrics")


def _port(what: str, listen: str, number: int, path: str, scheme: str = "http") -> Finding:
    """Whether one of ours answers there. Its certificate is not our business here."""
    host = "127.0.0.1" if listen in ("0.0.0.0", "::") else listen
    try:
        answer = httpx2.get(f"{scheme}://{host}:{number}{path}", timeout=TIMEOUT_S, verify=False)
        return diagnosis.port(what, number, ours=answer.status_code == 200, taken=True)
    except httpx2.ConnectError:
        return diagnosis.port(what, number, ours=False, taken=not _free(host, number))
    except httpx2.HTTPError:
        return diagnosis.port(what, number, ours=False, taken=True)


def _free(host: str, number: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, number))
        except OSError:
            return False
        return True


# The neurons ----------------------------------------------------------------------------------------------------------


def _neuron(neuron: Neuron) -> Generator[Finding, None, set[str]]:
    what = f"neuron {neuron.name}"
    headers = {"authorization": f"Bearer {neuron.token}"} if neuron.token else {}
    try:
        answer = httpx2.get(f"{neuron.endpoint.rstrip('/')}/discovery", headers=headers, timeout=TIMEOUT_S)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
    except httpx2.HTTPStatusError as error:
        yield _refused(what, error.response.status_code)
        return set()
    except (httpx2.HTTPError, ValueError) as error:
        detail = f"{neuron.endpoint} does not answer: {error or type(error).__name__}"
        remedy = "start `neuron serve` there, open its port, or mend `endpoint`"
        yield Finding(what=what, state="fail", detail=detail, remedy=remedy)
        return set()
    yield diagnosis.versions(what, str(found.get("neuron_version", "")), helexa.__version__)
    yield from diagnosis.engines(what, found)
    yield diagnosis.devices(f"{what}: devices", found)
    free = found.get("disk_free_mb")
    yield diagnosis.disk(f"{what}: model cache", None if free is None else free << 20, writable=True)
    clock = found.get("clock_s")
    yield from diagnosis.clock(what, None if clock is None else clock - time.time())
    return set(found.get("harnesses", ()))


def _refused(what: str, status: int) -> Finding:
    if status == 401:
        remedy = "give this neuron's `token` in cortex.toml the value that its neuron.toml has"
        return Finding(what=what, state="fail", detail="it does not take our token", remedy=remedy)
    return Finding(what=what, state="fail", detail=f"HTTP {status}", remedy="is there a neuron at this endpoint?")
