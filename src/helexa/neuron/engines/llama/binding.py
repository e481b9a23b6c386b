"""The one place that imports llama.cpp's binding; it ships no types, so it is Any to everybody else."""

from __future__ import annotations

import importlib
from typing import Any

xl: Any = importlib.import_module("xllamacpp")
