"""`hf:` against a hub on loopback, through the hub's own client: listing, resuming, digests, and every refusal."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from helexa.base.errors import Refused
from helexa.base.ids import parse_source
from helexa.neuron.core.plan import RemoteFile
from helexa.neuron.sources import download
from helexa.neuron.sources.hub import Hub
from helexa.testing.hub import MockHub
from tests.neuron.helpers import HastyClock

BODY = os.urandom(3 * 1024 * 1024)
DIGEST = hashlib.sha256(BODY).hexdigest()
MODEL = "org/name"
SOURCE = parse_source(MODEL)
WEIGHTS = "model-Q4_K_M.gguf"


@pytest.fixture
def server() -> Iterator[MockHub]:
    with MockHub() as hub:
        hub.add(MODEL, {WEIGHTS: BODY, "config.json": b'{"model_type": "llama"}'})
        yield hub


@pytest.fixture
def hub(server: MockHub, tmp_path: Path) -> Hub:
    return client_of(server, tmp_path)


def client_of(server: MockHub, folder: Path, token: str | bool = False) -> Hub:
    clock = HastyClock()
    return Hub(endpoint=server.url, token=token, cache_dir=folder / "hub", locks=folder / "locks", clock=clock)


def silent(stage: str, progress: float | None) -> None:
    pass


async def fetched(hub: Hub, name: str = WEIGHTS) -> Path:
    listing = await hub.listing(SOURCE, MODEL)
    files = [file for file in listing.files if file.name == name]
    return (await hub.fetch(SOURCE, files, MODEL, silent))[0]


async def refused(hub: Hub, source: str = MODEL) -> Refused:
    with pytest.raises(Refused) as caught:
        await fetched_whole(hub, source)
    return caught.value


async def fetched_whole(hub: Hub, source: str) -> tuple[Path, ...]:
    listing = await hub.listing(parse_source(source), source)
    return await hub.fetch(parse_source(source), listing.files, source, silent)


async def test_a_listing_tells_names_sizes_and_digests_without_fetching_a_file(hub: Hub, server: MockHub) -> None:
    listing = await hub.listing(SOURCE, MODEL)
    assert listing.files == (
        RemoteFile(name=WEIGHTS, size_bytes=len(BODY), sha256=DIGEST),
        RemoteFile(name="config.json", size_bytes=23),
    )
    assert [each.path for each in server.seen] == ["/api/models/org/name/revision/main"]


async def test_a_file_is_fetched_whole_and_lies_in_the_hubs_own_cache(hub: Hub, tmp_path: Path) -> None:
    path = await fetched(hub)
    assert path.read_bytes() == BODY
    assert path.is_relative_to(tmp_path / "hub" / "models--org--name" / "snapshots")


async def test_what_is_cached_is_not_fetched_again(hub: Hub, server: MockHub) -> None:
    first = await fetched(hub)
    before = len(server.requests("GET", "/blobs/*"))
    assert await fetched(hub) == first
    assert len(server.requests("GET", "/blobs/*")) == before


async def test_warmth_goes_from_cold_to_present(hub: Hub) -> None:
    listing = await hub.listing(SOURCE, MODEL)
    cold = await hub.warmth(SOURCE, listing.files[:1])
    await fetched(hub)
    assert cold == "cold"
    assert await hub.warmth(SOURCE, listing.files[:1]) in {"disk", "memory"}


async def test_progress_rises_over_all_files_and_names_its_stages(hub: Hub) -> None:
    told: list[tuple[str, float | None]] = []
    listing = await hub.listing(SOURCE, MODEL)
    await hub.fetch(SOURCE, listing.files, MODEL, lambda stage, progress: told.append((stage, progress)))
    downloads = [progress for stage, progress in told if stage == "download" and progress is not None]
    assert downloads == sorted(downloads)
    assert downloads[-1] == pytest.approx(1.0, abs=1e-4)
    assert "verify" in {stage for stage, _ in told}


async def test_a_cut_connection_is_resumed_where_it_broke(hub: Hub, server: MockHub) -> None:
    server.cut(1_000_000)
    assert (await fetched(hub)).read_bytes() == BODY
    assert server.requests("GET", "/blobs/*")[1].range == "bytes=1000000-"


async def test_a_later_session_builds_upon_what_an_earlier_one_left(
    server: MockHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "FRUITLESS_TRIES", 1)
    server.cut(2_000_000)
    server.cut(0)
    refusal = await refused(client_of(server, tmp_path))
    assert refusal.fields["transient"] is True
    assert (await fetched(client_of(server, tmp_path))).read_bytes() == BODY
    assert server.requests("GET", "/blobs/*")[-1].range == "bytes=2000000-"


async def test_a_file_with_a_wrong_digest_is_fetched_once_more(hub: Hub, server: MockHub) -> None:
    server.corrupt(at=5000)
    assert (await fetched(hub)).read_bytes() == BODY


async def test_a_file_whose_digest_stays_wrong_is_refused_and_not_kept(
    hub: Hub, server: MockHub, tmp_path: Path
) -> None:
    server.corrupt(at=5000, times=2)
    refusal = await refused(hub)
    assert refusal.fields["kind"] == "repo_fetch_failed"
    assert DIGEST in str(refusal.fields["cause"])
    assert [p for p in (tmp_path / "hub").rglob("*") if p.is_file() and p.stat().st_size > 1_000_000] == []


@pytest.mark.parametrize(("status", "transient"), [(401, False), (403, False), (404, False), (429, True), (503, True)])
async def test_a_listing_that_fails_is_refused_with_its_cause(
    hub: Hub, server: MockHub, status: int, transient: bool
) -> None:
    server.fail(status, path="/api/*")
    refusal = await refused(hub)
    assert (refusal.fields["kind"], refusal.fields["transient"]) == ("repo_fetch_failed", transient)
    assert str(status) in str(refusal.fields["cause"])
    assert refusal.fields["model_id"] == MODEL


async def test_an_unknown_repository_is_refused_at_once(hub: Hub) -> None:
    refusal = await refused(hub, "org/other")
    assert refusal.fields["transient"] is False
    assert "HF_TOKEN" in str(refusal.fields["suggestion"])
    assert refusal.message.startswith("check the spelling")


@pytest.mark.parametrize("name", ["a/b/c", "org/na me", "org/..", "-org/name"])
async def test_a_name_that_no_hub_can_have_is_refused(hub: Hub, name: str) -> None:
    assert (await refused(hub, name)).fields["kind"] == "repo_fetch_failed"


async def test_a_busy_server_in_the_middle_of_a_download_is_tried_again_ever_later(
    server: MockHub, tmp_path: Path
) -> None:
    clock = HastyClock()
    server.fail(503, path="/blobs/*", times=2)
    server.fail(429, path="/blobs/*", headers={"Retry-After": "7"})
    hub = Hub(endpoint=server.url, token=False, cache_dir=tmp_path / "hub", locks=tmp_path / "locks", clock=clock)
    assert (await fetched(hub)).read_bytes() == BODY
    assert clock.slept == [1.0, 2.0, 7.0]


async def test_an_address_that_expired_is_asked_for_anew(hub: Hub, server: MockHub) -> None:
    server.fail(403, path="/blobs/*")
    assert (await fetched(hub)).read_bytes() == BODY
    assert len(server.requests("HEAD", f"/{MODEL}/resolve/*")) >= 2


async def test_a_private_repository_opens_with_its_token_which_no_other_host_sees(tmp_path: Path) -> None:
    with MockHub(token="s3cret") as server:
        server.add(MODEL, {WEIGHTS: BODY})
        assert (await refused(client_of(server, tmp_path))).fields["transient"] is False
        assert (await fetched(client_of(server, tmp_path, token="s3cret"))).read_bytes() == BODY
        assert {each.authorization for each in server.requests("GET", "/blobs/*")} == {""}


async def test_without_the_hub_the_snapshot_on_disk_is_the_listing(server: MockHub, tmp_path: Path) -> None:
    path = await fetched(client_of(server, tmp_path))
    server.close()
    offline = client_of(server, tmp_path)
    listing = await offline.listing(SOURCE, MODEL)
    assert [file.name for file in listing.files] == [WEIGHTS]
    assert await offline.fetch(SOURCE, listing.files, MODEL, silent) == (path,)


async def test_without_the_hub_and_a_snapshot_the_cause_is_told(server: MockHub, tmp_path: Path) -> None:
    server.close()
    refusal = await refused(client_of(server, tmp_path))
    assert refusal.fields["transient"] is True
    assert "refused" in str(refusal.fields["cause"]).lower()
    assert server.url in str(refusal.fields["cause"])


async def test_a_link_to_a_deleted_blob_does_not_count_as_cached(server: MockHub, tmp_path: Path) -> None:
    (await fetched(client_of(server, tmp_path))).resolve().unlink()
    server.close()
    assert (await refused(client_of(server, tmp_path))).fields["kind"] == "repo_fetch_failed"


async def test_the_head_of_a_file_is_read_without_the_rest(hub: Hub, server: MockHub) -> None:
    listing = await hub.listing(SOURCE, MODEL)
    assert await hub.head(SOURCE, listing.files[0], 1000) == BODY[:1000]
    assert [each.range for each in server.requests("GET", "/blobs/*")] == ["bytes=0-262143"]


async def test_a_head_longer_than_a_block_is_read_in_order(hub: Hub) -> None:
    listing = await hub.listing(SOURCE, MODEL)
    assert await hub.head(SOURCE, listing.files[0], 600_000) == BODY[:600_000]


async def test_two_at_once_fetch_one_file_once(hub: Hub, server: MockHub) -> None:
    paths = await asyncio.gather(fetched(hub), fetched(hub))
    assert paths[0] == paths[1]
    assert len(server.requests("GET", "/blobs/*")) == 1


async def test_a_download_that_stands_still_holds_up_no_other_model(hub: Hub, server: MockHub) -> None:
    server.add("org/other", {WEIGHTS: b"GGUF" * 1000})
    go_on = server.hold(path=f"/blobs/{DIGEST}")
    slow = asyncio.create_task(fetched(hub))
    async with asyncio.timeout(20):
        (other,) = await fetched_whole(hub, "org/other")
    assert other.read_bytes() == b"GGUF" * 1000
    assert not slow.done()
    go_on.set()
    assert (await slow).read_bytes() == BODY


async def test_a_download_that_is_given_up_leaves_its_part_for_later(server: MockHub, tmp_path: Path) -> None:
    started = asyncio.Event()
    hub = client_of(server, tmp_path)
    listing = await hub.listing(SOURCE, MODEL)
    work = asyncio.ensure_future(hub.fetch(SOURCE, listing.files, MODEL, lambda _s, _p: started.set()))
    await asyncio.wait_for(started.wait(), 10)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert (await fetched(hub)).read_bytes() == BODY


async def test_a_disk_that_fills_up_while_a_file_comes_is_a_typed_refusal(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "free_bytes", lambda _folder: 1_000)
    refusal = await refused(hub)
    assert (refusal.fields["kind"], refusal.fields["free"]) == ("disk_full", 1_000)
