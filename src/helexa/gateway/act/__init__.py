"""The hands: what the planner decided is done here, and what comes of it is told back as events."""
