"""The newcomer's first command in a fresh checkout: `make up` makes its own environment with what Python brings."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import httpx2
import pytest

from helexa.testing.fleet import free_port

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("Makefile", "pyproject.toml", "README.md", "LICENSE", "src", "scripts", "requirements")
MODEL = "smollm2-135m-instruct"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a clone holds that setting up needs."""
    for name in NEEDED:
        there, here = ROOT / name, tmp_path / "helexa" / name
        if there.is_dir():
            shutil.copytree(there, here, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            here.parent.mkdir(exist_ok=True)
            shutil.copy2(there, here)
    return tmp_path / "helexa"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_make_up_sets_up_everything_and_the_model_answers(checkout: Path, tmp_path: Path) -> None:
    ports = [free_port() for _ in range(3)]
    words = "--port {} --metrics-port {} --neuron-port {}".format(*ports)
    # A cache of models of its own, so that the model is fetched; pip's cache is the user's.
    environ = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    environ |= {"XDG_STATE_HOME": str(tmp_path / "state"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environ |= {"PIP_CACHE_DIR": environ.get("PIP_CACHE_DIR", str(Path.home() / ".cache" / "pip"))}
    up = subprocess.Popen(
        ["make", "up", f"ARGS={words}"],
        cwd=checkout,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    too_late = threading.Timer(500, os.killpg, (up.pid, signal.SIGKILL))
    too_late.start()
    printed: list[str] = []
    try:
        assert up.stdout is not None
        for line in up.stdout:
            printed.append(line)
            if "Ctrl-C" in line:
                break
        assert any("helexa is up" in line for line in printed), "".join(printed)
        asked = {"model": MODEL, "max_tokens": 4, "messages": [{"role": "user", "content": "Say hello."}]}
        answer = httpx2.post(f"http://127.0.0.1:{ports[0]}/v1/chat/completions", json=asked, timeout=60)
        assert answer.json()["usage"]["completion_tokens"] == 4
        os.killpg(up.pid, signal.SIGINT)
        up.communicate(timeout=30)
    finally:
        too_late.cancel()
        if up.poll() is None:
            os.killpg(up.pid, signal.SIGKILL)
            up.wait()
