"""The programs' first lines."""

from __future__ import annotations

import subprocess
import sys

import pytest

INTERRUPTED_WHILE_IMPORTING = """
import signal, sys

class Interrupter:
    def find_spec(self, name, path, target=None):
        if name == "cyclopts":
            signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs the tests behind it has it ignored
sys.meta_path.insert(0, Interrupter())
from helexa.cli import entry
entry.{program}()
"""


@pytest.mark.parametrize("program", ["cortex", "neuron"])
def test_an_interrupt_during_the_imports_is_an_exit_status_and_no_traceback(program: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED_WHILE_IMPORTING.format(program=program)]
    done = subprocess.run(command, capture_output=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (130, b"")
