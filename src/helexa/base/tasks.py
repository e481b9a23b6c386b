"""Supervised background work: every task has a name and an owner, and none dies in silence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Self

from helexa.base.clock import Clock

log = logging.getLogger(__name__)


class Crew:
    """The process's background tasks. `async with Crew() as crew:` ends by cancelling and awaiting all of them.

    Unlike asyncio.TaskGroup a failing task does not take the others along: it is logged with its name, because a
    gateway that loses one load must not lose every stream.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.dismiss()

    def start(self, work: Coroutine[object, object, None], *, name: str) -> asyncio.Task[None]:
        """Run `work` once, in the background."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def loop(
        self,
        step: Callable[[], Awaitable[None]],
        *,
        name: str,
        clock: Clock,
        every_s: float,
        after_error_s: float = 1.0,
    ) -> asyncio.Task[None]:
        """Run `step` for ever with `every_s` between the runs; an error is logged and the loop goes on."""

        async def forever() -> None:
            while True:
                pause = every_s
                try:
                    await step()
                except Exception:  # a supervised loop outlives whatever one turn of it throws
                    log.exception("%s failed; going on", name)
                    pause = max(every_s, after_error_s)
                await clock.sleep(pause)

        return self.start(forever(), name=name)

    async def dismiss(self) -> None:
        """Cancel every task and wait until each has ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task %s died", task.get_name(), exc_info=error)
