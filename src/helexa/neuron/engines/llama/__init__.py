"""The `llama` engine: GGUF through xllamacpp, that is llama.cpp's own server engine inside the worker."""

from helexa.neuron.engines.llama.engine import LlamaEngine

__all__ = ["LlamaEngine"]
