"""Progress of a model on its way up: bars on a terminal, a line a stage in a pipe."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

from helexa.base.units import human_seconds
from helexa.cli.say import animated

STAGES = {
    "queued": "install",
    "preflight": "install",
    "download": "install",
    "extract": "install",
    "load": "load",
    "ready": "warm-up",
}
ORDER = ("install", "load", "warm-up")


class Bars:
    """Shows install, load and warm-up of one model from what the neuron says of it."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._began = time.monotonic()
        self._said = self._trouble = ""
        self._tasks: dict[str, Any] = {}
        self._progress: Any = None

    def __enter__(self) -> Self:
        if animated(sys.stdout):
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self._progress = Progress(
                TextColumn("{task.description:>8}"),
                BarColumn(40),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
            )
            self._progress.start()
            self._tasks = {stage: self._progress.add_task(stage, total=1.0, note="", start=False) for stage in ORDER}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, row: dict[str, Any] | None) -> None:
        """`row` is the model's entry of the neuron's /models, None while there is none."""
        if row is None:
            self._say("install", None)
            return
        loading: dict[str, Any] = row.get("loading") or {}
        stage = STAGES.get(loading.get("stage", ""), "load") if loading else "warm-up"
        self._say(stage, loading.get("progress"))

    def tell(self, trouble: str) -> None:
        """What holds it up, once."""
        if trouble != self._trouble:
            print(f"{self._model}: {trouble}", file=sys.stderr, flush=True)
        self._trouble = trouble

    def done(self) -> None:
        if self._progress is None:
            print(f"{self._model}: loaded after {human_seconds(time.monotonic() - self._began)}", flush=True)
            return
        for task in self._tasks.values():
            self._progress.start_task(task)
            self._progress.update(task, total=1.0, completed=1.0, note="")

    def _say(self, stage: str, progress: float | None) -> None:
        if self._progress is None:
            if stage != self._said:
                print(f"{self._model}: {stage}", flush=True)
            self._said = stage
            return
        for earlier in ORDER[: ORDER.index(stage)]:
            self._progress.start_task(self._tasks[earlier])
            self._progress.update(self._tasks[earlier], total=1.0, completed=1.0, note="")
        self._progress.start_task(self._tasks[stage])
        note = f"{progress:.0%}" if progress is not None else ""
        # An unknown total makes the bar pulse: it is at work, and nobody claims to know how far it is.
        self._progress.update(
            self._tasks[stage], total=None if progress is None else 1.0, completed=progress or 0.0, note=note
        )
