"""The workers as the daemon sees them: real processes, the echo engine in them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from helexa.base.clock import SystemClock
from helexa.base.errors import Unavailable
from helexa.http1.client import Origin, UpstreamError
from helexa.neuron.device.pool import GIVE_UP_AFTER, RESTART_S, WATCH_S, Dead, Lost, News, Poisoned, Pool, Ready, Seat
from helexa.neuron.device.process import JobFailed, WorkerLost, how
from tests.neuron.helpers import ECHO, PATIENCE_S, HastyClock, command_line, exists, order, until

LIMIT_S = 10.0


class SwiftClock(SystemClock):
    """Sleeps are fifty times as short."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 50)


class Watched:
    """A pool of one device and what it told."""

    def __init__(self, clock: SystemClock, silence_s: float = 120.0) -> None:
        self.news: list[News] = []
        seat = Seat(index=0, worker="cpu-dev-0", prepare=(ECHO,))
        self.listen: Callable[[News], None] = lambda news: None
        self.pool = Pool([seat], clock=clock, tell=self._hear, silence_s=silence_s)

    def _hear(self, news: News) -> None:
        self.news.append(news)
        self.listen(news)

    async def load(self, model_id: str, socket: Path, **options: object):
        return await self.pool.load(0, ECHO, order(model_id, socket, **options), self.report, limit_s=LIMIT_S)

    def report(self, stage: str, progress: float | None) -> None:
        del stage, progress


async def chat(socket: Path) -> None:
    """Ask the engine itself for an answer; whether one comes does not matter."""
    origin = Origin(unix_path=str(socket))
    try:
        body = b'{"messages":[{"role":"user","content":"one two"}]}'
        async with await origin.request(b"POST", b"/v1/chat/completions", (), body) as answer:
            await answer.read(1 << 20)
    except UpstreamError:
        pass
    finally:
        await origin.aclose()


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
    await watched.pool.load(0, ECHO, slow, lambda _stage, progress: heard.append(progress), limit_s=LIMIT_S)
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
        await watched.pool.load(0, "no_such_engine:Engine", order("m", tmp_path / "s"), watched.report, limit_s=LIMIT_S)
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


def test_the_last_words_of_a_lost_worker_are_in_the_error() -> None:
    error = WorkerLost(worker="cpu-dev-0", how="killed by SIGABRT", lines=("loading", "GGML_ASSERT(layers) failed"))
    assert error.message.endswith("(killed by SIGABRT): loading; GGML_ASSERT(layers) failed")


async def test_a_device_fault_poisons_the_worker_and_a_fresh_one_follows(watched: Watched, tmp_path: Path) -> None:
    with pytest.raises(JobFailed) as failure:
        await watched.load("m", tmp_path / "s", fail="fault")
    assert failure.value.fault
    assert watched.pool.state(0) == "poisoned"
    with pytest.raises(Unavailable, match="poisoned"):
        await watched.load("other", tmp_path / "t")

    await until(lambda: watched.pool.state(0) == "quarantined")
    assert [type(news) for news in watched.news] == [Poisoned, Lost, Ready]
    assert "as asked" in watched.pool.suspicion(0)
    watched.pool.acquit(0)
    assert (watched.pool.state(0), watched.pool.suspicion(0)) == ("ready", "")


async def test_a_worker_that_aborts_with_a_drivers_words_puts_its_device_in_quarantine(
    watched: Watched, tmp_path: Path
) -> None:
    await watched.load("m", tmp_path / "s", fail="fault:0")
    await chat(tmp_path / "s")
    await until(lambda: watched.pool.state(0) == "quarantined")
    assert [type(news) for news in watched.news] == [Poisoned, Lost, Ready]
    assert "illegal memory access" in watched.pool.suspicion(0)
    await watched.load("m", tmp_path / "t")  # it takes loads, or nothing could ever end the quarantine


async def test_a_worker_that_crashes_without_a_fault_is_not_held_against_the_device(
    watched: Watched, tmp_path: Path
) -> None:
    await watched.load("m", tmp_path / "s", fail="crash:0")
    await chat(tmp_path / "s")
    await until(lambda: watched.pool.state(0) == "ready" and watched.pool.restarts(0) == 1)
    assert watched.pool.suspicion(0) == ""


async def test_how_a_worker_ended_is_kept_with_its_last_lines(watched: Watched, tmp_path: Path) -> None:
    assert watched.pool.last_exit(0) is None
    await watched.load("m", tmp_path / "s", fail="fault:0")
    await chat(tmp_path / "s")
    await until(lambda: watched.pool.restarts(0) == 1)
    end = watched.pool.last_exit(0)
    assert end is not None
    assert end.how == "killed by SIGABRT"
    assert end.lines[-1] == "CUDA error: an illegal memory access was encountered"


async def test_a_job_that_does_not_move_costs_the_worker(watched: Watched, tmp_path: Path) -> None:
    stuck = order("m", tmp_path / "s", fail="hang:load")
    with pytest.raises(WorkerLost, match=r"did not move for 0\.2 s"):
        await watched.pool.load(0, ECHO, stuck, watched.report, limit_s=0.2)
    await until(lambda: watched.pool.state(0) == "quarantined")
    await watched.load("m", tmp_path / "t")


