"""A neuron on loopback that does what a script says: it loads, refuses, stalls, lies and dies on cue.

    async with ScriptedNeuron(FakeModel(id="org/a", loaded=True), FakeModel(id="org/b", load_s=2.0)) as neuron:
        neuron.fault("/health", Hangs())                       # a control route that never answers
        neuron.fault("/v1/chat/completions", Breaks(after=3))  # dies in mid-stream, after three events
        ... a gateway whose [[neurons]] endpoint is neuron.url ...
        await neuron.until(lambda: neuron.asked("/models/load"))
        assert neuron.seen[-1].body == b"..."

It keeps a memory ledger, so that loads which do not fit are refused as a real neuron refuses them. Requests are
recorded byte for byte, with how each ended; `until` waits for a state without sleeping.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from types import TracebackType
from typing import Any, Literal, Self, assert_never
from urllib.parse import unquote

import msgspec

from helexa.base.clock import Clock, SystemClock
from helexa.base.ids import fresh
from helexa.http1.message import Request
from helexa.http1.server import Reply, Server
from helexa.wire import control
from helexa.wire.sse import DONE, encode

JSON = [(b"content-type", b"application/json")]
STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
STARTED_AT = 1_700_000_000
CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Says:
    """Answers this instead: any status, any bytes; with `retry_after` as its header."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    retry_after: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hangs:
    """Never answers; in a stream: falls silent after so many events. `head` sends the head of a stream first."""

    after: int = 0
    head: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaks:
    """Resets the connection: at once, or in a stream after so many events."""

    after: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """A stream that just stops after so many events, properly framed but without its last word."""

    after: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Endless:
    """A body that does not end, sent as fast as it is read."""

    piece: bytes = b'{"id":"' + b"a" * 65_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Late:
    """The proper answer, but so many seconds later."""

    seconds: float


Fault = Says | Hangs | Breaks | Ends | Endless | Late


@dataclass(slots=True, kw_only=True)
class FakeModel:
    """A model and how it behaves. Times in seconds, memory in MiB."""

    id: str
    loaded: bool = False
    on_disk: bool = True
    """Its tokens can be counted without loading it."""
    vram_mb: int = 1000
    device: int = 0
    load_s: float = 0.0
    refuses: Mapping[str, Any] | None = None
    """A load or preflight is refused with 422 and this error: {"kind": "quant_not_found", "nearest": "Q4_K_M"}."""
    breaks: str | None = None
    """A load fails with 400 and this text."""
    reply: str = "Hello from a scripted neuron ."
    first_token_s: float = 0.0
    token_s: float = 0.0
    prompt_tokens: int = 7
    row: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Laid over the model's row in /models: {"status": "dreaming", "vram_used_mb": -5}."""


@dataclass(slots=True)
class Seen:
    """One request as it arrived, and how it ended. `left`: the client went before its answer was complete."""

    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    outcome: Literal["open", "answered", "left"] = "open"

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


@dataclass(slots=True)
class _Slot:
    """A model's place in the ledger, from the begin of its load."""

    model: FakeModel
    status: str
    in_flight: int = 0


class Refused(Exception):
    """An error answer of the control API."""

    def __init__(self, status: int, error: object) -> None:
        self.status, self.error = status, error
        super().__init__(str(error))


