"""Ground floor: no domain knowledge."""
