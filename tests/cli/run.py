"""A command as a shell would run it, in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest


def run(main: Callable[[], None], *words: str) -> int:
    """Run `main` with these words; returns the exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["helexa", *words])
        try:
            main()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
