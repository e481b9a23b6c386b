"""A real fleet on loopback: `neuron serve` and `cortex serve` as processes of their own, on free ports, in a directory.

For the tests of this project and for those of its users: `async with Fleet(folder, neurons={"n1": TOML}, models=TOML)`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2

from helexa.base import lifeline
from helexa.base.errors import HelexaError
from helexa.testing.recorder import Recorder

T = TypeVar("T")

START_S = 30.0
STOP_S = 20.0
PORTS, BLOCK = range(10_000, 32_000), 100


class NotInTime(HelexaError):
    """{what} did not happen within {limit_s} s"""

    code = "not_in_time"


class NoPorts(HelexaError):
    """Every port from {first} to {last} is taken on 127.0.0.1; end what listens there"""

    code = "no_ports"


class Died(HelexaError):
    """A daemon died at its start; {log} ends with: {said}"""

    code = "died"


async def eventually(look: Callable[[], Awaitable[T]], what: str, *, limit_s: float = 20.0) -> T:
    """The first true answer of `look`, asked again until then. Raises NotInTime."""
    try:
        async with asyncio.timeout(limit_s):
            while not (found := await look()):  # noqa: ASYNC110 - other processes set no event here
                await asyncio.sleep(0.02)
            return found
    except TimeoutError:
        raise NotInTime(what=what, limit_s=limit_s) from None


def free_port() -> int:
    """A port that nobody listens on, out of this process's own block: suites side by side give none out twice, and none
    is among those that the kernel gives to connections, which come and go before a daemon binds what it was told."""
    return next(_own_ports())


@cache
def _own_ports() -> Iterator[int]:
    """Whoever listens on the first port of a block has the others, for the process's life. Raises NoPorts."""
    for first in PORTS[::BLOCK]:
        guard = socket.socket()
        try:
            guard.bind(("127.0.0.1", first))
            guard.listen()
        except OSError:
            guard.close()
        else:
            return _free_ports(guard, range(first + 1, first + BLOCK))
    raise NoPorts(first=PORTS.start, last=PORTS.stop - 1)


def _free_ports(guard: socket.socket, block: range) -> Iterator[int]:
    with guard:
        while any(map(is_free, block)):
            yield from filter(is_free, block)
    raise NoPorts(first=block.start, last=block.stop - 1)


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Daemon:
    """One `serve` process, with its log."""

    def __init__(self, module: str, config: Path, url: str, *arguments: str) -> None:
        self.url = url
        self.log = config.with_suffix(".log")
        self._command = [sys.executable, "-m", module, "serve", "--config", str(config), *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = -1

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def start(self) -> None:
        """Start it on a lifeline: when this process dies, however that happens, the daemon ends as well."""
        self._let_go()
        read, self._lifeline = os.pipe()
        try:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command,
                    stdout=log,
                    stderr=log,
                    pass_fds=(read,),
                    start_new_session=True,
                    env={**os.environ, lifeline.VARIABLE: str(read)},
                )
        finally:
            os.close(read)

    def _let_go(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the daemon alone, and after SIGKILL see it gone."""
        assert self._process is not None, "not started"
        os.kill(self._process.pid, number)
        if number == signal.SIGKILL:
            self._process.wait()

    async def exit_status(self) -> int:
        """Wait, bounded, for an end that was asked for already."""
        assert self._process is not None, "not started"
        return await asyncio.to_thread(self._process.wait, STOP_S)

    async def stop(self) -> int:
        """SIGTERM, a bounded wait; the exit status."""
        if self._process is None or self._process.poll() is not None:
            self._let_go()
            return self._process.returncode if self._process else 0
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            return await asyncio.to_thread(self._process.wait, STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return await asyncio.to_thread(self._process.wait)
        finally:
            self._let_go()


class Gateway:
    """A `cortex serve`, and what it says of the fleet."""

    def __init__(self, folder: Path, name: str, text: str) -> None:
        port, metrics = free_port(), free_port()
        self.url, self.metrics_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{metrics}/metrics"
        config = folder / f"{name}.toml"
        config.write_text(
            f'{text}\n[gateway]\nlisten = "127.0.0.1:{port}"\nmetrics_listen = "127.0.0.1:{metrics}"\nmax_wait_s = 30\n'
        )
        self.cortex = Daemon("helexa.cli.cortex", config, self.url)
        self.http = httpx2.AsyncClient(base_url=self.url, timeout=60.0)

    async def nodes(self) -> dict[str, dict[str, Any]]:
        """Every node by its name, as `/cortex/v1/nodes` shows it."""
        return {node["name"]: node for node in (await self.http.get("/cortex/v1/nodes")).json()["nodes"]}

    async def node(self, name: str) -> dict[str, Any]:
        return (await self.nodes())[name]

    async def entry(self, model: str) -> dict[str, Any]:
        """The model as `/v1/models` shows it."""
        return (await self.http.get(f"/v1/models/{model}")).json()

    async def all_healthy(self) -> bool:
        try:
            nodes = await self.nodes()
        except (httpx2.HTTPError, ValueError):
            return False
        return bool(nodes) and all(node["healthy"] for node in nodes.values())

    async def until_status(self, model: str, status: str, *, limit_s: float = 20.0) -> None:
        async def there() -> bool:
            return (await self.entry(model))["status"] == status

        await eventually(there, f"{model} {status}", limit_s=limit_s)

    async def until_idle(self, *, limit_s: float = 10.0) -> None:
        """No request in flight, as the gateway counts them."""

        async def idle() -> bool:
            return not any(place["in_flight"] for node in (await self.nodes()).values() for place in node["models"])

        await eventually(idle, "nothing in flight", limit_s=limit_s)


class Fleet(Gateway):
    """Neurons and a gateway, or several. `neurons` maps a name to what its neuron.toml holds beyond port and address;
    `cortex` and `polling` are laid into cortex.toml. Itself it is the first gateway; `others` are the rest.
    `recorded`: a recorder of its name stands between each neuron and the gateways. `strangers` are nodes that run
    already: name and URL."""

    def __init__(
        self,
        folder: Path,
        *,
        neurons: dict[str, str],
        strangers: dict[str, str] | None = None,
        models: str = "",
        cortex: str = "",
        polling: str = "every_s = 0.25",
        gateways: int = 1,
        recorded: bool = False,
    ) -> None:
        self.folder = folder
        self.neurons: dict[str, Daemon] = {}
        self.recorders: dict[str, Recorder] = {}
        self._recorded = recorded
        (folder / "models.toml").write_text(models, encoding="utf-8")
        listed = "".join(self._neuron(name, text) for name, text in neurons.items())
        listed += "".join(_listed(name, url) for name, url in (strangers or {}).items())
        text = f'models_config = "models.toml"\n{cortex}\n[polling]\n{polling}\n{listed}'
        super().__init__(folder, "cortex", text)
        self.others = [Gateway(folder, f"cortex{number}", text) for number in range(2, gateways + 1)]

    def _neuron(self, name: str, text: str) -> str:
        port = free_port()
        config = self.folder / f"{name}.toml"
        config.write_text(f'port = {port}\nlisten = "127.0.0.1"\n{text}', encoding="utf-8")
        url = f"http://127.0.0.1:{port}"
        self.neurons[name] = Daemon("helexa.cli.neuron", config, url)
        if self._recorded:
            recorder = self.recorders[name] = Recorder(free_port(), url)
            url = recorder.url
        return _listed(name, url)

    async def __aenter__(self) -> Self:
        for daemon in self.daemons:
            daemon.start()
        try:
            for recorder in self.recorders.values():
                await recorder.start()
            await eventually(self._up, "every node healthy", limit_s=START_S)
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def gateways(self) -> list[Gateway]:
        return [self, *self.others]

    @property
    def daemons(self) -> list[Daemon]:
        return [*self.neurons.values(), *(gateway.cortex for gateway in self.gateways)]

    async def _up(self) -> bool:
        for daemon in self.daemons:
            if daemon.ended:
                raise Died(log=daemon.log, said=daemon.log.read_text(encoding="utf-8")[-2000:])
        return all([await gateway.all_healthy() for gateway in self.gateways])

    async def stop(self) -> None:
        for gateway in self.gateways:
            await gateway.http.aclose()
        await asyncio.gather(*(gateway.cortex.stop() for gateway in self.gateways))
        await asyncio.gather(*(daemon.stop() for daemon in self.neurons.values()))
        for recorder in self.recorders.values():
            await recorder.stop()

    async def until_neurons_idle(self, *, limit_s: float = 10.0) -> None:
        """No request in flight or queued, as the neurons count them."""

        async def idle() -> bool:
            healths = [(await self.http.get(f"{daemon.url}/health")).json() for daemon in self.neurons.values()]
            return not any(row["in_flight"] or row["queue_depth"] for health in healths for row in health["models"])

        await eventually(idle, "no seat taken on any neuron", limit_s=limit_s)


def _listed(name: str, url: str) -> str:
    return f'\n[[neurons]]\nname = "{name}"\nendpoint = "{url}"\n'


def ask(model: str, text: str = "one two three", **more: object) -> dict[str, object]:
    """A chat request's body."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}
