"""The one place that imports llama.cpp's binding; it ships no types, so it is Any to everybody else."""

from __future__ import annotations

import importlib
import os
from typing import Any

# When it aborts, llama.cpp calls a debugger for a backtrace: seconds, and lines that push out the one that says why.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")
# Threads of a step that wait for each other spin for up to ten milliseconds, a core taken from the one that they wait
# for as soon as anybody else computes: two busy processes beside it made llama.cpp four to six times slower. A few
# tenths of a millisecond cost little there, and outlast the moments that an answer's own way to its client takes.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

xl: Any = importlib.import_module("xllamacpp")
