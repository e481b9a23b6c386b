"""Loads a GGUF into OpenVINO's continuous batching pipeline and serves it from a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from helexa.base.units import MIB
from helexa.http1.server import Server
from helexa.neuron.core.chat.answer import Style, style_of
from helexa.neuron.core.chat.template import BadTemplate, Template
from helexa.neuron.engines.openvino import options as opts
from helexa.neuron.engines.openvino.binding import og, tensor
from helexa.neuron.engines.openvino.prefixes import BLOCK_TOKENS, blocks_of
from helexa.neuron.engines.openvino.steps import StepLoop
from helexa.neuron.engines.openvino.vocabulary import Vocabulary
from helexa.neuron.engines.serving.server import Model, ModelServer
from helexa.neuron.harness import Engine, Facts, LoadOrder, Report, Resident

T = TypeVar("T")

CALL_TIMEOUT_S = 30.0
MAX_OUTPUT_TOKENS = 8192


@dataclass(slots=True, kw_only=True)
class _Live:
    """What a resident holds until it is unloaded."""

    server: Server
    steps: asyncio.Task[None]


class OpenVinoResident:
    """A model that is being served: its thread steps the pipeline and serves the socket."""

    def __init__(self, order: LoadOrder, report: Report) -> None:
        options = opts.parse(order.options)
        self._order = order
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="openvino", daemon=True)
        before_mb = _resident_mb()
        report("load", None)
        pipeline = _pipeline(order, options)
        template, style, flaw = _template(pipeline.get_tokenizer())
        report("warm", None)
        _warm(pipeline)
        report("ready", None)
        Path(order.socket).unlink(missing_ok=True)
        self._thread.start()
        self._live: _Live | None = self._call(_serve(order, pipeline, template, style, flaw))
        self._facts = _facts(
            order, template, style, max(0, _resident_mb() - before_mb), len(pipeline.get_tokenizer().get_vocab())
        )

    @property
    def facts(self) -> Facts:
        return self._facts

    def unload(self) -> None:
        """Stop serving, free the memory."""
        live, self._live = self._live, None
        if live is None:
            return
        self._call(_close(live))
        del live
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_TIMEOUT_S)
        self._loop.close()
        Path(self._order.socket).unlink(missing_ok=True)
        gc.collect()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the serving loop and wait for it, from the device thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_TIMEOUT_S)


async def _serve(order: LoadOrder, pipeline: Any, template: Template | None, style: Style, flaw: str) -> _Live:
    words = Vocabulary(pipeline.get_tokenizer())
    steps = StepLoop(pipeline, order.model_id, _blocks(order), words.ends)
    model = Model(
        name=order.model_id, context=order.context, steps=steps, words=words, template=template, style=style, flaw=flaw
    )
    server = Server(ModelServer(model).handle)
    await server.listen_unix(order.socket)
    return _Live(server=server, steps=asyncio.create_task(steps.run(), name="steps"))


async def _close(live: _Live) -> None:
    await live.server.drain(0.0)
    live.steps.cancel()
    await asyncio.gather(live.steps, return_exceptions=True)


def _facts(order: LoadOrder, template: Template | None, style: Style, used_mb: int, vocabulary: int) -> Facts:
    tools = template is not None and template.habits.tools
    known = {"text": True, "tools": tools, "reasoning": style.thinks}
    return Facts(
        context_length=order.context,
        max_output_tokens=min(order.context, MAX_OUTPUT_TOKENS),
        capabilities=tuple(name for name, has in known.items() if has),
        used_mb=used_mb,
        tool_call=tools,
        reasoning=style.thinks,
        kv_tokens=_blocks(order) * BLOCK_TOKENS,
        pulse="/health",
        vocabulary=vocabulary,
    )


class OpenVinoEngine:
    """See harness.Engine."""

    def load(self, order: LoadOrder, report: Report) -> Resident:
        """Load `order.files[0]`. Raises BadOption; RuntimeError when OpenVINO cannot (its message tells why)."""
        return OpenVinoResident(order, report)

    def memory(self) -> tuple[int, int] | None:
        """A CPU's memory is known better outside."""
        return None


def _blocks(order: LoadOrder) -> int:
    """KV blocks for every slot's whole context, and one begun block for each."""
    return order.slots * (blocks_of(order.context) + 1)


def _pipeline(order: LoadOrder, options: opts.OpenVinoOptions) -> Any:
    plan = og.SchedulerConfig()
    plan.num_kv_blocks = _blocks(order)
    plan.max_num_seqs = order.slots
    plan.max_num_batched_tokens = max(options.batch, order.slots)
    plan.dynamic_split_fuse = True
    plan.enable_prefix_caching = options.prefix_cache
    properties: dict[str, Any] = {"KV_CACHE_PRECISION": options.kv_cache}
    threads = options.threads or order.devices[0].threads
    if threads is not None:
        properties["INFERENCE_NUM_THREADS"] = threads
    try:
        return og.ContinuousBatchingPipeline(order.files[0], plan, "CPU", properties)
    except RuntimeError as error:
        raise RuntimeError(f"OpenVINO could not load {order.files[0]}") from error


def _warm(pipeline: Any) -> None:
    """The first step packs the weights anew, which takes a while and as much memory again: better now than later."""
    config = og.GenerationConfig()
    config.apply_chat_template = False
    config.max_new_tokens = 2
    pipeline.add_request(0, tensor([1] * BLOCK_TOKENS), config)
    while pipeline.has_non_finished_requests():
        pipeline.step()


def _template(tokenizer: Any) -> tuple[Template | None, Style, str]:
    """The model's own template, and why there is none that can be used."""
    source = tokenizer.get_original_chat_template()
    if not source:
        return None, Style(), "its file has none"
    tokens = {"bos_token": tokenizer.get_bos_token(), "eos_token": tokenizer.get_eos_token()}
    try:
        return Template(source, now=time.monotonic, today=datetime.now, **tokens), style_of(source), ""
    except BadTemplate as error:
        return None, Style(), error.message


def _resident_mb() -> int:
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") // MIB
    return 0


_: type[Engine] = OpenVinoEngine
