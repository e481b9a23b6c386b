"""The step loop around OpenVINO's continuous batching pipeline.

`step` keeps the interpreter's lock for as long as it computes, so a second Python thread beside it would gain nothing
and wait for up to a step at every turn: the loop that serves is the loop that steps. After each step the tokens go
straight to their sinks, and some turns of the event loop take in what has arrived: requests, clients that left.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from helexa.base.errors import InvalidRequest
from helexa.neuron.engines.openvino.binding import og, tensor
from helexa.neuron.engines.openvino.prefixes import Prefixes, blocks_of
from helexa.neuron.engines.serving.ask import Sampling
from helexa.neuron.engines.serving.server import Sink, Steps, overloaded

BROKEN_EXIT = 71
TURNS = 6
"""Of the event loop between two steps: it takes four from the end of a client's connection to that of its sequence."""


class Made:
    """One sequence in the pipeline."""

    def __init__(self, handle: Any, sink: Sink, prompt: Sequence[int], cached: int) -> None:
        self.handle, self.sink, self.cached = handle, sink, cached
        self.tokens = list(prompt)
        self.made = 0
        self.left, self.stopped = False, False

    def stop(self) -> None:
        """Leave it at the next step."""
        self.left = True
        self.handle.stop()


class StepLoop:
    """See serving.server.Steps. `run` is the loop; everything else is called from its thread."""

    def __init__(self, pipeline: Any, model_id: str, blocks: int, ends: frozenset[int]) -> None:
        self._pipeline, self._model_id, self._ends = pipeline, model_id, ends
        self._prefixes = Prefixes(blocks)
        self._running: dict[int, Made] = {}
        self._arrived = asyncio.Event()
        self._count = 0

    def start(self, prompt: Sequence[int], max_tokens: int, sampling: Sampling, sink: Sink) -> Made:
        """Have a sequence made. Raises InvalidRequest for what the pipeline refuses."""
        self._count += 1
        try:
            handle = self._pipeline.add_request(self._count, tensor([*prompt]), self._config(max_tokens, sampling))
        except RuntimeError as error:
            raise InvalidRequest(_last_line(error)) from error
        sequence = Made(handle, sink, prompt, self._prefixes.cached(prompt))
        self._running[self._count] = sequence
        self._prefixes.used(sum(blocks_of(len(each.tokens)) for each in self._running.values()))
        self._arrived.set()
        return sequence

    async def run(self) -> None:
        """Step while there is anything to be made. A step that fails leaves the pipeline in no state to go on."""
        try:
            while True:
                while not self._pipeline.has_non_finished_requests():
                    self._arrived.clear()
                    await self._arrived.wait()
                self._pipeline.step()
                for number, sequence in [*self._running.items()]:
                    self._tell(number, sequence)
                for _ in range(TURNS):
                    await asyncio.sleep(0)
        except Exception:  # noqa: BLE001 - the pipeline cannot be used again, and with it this process
            _give_up()

    def _tell(self, number: int, sequence: Made) -> None:
        """Hand on what the step made of one sequence."""
        while not sequence.left and sequence.handle.can_read():
            for output in sequence.handle.read().values():
                sequence.stopped = output.finish_reason == og.GenerationFinishReason.STOP
                self._take(sequence, output.generated_ids, output.generated_log_probs)
        status = sequence.handle.get_status()
        if status == og.GenerationStatus.RUNNING and not sequence.left:
            return
        del self._running[number]
        self._prefixes.computed(sequence.tokens[:-1])
        if status == og.GenerationStatus.IGNORED:
            sequence.sink.failed(overloaded(self._model_id))
        else:
            sequence.sink.done("stop" if sequence.left or sequence.stopped else "length")

    def _take(self, sequence: Made, tokens: list[int], logprobs: list[float]) -> None:
        if not sequence.made:
            self._prefixes.computed(sequence.tokens)
        sequence.made += len(tokens)
        sequence.tokens += tokens
        if sequence.sink.take(tokens, logprobs):
            sequence.stop()

    def _config(self, max_tokens: int, sampling: Sampling) -> Any:
        config = og.GenerationConfig()
        config.apply_chat_template = False
        config.max_new_tokens = max_tokens
        config.ignore_eos = sampling.ignore_eos
        if not sampling.ignore_eos:
            config.stop_token_ids = set(self._ends)
        config.logprobs = 1
        config.repetition_penalty = sampling.repetition_penalty
        config.presence_penalty = sampling.presence_penalty
        config.frequency_penalty = sampling.frequency_penalty
        if sampling.temperature > LEAST_TEMPERATURE:
            config.do_sample = True
            config.temperature = sampling.temperature
            config.top_p = sampling.top_p if sampling.top_p > 0 else LEAST_TOP_P
            config.min_p = min(sampling.min_p, MOST_MIN_P)
            config.rng_seed = (sampling.seed or 0) % (1 << 63)
            if sampling.top_k > 0:
                config.top_k = sampling.top_k
        if sampling.grammar is not None:
            config.structured_output_config = og.StructuredOutputConfig(grammar=sampling.grammar)
        return config


LEAST_TEMPERATURE = 1e-30
"""A smaller one is none in the 32 bits that it is kept in."""
LEAST_TOP_P = 1e-6
MOST_MIN_P = 0.999


def _last_line(error: RuntimeError) -> str:
    """What OpenVINO says is wrong, without the place in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "the engine refuses this request"


def _give_up() -> NoReturn:
    """End the worker: the daemon starts another and loads its models again."""
    with contextlib.suppress(Exception):
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(BROKEN_EXIT)


_: type[Steps] = StepLoop
