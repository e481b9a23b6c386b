"""The neuron put together: configuration in, a running daemon out. The one room that knows every part."""

from helexa.neuron.app.neuron import Neuron
from helexa.neuron.app.run import main, run

__all__ = ["Neuron", "main", "run"]
