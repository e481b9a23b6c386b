"""helexa: mismatched machines with GPUs behave as one endpoint."""

__version__ = "0.1.0"
