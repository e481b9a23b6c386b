"""The neuron's HTTP side: the control contract, and the relay to whatever serves a model."""

from helexa.neuron.api.api import Api, Node

__all__ = ["Api", "Node"]