class ScriptedNeuron:
    """See the module. `models`, `draining`, `discovery` and `health` may be changed at any time."""

    def __init__(
        self,
        *models: FakeModel,
        memory_mb: int | tuple[int, ...] = 24_000,
        events: bool = True,
        preflight: bool = True,
        clock: Clock | None = None,
    ) -> None:
        totals = (memory_mb,) if isinstance(memory_mb, int) else memory_mb
        self.models = {model.id: model for model in models}
        self.devices = [control.Device(index=at, name="scripted", vram_total_mb=mb) for at, mb in enumerate(totals)]
        self.draining = False
        self.discovery: dict[str, Any] = {}
        """Laid over the answer of /discovery, as `health` over that of /health."""
        self.health: dict[str, Any] = {}
        self.seen: list[Seen] = []
        self.boot_id = ""
        self._has_events, self._has_preflight = events, preflight
        self._clock = clock or SystemClock()
        self._faults: dict[str, tuple[Fault, int | None]] = {}
        self._slots: dict[str, _Slot] = {}
        self._listeners: set[asyncio.Queue[control.Event]] = set()
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._numbers = count(1)
        self._port = 0
        self._server: Server | None = None

    # -- for the test --

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def loaded(self) -> list[str]:
        """Ids of the models that are loaded now."""
        return [name for name, slot in self._slots.items() if slot.status == "loaded"]

    def fault(self, path: str, fault: Fault, *, times: int | None = None) -> None:
        """From now on `path` (without its query) does this, `times` times or until `mend`."""
        self._faults[path] = (fault, times)

    def mend(self, path: str | None = None) -> None:
        """Take back the fault of one path, or all."""
        if path is None:
            self._faults.clear()
        else:
            self._faults.pop(path, None)

    def asked(self, path: str) -> list[Seen]:
        """The requests for `path` so far."""
        return [one for one in self.seen if one.target.partition(b"?")[0] == path.encode()]

    async def until(self, test: Callable[[], bool], within_s: float = 10.0) -> None:
        """Return when `test()` is true; it is asked again whenever something happens here. Raises TimeoutError."""
        if test():
            return
        entry = (test, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        try:
            await asyncio.wait_for(entry[1], within_s)
        finally:
            self._waiting.remove(entry)

    def tell(self, event: control.Event) -> None:
        """Send an event to whoever listens to /events."""
        event.boot_id = event.boot_id or self.boot_id
        for queue in self._listeners:
            queue.put_nowait(event)

    async def start(self) -> None:
        """Listen, with a new boot id; on the same port when it ran before. Memory holds only what is `loaded`."""
        self.boot_id = fresh("boot_")
        self._slots = {name: _Slot(model, "loaded") for name, model in self.models.items() if model.loaded}
        self._server = Server(self._handle)
        ((_, self._port),) = await self._server.listen("127.0.0.1", self._port)

    async def stop(self) -> None:
        """Die: every connection is reset, the port is closed."""
        server, self._server = self._server, None
        if server is not None:
            await server.drain(0.0)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # -- serving --

    async def _handle(self, request: Request, reply: Reply) -> None:
        seen = Seen(request.method, request.target, request.headers, request.body)
        self.seen.append(seen)
        self._changed()
        try:
            await self._faulty(request, reply)
            seen.outcome = "answered"
        except asyncio.CancelledError:
            seen.outcome = "left"
            raise
        finally:
            self._changed()

    def _changed(self) -> None:
        for test, future in self._waiting:
            if not future.done() and test():
                future.set_result(None)

    def _fault_of(self, path: str) -> Fault | None:
        fault, times = self._faults.get(path, (None, None))
        if fault is not None and times is not None:
            if times > 1:
                self._faults[path] = (fault, times - 1)
            else:
                del self._faults[path]
        return fault

    async def _faulty(self, request: Request, reply: Reply) -> None:
        fault = self._fault_of(request.path)
        match fault:
            case None:
                await self._answer(request, reply, None)
            case Late():
                await self._clock.sleep(fault.seconds)
                await self._answer(request, reply, None)
            case Says():
                headers = [(b"content-type", fault.content_type.encode())]
                if fault.retry_after is not None:
                    headers.append((b"retry-after", b"%d" % fault.retry_after))
                reply.send(fault.status, headers, fault.body)
            case Endless():
                await _flood(reply, fault.piece)
            case Hangs() | Breaks() | Ends():
                if fault.after:
                    await self._answer(request, reply, fault)
                else:
                    await _fail(reply, fault)
            case _:
                assert_never(fault)

    async def _answer(self, request: Request, reply: Reply, fault: Hangs | Breaks | Ends | None) -> None:
        if request.path == CHAT and request.method == "POST":
            await self._chat(request, reply, fault)
        elif request.path == "/events" and self._has_events:
            await self._stream_events(reply)
        else:
            status, found = await self._control(request)
            reply.send(status, JSON, msgspec.json.encode(found))

    # -- the control contract --

    async def _control(self, request: Request) -> tuple[int, object]:
        routes: dict[tuple[str, str], Callable[[bytes], Awaitable[object]]] = {
            ("GET", "/discovery"): self._discovery,
            ("GET", "/health"): self._health,
            ("GET", "/models"): self._rows,
            ("GET", "/version"): self._version,
            ("GET", "/v1/models"): self._listing,
            ("POST", "/models/load"): self._load,
            ("POST", "/models/unload"): self._unload,
            ("POST", "/models/count_tokens"): self._count,
        }
        if self._has_preflight:
            routes["POST", "/models/preflight"] = self._preflight
        work = routes.get((request.method, request.path))
        try:
            if work is not None:
                return 200, await work(request.body)
            return 200, self._about_model(request.target)
        except Refused as refused:
            return refused.status, {"error": refused.error}
        except msgspec.DecodeError as error:
            return 400, {"error": str(error)}

    async def _discovery(self, _: bytes) -> object:
        found = control.Discovery(
            hostname="scripted", os="linux", devices=self.devices, harnesses=["scripted"], boot_id=self.boot_id
        )
        return _object(found) | self.discovery

    async def _health(self, _: bytes) -> object:
        devices = [
            control.DeviceHealth(index=device.index, vram_used_mb=self._used_mb(device.index), vram_free_mb=free)
            for device in self.devices
            if (free := self._free_mb(device.index)) is not None
        ]
        models = [control.ModelLoad(id=name, in_flight=slot.in_flight) for name, slot in self._slots.items()]
        found = control.Health(devices=devices, models=models, boot_id=self.boot_id, draining=self.draining)
        return _object(found) | self.health

    async def _rows(self, _: bytes) -> object:
        return [_object(self._row(slot)) | dict(slot.model.row) for slot in self._slots.values()]

    async def _version(self, _: bytes) -> object:
        return {"package_version": "scripted", "git_sha": "unknown", "git_dirty": False, "features": []}

    async def _listing(self, _: bytes) -> object:
        return {"object": "list", "data": [{"id": name, "object": "model"} for name in self.loaded]}

    def _about_model(self, target: bytes) -> object:
        """`/models/{id}/endpoint` and `/models/{id}/capabilities`."""
        _, _, rest = target.decode().partition("/models/")
        name, _, what = rest.rpartition("/")
        model = self.models.get(unquote(name))
        if model is None or what not in ("endpoint", "capabilities"):
            raise Refused(404, "not found")
        return {"url": self.url} if what == "endpoint" else {"capabilities": ["text"]}

    async def _preflight(self, body: bytes) -> object:
        model = self._fitting(msgspec.json.decode(body, type=control.ModelSpec))
        share = control.PlanShare(device=model.device, needed_mb=model.vram_mb, weights_mb=model.vram_mb)
        plan = control.PlanView(model_id=model.id, harness="scripted", format="any", shares=[share])
        return {"plan": plan}

    async def _load(self, body: bytes) -> object:
        spec = msgspec.json.decode(body, type=control.ModelSpec)
        if self.draining:
            raise Refused(409, "draining")
        if spec.model_id in self._slots:
            raise Refused(400, f"model {spec.model_id} is already loaded")
        model = self._fitting(spec)
        slot = self._slots[model.id] = _Slot(model, "loading")
        self._tell_state(slot)
        try:
            await self._clock.sleep(model.load_s)
            if model.breaks is not None:
                raise Refused(400, model.breaks)
            slot.status = "loaded"
            self._tell_state(slot)
        finally:
            if slot.status != "loaded":
                self._remove(model.id)
        return {"status": "loaded"}

    async def _unload(self, body: bytes) -> object:
        order = msgspec.json.decode(body, type=control.Unload)
        slot = self._slots.get(order.model_id)
        if slot is None:
            raise Refused(404, f"model {order.model_id} is not loaded")
        if slot.in_flight and order.drain_s is not None:
            await self._drain(slot, order.drain_s)
        if slot.in_flight and not order.force:
            raise Refused(409, {"kind": "busy", "message": f"{slot.in_flight} requests in flight"})
        self._remove(order.model_id)
        return {"status": "unloaded", "freed_mb": slot.model.vram_mb}

    async def _count(self, body: bytes) -> object:
        asked = msgspec.json.decode(body, type=control.CountTokens)
        model = self.models.get(asked.model.model_id)
        if model is None or not (model.on_disk or model.id in self._slots):
            raise Refused(404, "its files are not here")
        return {"tokens": model.prompt_tokens}

    async def _drain(self, slot: _Slot, within_s: float) -> None:
        slot.status = "unloading"
        try:
            await self.until(lambda: not slot.in_flight, within_s)
        except TimeoutError:
            slot.status = "loaded"

    def _fitting(self, spec: control.ModelSpec) -> FakeModel:
        """The model to load, on the device that was asked for. Raises Refused, as a real preflight refuses."""
        model = self.models.get(spec.model_id)
        if model is None:
            raise Refused(422, {"kind": "repo_fetch_failed", "model_id": spec.model_id, "cause": "no such model"})
        if model.refuses is not None:
            raise Refused(422, {"model_id": model.id} | dict(model.refuses))
        model.device = spec.devices[0] if spec.devices else model.device
        free = self._free_mb(model.device)
        if free is None or model.vram_mb > free:
            needs = {"kind": "does_not_fit", "model_id": model.id, "needed_mb": model.vram_mb}
            raise Refused(422, needs | {"per_device": {str(model.device): free or 0}, "suggestion": "unload something"})
        return model

    def _used_mb(self, device: int) -> int:
        return sum(slot.model.vram_mb for slot in self._slots.values() if slot.model.device == device)

    def _free_mb(self, device: int) -> int | None:
        """None: there is no such device."""
        if device >= len(self.devices):
            return None
        return self.devices[device].vram_total_mb - self._used_mb(device)

    def _row(self, slot: _Slot) -> control.Model:
        model = slot.model
        return control.Model(
            id=model.id,
            harness="scripted",
            status=slot.status,
            devices=[model.device],
            vram_used_mb=model.vram_mb,
            capabilities=["text"],
            loading=control.LoadingState(stage="loading") if slot.status == "loading" else None,
            in_flight=slot.in_flight,
        )

    def _tell_state(self, slot: _Slot) -> None:
        self.tell(control.Event(kind="model", model=self._row(slot)))
        self._changed()

    def _remove(self, name: str) -> None:
        if self._slots.pop(name, None) is not None:
            self.tell(control.Event(kind="gone", model_id=name))
        self._changed()

    async def _stream_events(self, reply: Reply) -> None:
        queue: asyncio.Queue[control.Event] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            reply.start(200, STREAM)
            reply.flush()
            while True:
                reply.write(encode(msgspec.json.encode(await queue.get())))
        finally:
            self._listeners.discard(queue)

    # -- the data plane --

    async def _chat(self, request: Request, reply: Reply, fault: Hangs | Breaks | Ends | None) -> None:
        asked = msgspec.json.decode(request.body, type=dict[str, Any])
        slot = self._slots.get(str(asked.get("model")))
        if slot is None or slot.status != "loaded":
            message = f"The model {asked.get('model')} is not loaded here."
            error = {"message": message, "type": "invalid_request_error", "code": "model_not_found", "param": "model"}
            reply.send(404, JSON, msgspec.json.encode({"error": error}))
            return
        slot.in_flight += 1
        self._changed()
        try:
            await self._clock.sleep(slot.model.first_token_s)
            if asked.get("stream"):
                await self._stream_words(slot.model, reply, fault)
            else:
                await self._whole_answer(slot.model, reply, fault)
        finally:
            slot.in_flight -= 1
            self._changed()

    async def _whole_answer(self, model: FakeModel, reply: Reply, fault: Hangs | Breaks | Ends | None) -> None:
        words = model.reply.split()
        if model.token_s:
            await self._clock.sleep(model.token_s * (len(words) - 1))
        if fault is not None:
            await _fail(reply, fault)
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": model.reply}, "finish_reason": "stop"}
        answer = self._named("chat.completion", model) | {"choices": [choice], "usage": _usage(model)}
        reply.send(200, JSON, msgspec.json.encode(answer))

    async def _stream_words(self, model: FakeModel, reply: Reply, fault: Hangs | Breaks | Ends | None) -> None:
        named = self._named("chat.completion.chunk", model)
        reply.start(200, STREAM)
        words = model.reply.split()
        for at, word in enumerate(words):
            if fault is not None and at == fault.after:
                await _fail(reply, fault)
                return
            if at and model.token_s:
                await self._clock.sleep(model.token_s)
            delta = {"content": word if at == 0 else f" {word}"} | ({} if at else {"role": "assistant"})
            choice = {"index": 0, "delta": delta, "finish_reason": None}
            reply.write(encode(msgspec.json.encode(named | {"choices": [choice]})))
            await reply.drain()
        last: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": "stop"}
        reply.write(encode(msgspec.json.encode(named | {"choices": [last]})))
        reply.write(encode(msgspec.json.encode(named | {"choices": [], "usage": _usage(model)})))
        reply.write(DONE)
        reply.finish()

    def _named(self, kind: str, model: FakeModel) -> dict[str, Any]:
        number = next(self._numbers)
        return {"id": f"chatcmpl-{number}", "object": kind, "created": STARTED_AT, "model": model.id}


async def _fail(reply: Reply, fault: Hangs | Breaks | Ends) -> None:
    """What is left of an answer that goes wrong here."""
    match fault:
        case Hangs():
            if fault.head and not reply.started:
                reply.start(200, STREAM)
                reply.flush()
            await asyncio.Event().wait()
        case Breaks():
            reply.abort()
        case Ends():
            if not reply.started:
                reply.start(200, STREAM)
            reply.finish()


async def _flood(reply: Reply, piece: bytes) -> None:
    reply.start(200, JSON)
    while True:
        reply.write(piece)
        await reply.drain()
        await asyncio.sleep(0)


def _usage(model: FakeModel) -> dict[str, int]:
    words = len(model.reply.split())
    prompt = model.prompt_tokens
    return {"prompt_tokens": prompt, "completion_tokens": words, "total_tokens": prompt + words}


def _object(found: msgspec.Struct) -> dict[str, Any]:
    """A struct as the dict that its JSON would be."""
    return msgspec.to_builtins(found)
