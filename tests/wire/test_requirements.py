"""The manifest and the tests agree, both ways."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
PLACES = {"": HERE, "edge/": HERE.parent / "gateway/edge", "chain/": HERE.parent / "interaction"}
MANIFEST = tomllib.loads((HERE / "requirements.toml").read_text())["requirement"]
# These prove other promises than those of the dialects' contract.
ELSEWHERE = {"test_requirements.py", "test_control.py", "test_access.py", "test_operator.py"}


def _tests() -> set[str]:
    found: set[str] = set()
    for place, folder in PLACES.items():
        for path in folder.glob("test_dialects.py" if place == "chain/" else "test_*.py"):
            if path.name not in ELSEWHERE:
                found |= {f"{place}{path.stem[5:]}.{name}" for name in _named(path)}
    return found


def _named(path: Path) -> list[str]:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    names = [node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, kinds)]
    return [name[5:] for name in names if name.startswith("test_")]


def test_every_requirement_names_tests_that_exist() -> None:
    known = _tests()
    for requirement in MANIFEST:
        assert requirement["text"].endswith(".")
        assert requirement["tests"], requirement["id"]
        assert set(requirement["tests"]) <= known, requirement["id"]


def test_every_test_of_a_translation_holds_a_requirement() -> None:
    claimed = {name for requirement in MANIFEST for name in requirement["tests"]}
    assert _tests() - claimed == set()


def test_ids_of_requirements_are_unique() -> None:
    ids = [requirement["id"] for requirement in MANIFEST]
    assert len(ids) == len(set(ids))
