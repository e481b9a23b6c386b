"""cortex, the gateway: the fleet's front door."""
