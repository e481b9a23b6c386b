"""The one place that imports llama.cpp's binding; it ships no types, so it is Any to everybody else."""

from __future__ import annotations

import importlib
import os
from typing import Any

# When it aborts, llama.cpp calls a debugger for a backtrace: seconds, and lines that push out the one that says why.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")

xl: Any = importlib.import_module("xllamacpp")
