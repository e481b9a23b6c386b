"""The only way in to OpenVINO: its types say little, so everything here is Any and is checked where it is used."""

from __future__ import annotations

from typing import Any

import numpy
import openvino
import openvino_genai

og: Any = openvino_genai


def tensor(tokens: list[int]) -> Any:
    """Token ids as the pipeline takes them, shape [1, n]."""
    return openvino.Tensor(numpy.array([tokens], dtype=numpy.int64))
