"""The `openvino` engine: OpenVINO GenAI's continuous batching over GGUF files, on CPUs."""

from helexa.neuron.engines.openvino.engine import OpenVinoEngine

__all__ = ["OpenVinoEngine"]
