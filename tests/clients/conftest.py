"""One fleet for all clients, and the table of what came of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from helexa.testing.fleet import Fleet, free_port
from helexa.testing.recorder import Recorder
from tests.clients.models import real, scripted
from tests.clients.stage import Stage

DEVICE = '[[devices]]\nkind = "cpu"\nindex = 0\nmemory_mb = 6000\n'
COLUMNS = ("client", "dialect", "task", "outcome", "requests", "cached")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Fleet, Recorder]]:
    folder = tmp_path_factory.mktemp("fleet")
    async with (
        Fleet(folder, neurons={"n1": DEVICE}, models=scripted() + real(), recorded=True) as running,
        Recorder(free_port(), running.url) as front,
    ):
        yield running, front


@pytest.fixture
def stage(fleet: tuple[Fleet, Recorder], tmp_path: Path, request: pytest.FixtureRequest) -> Stage:
    row: dict[str, Any] = {}
    request.node.user_properties.append(("client", row))
    return Stage(*fleet, tmp_path, row)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """client × dialect × task × outcome × requests at the neuron × what the second turn found in the cache."""
    rows = [
        {**value, "outcome": "ok" if report.passed else "FAILED"}
        for report in (*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed"))
        if report.when == "call"
        for name, value in report.user_properties
        if name == "client"
    ]
    if not rows:
        return
    lines = [COLUMNS, *(tuple(str(row.get(column, "")) for column in COLUMNS) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    terminalreporter.section("clients")
    for line in lines:
        terminalreporter.write_line(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )
