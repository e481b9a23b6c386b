"""How a worker's allocator is set up: in a process of its own, for what is set there stays set."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAPS = """
import ctypes, threading
from helexa.base.resident import share_one_heap
if {shared}:
    share_one_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
ready = threading.Barrier(8)
def take() -> None:
    ready.wait()
    for _ in range(1000):
        libc.malloc(10_000)
threads = [threading.Thread(target=take) for _ in range(8)]
for each in threads: each.start()
for each in threads: each.join()
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


def heaps(*, shared: bool) -> int:
    """Into how many heaps glibc put what eight threads allocated at once."""
    code = HEAPS.format(shared=shared)
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    return told.stdout.count("<heap nr=")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_threads_of_a_worker_share_one_heap() -> None:
    assert heaps(shared=True) == 1 < heaps(shared=False)
