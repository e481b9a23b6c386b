"""What the neuron thinks: preflight, fit, admission, lifecycle. Pure: no I/O, no clock."""
