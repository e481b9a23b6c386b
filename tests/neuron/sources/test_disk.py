"""The model cache on disk: its place, its locks, what the page cache holds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from helexa.neuron.sources.disk import Turnstile, cache_root, free_bytes, resident_share, sha256_of, warmth_of


@pytest.mark.parametrize(
    ("environ", "state_dir", "expected"),
    [
        ({"HELEXA_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/c", "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/c", "/c/models"),
        ({"XDG_CACHE_HOME": "/b"}, None, "/b/helexa"),
        ({"XDG_CACHE_HOME": "/b", "STATE_DIRECTORY": "/s:/t"}, None, "/s/models"),
        ({"STATE_DIRECTORY": "/s"}, "/c", "/c/models"),
        ({"HELEXA_CACHE": ""}, None, str(Path("~/.cache/helexa").expanduser())),
    ],
)
def test_the_cache_lies_where_it_was_told_to(environ: dict[str, str], state_dir: str | None, expected: str) -> None:
    assert str(cache_root(environ, state_dir)) == expected


def test_free_space_is_known_of_a_folder_that_is_still_to_be_made(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "a" / "b") == pytest.approx(free_bytes(tmp_path), rel=0.2)


def test_a_file_just_read_is_resident_and_a_missing_one_cold(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 3_000_000)
    path.read_bytes()
    assert 0.0 <= resident_share(path) <= 1.0
    assert warmth_of([path]) in {"memory", "disk"}
    assert warmth_of([path, tmp_path / "absent"]) == "cold"
    assert resident_share(path) >= 0.0


def test_an_empty_file_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    assert resident_share(tmp_path / "f") == 0.0


def test_a_digest_tells_how_far_it_is(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 2_500_000)
    told: list[int] = []
    assert sha256_of(tmp_path / "f", told.append).startswith("b28d0281")
    assert told == [1 << 20, 2 << 20, 2_500_000]


async def test_one_at_a_time_even_through_two_turnstiles(tmp_path: Path) -> None:
    one, other = Turnstile(tmp_path), Turnstile(tmp_path)
    inside, order = asyncio.Event(), list[str]()

    async def second() -> None:
        await inside.wait()
        async with other.alone("m"):
            order.append("second")

    waiting = asyncio.ensure_future(second())
    async with one.alone("m"):
        inside.set()
        await asyncio.sleep(0)
        order.append("first")
    await asyncio.wait_for(waiting, 5)
    assert order == ["first", "second"]


async def test_a_waiter_that_gives_up_does_not_keep_the_lock(tmp_path: Path) -> None:
    one, other = Turnstile(tmp_path), Turnstile(tmp_path)

    async def wait_in_vain() -> None:
        async with other.alone("m"):
            raise AssertionError("the lock was free")

    async with one.alone("m"):
        waiting = asyncio.ensure_future(wait_in_vain())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with asyncio.timeout(5), Turnstile(tmp_path).alone("m"):
        pass
