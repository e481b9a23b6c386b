"""The hot path's HTTP/1.1: server, upstream client, bridge to ASGI. See design.md."""
