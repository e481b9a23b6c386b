"""`hf:` and its mirrors: repositories behind the Hugging Face Hub's API, in the Hub's own cache.

`huggingface_hub` lists, authorises and keeps the cache, so that what other programs fetched is found and what we fetch
they find. Weights come through our own download, which resumes across restarts and checks digests; both of those the
library leaves out. It is imported on first use: it is an extra, and slow to import.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2

from helexa.base.clock import Clock, SystemClock
from helexa.base.config import under_home
from helexa.base.ids import SourceId
from helexa.neuron.core.listing import Listing, classify
from helexa.neuron.core.plan import RemoteFile, Warmth
from helexa.neuron.core.preflight import disk_full, refusal
from helexa.neuron.harness import Report
from helexa.neuron.sources.contract import Cache, HeadUnavailable, Held, Source, fetch_failed
from helexa.neuron.sources.disk import Turnstile, sweep, warmth_of
from helexa.neuron.sources.download import DiskFilling, DownloadFailed, Location, WrongContent, download
from helexa.neuron.sources.local import first_bytes
from helexa.neuron.sources.ranged import RangedFile

Tell = Callable[[str, int], None]

_WEIGHTS: Final = (".gguf", ".safetensors")
_DIGEST = re.compile(r"[0-9a-f]{40,64}")
_LIST_TIMEOUT_S: Final = 20.0
_BUSY: Final = frozenset({408, 425, 429})


class Hub:
    """One scheme. `endpoint` and `token` None leave both to the library's own settings; `token` False sends none."""

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        token: str | bool | None = None,
        cache_dir: Path | None = None,
        locks: Path,
        clock: Clock | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._token = token
        self._cache_dir = cache_dir
        self._turns = Turnstile(locks)
        self._clock = clock or SystemClock()
        self._revisions: dict[str, str] = {}

    @property
    def home(self) -> Path:
        return self._cache_dir or _default_cache()

    async def listing(self, source: SourceId, model_id: str) -> Listing:
        _need_library(model_id)
        return await asyncio.to_thread(self._list, source, model_id)

    async def warmth(self, source: SourceId, files: Sequence[RemoteFile]) -> Warmth:
        paths = await asyncio.to_thread(lambda: [self._cached(source.name, file.name) for file in files])
        return "cold" if None in paths else await asyncio.to_thread(warmth_of, [p for p in paths if p is not None])

    async def head(self, source: SourceId, file: RemoteFile, length: int) -> bytes:
        return await asyncio.to_thread(self._head, source.name, file.name, length)

    async def fetch(
        self, source: SourceId, files: Sequence[RemoteFile], model_id: str, report: Report
    ) -> tuple[Path, ...]:
        _need_library(model_id)
        if source.name not in self._revisions:
            await self.listing(source, model_id)
        total = max(1, sum(file.size_bytes or 0 for file in files))
        before, paths = 0, list[Path]()
        for file in files:

            def tell(stage: str, done: int, before: int = before) -> None:
                report(stage, min(1.0, (before + done) / total))

            async with self._turns.alone(f"{self._endpoint}:{source.name}/{file.name}"):
                paths.append(await self._one(source.name, file, model_id, tell))
            before += file.size_bytes or 0
        await asyncio.to_thread(self._point_main, source.name)
        return tuple(paths)

    def _list(self, source: SourceId, model_id: str) -> Listing:
        import huggingface_hub as hub
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

        api = hub.HfApi(endpoint=self._endpoint, token=self._token)
        try:
            info = api.model_info(source.name, revision="main", files_metadata=True, timeout=_LIST_TIMEOUT_S)
        except HFValidationError as error:
            raise fetch_failed(model_id, str(error), transient=False) from error
        except (HfHubHTTPError, OfflineModeIsEnabled, httpx2.HTTPError, OSError, ValueError) as error:
            return self._offline(source, model_id, error)
        self._revisions[source.name] = info.sha or "main"
        return Listing(source=source, files=tuple(_remote_file(each) for each in info.siblings or ()))

    def _offline(self, source: SourceId, model_id: str, error: Exception) -> Listing:
        """The snapshot on this disk, when the hub cannot be reached; its refusal of the name or token stands."""
        from huggingface_hub.errors import OfflineModeIsEnabled

        status = _status(error)
        transient = status is None or status >= 500 or status in _BUSY
        found = self._snapshot(source.name) if transient else None
        if found is not None:
            revision, files = found
            if classify(files) != "empty":
                self._revisions[source.name] = revision
                return Listing(source=source, files=files)
        where = "" if status or isinstance(error, OfflineModeIsEnabled) else f"{self._address()} cannot be reached: "
        raise fetch_failed(model_id, where + _said(error), transient=transient, suggestion=_remedy(status)) from error

    def _address(self) -> str:
        from huggingface_hub.constants import ENDPOINT

        return self._endpoint or ENDPOINT

    def _snapshot(self, repo: str) -> tuple[str, tuple[RemoteFile, ...]] | None:
        from huggingface_hub.file_download import repo_folder_name

        folder = self.home / repo_folder_name(repo_id=repo, repo_type="model")
        try:
            revision = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
            snapshot = folder / "snapshots" / revision
            paths = sorted(path for path in snapshot.rglob("*") if path.is_file())
        except OSError:
            return None
        files = (RemoteFile(name=str(p.relative_to(snapshot)), size_bytes=p.stat().st_size) for p in paths)
        return revision, tuple(files)

    def _point_main(self, repo: str) -> None:
        """Note, as the library does for a branch, which revision `main` was: the listing of a day without network.
        Only after a whole fetch, so that a snapshot in the making does not hide an older, complete one."""
        from huggingface_hub.file_download import repo_folder_name

        revision = self._revisions.get(repo, "main")
        ref = self.home / repo_folder_name(repo_id=repo, repo_type="model") / "refs" / "main"
        if revision == "main" or (ref.exists() and ref.read_text(encoding="utf-8").strip() == revision):
            return
        ref.parent.mkdir(parents=True, exist_ok=True)
        draft = ref.with_name(f".main-{os.getpid()}")
        draft.write_text(revision, encoding="utf-8")
        draft.replace(ref)

    def _cached(self, repo: str, name: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        revision = self._revisions.get(repo, "main")
        found = try_to_load_from_cache(repo, name, cache_dir=self.home, revision=revision)
        return Path(found) if isinstance(found, str) else None

    def _head(self, repo: str, name: str, length: int) -> bytes:
        cached = self._cached(repo, name)
        if cached is not None:
            return first_bytes(cached, length)
        location, _ = self._locate(repo, name)
        with RangedFile(location.url, location.headers) as file:
            pieces = bytearray()
            while len(pieces) < length and (piece := file.read(length - len(pieces))):
                pieces += piece
            return bytes(pieces)

    def _locate(self, repo: str, name: str) -> tuple[Location, str | None]:
        """Where a file's bytes are, and the name of its blob in the cache. Raises HeadUnavailable."""
        import huggingface_hub as hub
        from huggingface_hub.errors import HfHubHTTPError
        from huggingface_hub.utils import build_hf_headers  # pyright: ignore[reportUnknownVariableType]

        revision = self._revisions.get(repo, "main")
        url = hub.hf_hub_url(repo, name, revision=revision, endpoint=self._endpoint)
        try:
            found = hub.get_hf_file_metadata(url, token=self._token, endpoint=self._endpoint)  # pyright: ignore[reportUnknownMemberType]
        except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
            raise HeadUnavailable(_said(error)) from error
        own = urlsplit(found.location).netloc == urlsplit(url).netloc
        headers = build_hf_headers(token=self._token) if own else {}
        return Location(url=found.location, headers=headers), found.etag

    def held(self) -> tuple[Held, ...]:
        found = self._scan()
        repos = [repo for repo in found.repos if repo.repo_type == "model"] if found else []
        return tuple(
            Held(
                name=r.repo_id, folder=r.repo_path, size_bytes=r.size_on_disk, files=r.nb_files, used_s=r.last_accessed
            )
            for r in sorted(repos, key=lambda repo: repo.repo_id)
        )

    def forget(self, held: Held) -> None:
        found = self._scan()
        repo = next((each for each in found.repos if each.repo_path == held.folder), None) if found else None
        if found and repo:
            found.delete_revisions(*(revision.commit_hash for revision in repo.revisions)).execute()

    def sweep(self, before_s: float) -> int:
        unfinished = ("models--*/blobs/*.partial", "models--*/blobs/*.incomplete")
        return sweep((path for pattern in unfinished for path in self.home.glob(pattern)), before_s)

    def _scan(self) -> Any | None:
        """The library's view of the cache, None when there is none."""
        if not self.home.is_dir() or importlib.util.find_spec("huggingface_hub") is None:
            return None
        from huggingface_hub import scan_cache_dir

        return scan_cache_dir(self.home)

    async def _one(self, repo: str, file: RemoteFile, model_id: str, tell: Tell) -> Path:
        cached = await asyncio.to_thread(self._cached, repo, file.name)
        if cached is not None:
            return cached
        if file.name.lower().endswith(_WEIGHTS) and file.size_bytes:
            await self._bring(repo, file, file.size_bytes, model_id, tell)
        return await asyncio.to_thread(self._settle, repo, file, model_id)

    async def _bring(self, repo: str, file: RemoteFile, size: int, model_id: str, tell: Tell) -> None:
        """Put the blob of one weight file where the library will look for it."""
        from huggingface_hub.file_download import repo_folder_name

        try:
            _, etag = await asyncio.to_thread(self._locate, repo, file.name)
        except HeadUnavailable as error:
            raise fetch_failed(model_id, str(error), transient=True) from error
        if not etag or not _DIGEST.fullmatch(etag):
            return
        blob = self.home / repo_folder_name(repo_id=repo, repo_type="model") / "blobs" / etag

        async def locate() -> Location:
            try:
                return (await asyncio.to_thread(self._locate, repo, file.name))[0]
            except HeadUnavailable as error:
                raise DownloadFailed(str(error), transient=True) from error

        if not blob.exists():

            def bring() -> Awaitable[None]:
                return download(locate, blob, size=size, sha256=file.sha256, tell=tell, clock=self._clock)

            await _twice(bring, model_id)

    def _settle(self, repo: str, file: RemoteFile, model_id: str) -> Path:
        """Let the library link the blob into its snapshot; a small file it fetches itself."""
        import huggingface_hub as hub
        from huggingface_hub.errors import HfHubHTTPError

        try:
            return Path(
                hub.hf_hub_download(  # pyright: ignore[reportUnknownMemberType]
                    repo,
                    file.name,
                    revision=self._revisions.get(repo, "main"),
                    cache_dir=self.home,
                    endpoint=self._endpoint,
                    token=self._token,
                )
            )
        except (HfHubHTTPError, httpx2.HTTPError, OSError, ValueError) as error:
            status = _status(error)
            transient = status is None or status >= 500 or status in _BUSY
            raise fetch_failed(model_id, f"{file.name}: {_said(error)}", transient=transient) from error


async def _twice(bring: Callable[[], Awaitable[None]], model_id: str) -> None:
    """A file with the wrong content is fetched once more, from its start; other failures are told."""
    try:
        try:
            await bring()
        except WrongContent:
            await bring()
    except DownloadFailed as error:
        raise fetch_failed(model_id, error.cause, transient=error.transient) from error
    except DiskFilling as error:
        raise disk_full(model_id, error.needed, error.free) or error from error
    except OSError as error:
        raise fetch_failed(model_id, f"{error.filename or 'the cache'}: {error.strerror}", transient=False) from error


def _remote_file(sibling: Any) -> RemoteFile:
    lfs = sibling.lfs
    return RemoteFile(name=sibling.rfilename, size_bytes=sibling.size, sha256=lfs.sha256 if lfs else None)


def _need_library(model_id: str) -> None:
    if importlib.util.find_spec("huggingface_hub") is None:
        hint = 'pip install "helexa[hub]"'
        detail = f"reading a model hub needs the extra `hub`; {hint}"
        raise refusal("engine_missing", model_id, detail, extra="hub", suggestion=hint)


def _default_cache() -> Path:
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return under_home("~/.cache/huggingface/hub")
    return Path(HF_HUB_CACHE)


def _status(error: Exception) -> int | None:
    found = getattr(getattr(error, "response", None), "status_code", None)
    return found if isinstance(found, int) else None


def _remedy(status: int | None) -> str:
    """A hub says 401 or 404 of what it hides as well as of what is not there."""
    if status not in {401, 403, 404}:
        return ""
    return "check the spelling; a private or gated model needs a token: HF_TOKEN, or `token_env` of its source"


def _said(error: BaseException) -> str:
    """The whole chain of causes on one line."""
    words: list[str] = []
    current: BaseException | None = error
    while current is not None and len(words) < 4:
        text = " ".join(str(current).split()) or type(current).__name__
        if text not in words:
            words.append(text)
        current = current.__cause__
    return ": ".join(words)


_: type[Source] = Hub
_cache: type[Cache] = Hub
