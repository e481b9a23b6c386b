"""helexa-acp, the coding agent; not built yet."""
