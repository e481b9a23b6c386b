"""The `echo` engine: no weights, no dependency, deterministic, and scriptable down to its failures."""

from helexa.neuron.engines.echo.engine import EchoEngine

__all__ = ["EchoEngine"]
