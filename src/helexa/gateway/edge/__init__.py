"""The front door: HTTP in, the dialects' own shapes out."""
