"""neuron, the daemon on each host."""
