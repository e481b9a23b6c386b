"""A daemon may open as many connections as its system allows."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIMITED = """
import resource
from helexa.base.descriptors import allow_many
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
allow_many()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], hard)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what macOS calls its hard limit is not one")
def test_the_soft_limit_becomes_the_hard_one() -> None:
    told = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, timeout=30, check=True)
    soft, hard = map(int, told.stdout.split())
    assert soft == (hard if 0 < hard < 1 << 20 else 1 << 20)
