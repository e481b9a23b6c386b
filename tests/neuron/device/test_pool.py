"""The workers as the daemon sees them: real processes, the echo engine in them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from helexa.base.clock import SystemClock
from helexa.base.errors import Unavailable
from helexa.neuron.device.pool import GIVE_UP_AFTER, Dead, Lost, News, Poisoned, Pool, Ready, Seat
from helexa.neuron.device.process import JobFailed, WorkerLost, how
from tests.neuron.helpers import ECHO, HastyClock, command_line, exists, order, until


class Watched:
    """A pool of one device and what it told."""

    def __init__(self, clock: SystemClock) -> None:
        self.news: list[News] = []
        self.pool = Pool([Seat(index=0, worker="cpu-dev-0", prepare=(ECHO,))], clock=clock, tell=self.news.append)

    async def load(self, model_id: str, socket: Path, **options: object):
        return await self.pool.load(0, ECHO, order(model_id, socket, **options), self.report)

    def report(self, stage: str, progress: float | None) -> None:
        del stage, progress


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    watched = Watched(SystemClock())
    yield watched
    await watched.pool.close()


async def test_a_worker_is_started_by_the_first_job_and_named_for_its_device(watched: Watched, tmp_path: Path) -> None:
    assert watched.pool.state(0) == "idle"
    facts = await watched.load("m", tmp_path / "s", memory_mb=7)

    assert watched.pool.state(0) == "ready"
    assert facts.used_mb == 7
    pid = watched.pool.pid(0)
    assert pid is not None
    assert b"cpu-dev-0" in command_line(pid)


async def test_an_unloaded_model_leaves_no_socket(watched: Watched, tmp_path: Path) -> None:
    await watched.load("m", tmp_path / "s")
    assert (tmp_path / "s").is_socket()
    await watched.pool.unload(0, "m")
    assert not (tmp_path / "s").exists()


async def test_progress_of_a_load_is_heard_in_order(watched: Watched, tmp_path: Path) -> None:
    heard: list[float | None] = []
    slow = order("m", tmp_path / "s", load_s=0.02)
    await watched.pool.load(0, ECHO, slow, lambda _stage, progress: heard.append(progress))
    assert len(heard) > 3
    assert heard == sorted(value for value in heard if value is not None)


async def test_an_engine_that_cannot_tell_its_memory_says_so(watched: Watched, tmp_path: Path) -> None:
    await watched.load("m", tmp_path / "s")
    assert await watched.pool.memory(0) is None


async def test_a_failed_load_tells_the_whole_chain_and_the_worker_lives_on(watched: Watched, tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="RuntimeError: the load failed, as asked"):
        await watched.load("m", tmp_path / "s", fail="load")

    pid = watched.pool.pid(0)
    await watched.load("m", tmp_path / "s")
    assert watched.pool.pid(0) == pid
    assert watched.news == []


async def test_an_unknown_option_names_the_known_ones(watched: Watched, tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="tokens_per_s") as failure:
        await watched.load("m", tmp_path / "s", tokens_per_sec=3)
    assert failure.value.fields["option"] == "tokens_per_sec"


async def test_an_engine_that_cannot_be_imported_fails_the_load_only(watched: Watched, tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="No module named"):
        await watched.pool.load(0, "no_such_engine:Engine", order("m", tmp_path / "s"), watched.report)
    assert watched.pool.state(0) == "ready"


async def test_a_killed_worker_is_replaced_and_the_loss_is_told(watched: Watched, tmp_path: Path) -> None:
    await watched.load("m", tmp_path / "s")
    pid = watched.pool.pid(0)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)

    await until(lambda: len(watched.news) == 2)
    assert watched.news == [Lost(device=0, how="killed by SIGKILL"), Ready(device=0)]
    await watched.load("m", tmp_path / "t")
    assert watched.pool.pid(0) != pid


async def test_a_job_that_its_worker_did_not_survive_fails_with_how_it_went(watched: Watched, tmp_path: Path) -> None:
    with pytest.raises(WorkerLost, match="exit code 70"):
        await watched.load("m", tmp_path / "s", fail="crash:load")


async def test_a_device_fault_poisons_the_worker_and_a_fresh_one_follows(watched: Watched, tmp_path: Path) -> None:
    with pytest.raises(JobFailed) as failure:
        await watched.load("m", tmp_path / "s", fail="fault")
    assert failure.value.fault
    assert watched.pool.state(0) == "poisoned"
    with pytest.raises(Unavailable, match="poisoned"):
        await watched.load("other", tmp_path / "t")

    await until(lambda: watched.pool.state(0) == "ready")
    assert [type(news) for news in watched.news] == [Poisoned, Lost, Ready]


async def test_a_recycled_worker_is_lost_as_planned(watched: Watched, tmp_path: Path) -> None:
    await watched.load("m", tmp_path / "s")
    await watched.pool.recycle(0, "defrag")
    await until(lambda: len(watched.news) == 2)
    assert watched.news[0] == Lost(device=0, how="defrag", planned=True)


async def test_workers_that_cannot_even_start_back_off_until_the_device_has_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "helexa").mkdir()  # a package without a worker shadows ours in the child
    (tmp_path / "helexa" / "__init__.py").write_text("raise SystemExit('broken install')")
    clock = HastyClock()
    watched = Watched(clock)
    watched.pool.start()
    try:
        await until(lambda: any(isinstance(news, Dead) for news in watched.news))
        dead = next(news for news in watched.news if isinstance(news, Dead))
        assert "broken install" in dead.cause
        pauses = clock.slept[: GIVE_UP_AFTER - 1]
        assert pauses == sorted(pauses)
        assert pauses[-1] > 0
    finally:
        await watched.pool.close()


async def test_closing_the_pool_leaves_no_process(watched: Watched, tmp_path: Path) -> None:
    await watched.load("m", tmp_path / "s")
    pid = watched.pool.pid(0)
    await watched.pool.close()
    assert pid is not None
    assert not exists(f"/proc/{pid}")


async def test_a_worker_dies_with_a_channel_that_nobody_holds(watched: Watched, tmp_path: Path) -> None:
    await watched.load("m", tmp_path / "s", load_s=0.0)
    process = watched.pool._posts[0].process  # pyright: ignore[reportPrivateUsage]
    assert process is not None
    process._channel.close()  # pyright: ignore[reportPrivateUsage]
    assert process._writer is not None  # pyright: ignore[reportPrivateUsage]
    process._writer.transport.abort()  # pyright: ignore[reportPrivateUsage]
    async with asyncio.timeout(5):
        await process.ended.wait()


@pytest.mark.parametrize(
    ("code", "words"), [(3, "exit code 3"), (-9, "killed by SIGKILL"), (-250, "killed by signal 250")]
)
def test_an_exit_is_told_in_words(code: int, words: str) -> None:
    assert how(code) == words