async def test_a_job_that_moves_may_take_longer_than_its_limit(watched: Watched, tmp_path: Path) -> None:
    await watched.load("warm-up", tmp_path / "s")
    slow = order("m", tmp_path / "t", load_s=3.0)  # in twenty steps of 0.15 s
    await watched.pool.load(0, ECHO, slow, watched.report, limit_s=2.0)
    assert watched.news == []


async def test_a_worker_that_stands_still_without_a_job_is_replaced(tmp_path: Path) -> None:
    watched = Watched(SwiftClock(), silence_s=150.0)  # three of our seconds; a worker is heard of every two
    watched.pool.start()
    try:
        await watched.load("m", tmp_path / "s")
        pid = watched.pool.pid(0)
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: watched.pool.restarts(0) == 1)
        assert "not heard of" in str(watched.news[0])
    finally:
        await watched.pool.close()


async def test_workers_that_crash_again_and_again_are_restarted_ever_later(tmp_path: Path) -> None:
    clock = HastyClock()
    watched = Watched(clock)
    try:
        for round_ in range(4):
            with pytest.raises(WorkerLost):
                await watched.load("m", tmp_path / f"s{round_}", fail="crash:load")
            await until(lambda round_=round_: watched.pool.restarts(0) == round_ + 1)
        assert clock.slept[:4] == list(RESTART_S[:4])
    finally:
        await watched.pool.close()


async def test_a_device_that_is_condemned_from_outside_loses_its_worker(watched: Watched, tmp_path: Path) -> None:
    await watched.load("m", tmp_path / "s")
    watched.pool.condemn(0, "Xid 79: the GPU has fallen off the bus")
    await until(lambda: watched.pool.state(0) == "quarantined")
    assert watched.pool.suspicion(0).startswith("Xid 79")


async def test_a_recycled_worker_is_lost_as_planned(watched: Watched, tmp_path: Path) -> None:
    await watched.load("m", tmp_path / "s")
    await watched.pool.recycle(0, "defrag")
    await until(lambda: len(watched.news) == 2)
    assert watched.news[0] == Lost(device=0, how="defrag", planned=True)


async def test_a_worker_that_is_recycled_is_lost_before_it_ends(watched: Watched, tmp_path: Path) -> None:
    await watched.load("m", tmp_path / "s")
    pid = watched.pool.pid(0)
    there: list[bool] = []
    watched.listen = lambda news: there.append(exists(f"/proc/{pid}"))
    await watched.pool.recycle(0, "defrag")
    assert watched.news[0] == Lost(device=0, how="defrag", planned=True)
    assert (there[0], exists(f"/proc/{pid}")) == (True, False)


async def test_a_device_that_is_gone_has_no_worker_until_it_is_back(watched: Watched, tmp_path: Path) -> None:
    await watched.load("m", tmp_path / "s")
    pid = watched.pool.pid(0)
    watched.pool.seat(Seat(index=0, worker="cpu-dev-0", absent="there is no cpu device 0"))
    await until(lambda: watched.pool.state(0) == "failed")
    assert watched.news[-1] == Dead(device=0, cause="there is no cpu device 0")
    assert not exists(f"/proc/{pid}")
    with pytest.raises(Unavailable, match="there is no cpu device 0"):
        await watched.load("m", tmp_path / "s2")
    watched.pool.seat(Seat(index=0, worker="cpu-dev-0"))
    await watched.load("m", tmp_path / "s3")


async def test_a_device_in_anothers_place_gets_a_fresh_worker(watched: Watched, tmp_path: Path) -> None:
    watched.pool.seat(Seat(index=0, worker="cpu-dev-0", unit="GPU-a"))
    await watched.load("m", tmp_path / "s")
    watched.pool.seat(Seat(index=0, worker="cpu-dev-0", unit="GPU-a"))
    watched.pool.seat(Seat(index=0, worker="cpu-dev-0", unit="GPU-b"))
    await until(lambda: len(watched.news) == 2)
    assert watched.news[0] == Lost(device=0, how="there is another device in its place", planned=True)


async def test_a_device_that_comes_later_gets_a_worker_of_its_own(watched: Watched) -> None:
    watched.pool.seat(Seat(index=3, worker="cuda-dev-0"))
    await until(lambda: watched.pool.state(3) == "ready")
    assert (watched.pool.name(3), watched.pool.pid(3) is None) == ("cuda-dev-0", False)


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
        pauses = [pause for pause in clock.slept if pause != WATCH_S][: GIVE_UP_AFTER - 1]
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
    async with asyncio.timeout(PATIENCE_S):
        await process.ended.wait()


@pytest.mark.parametrize(
    ("code", "words"), [(3, "exit code 3"), (-9, "killed by SIGKILL"), (-250, "killed by signal 250")]
)
def test_an_exit_is_told_in_words(code: int, words: str) -> None:
    assert how(code) == words
