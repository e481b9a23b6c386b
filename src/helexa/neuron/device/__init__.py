"""Device workers: a process per device that owns it, and the daemon's handle on each."""
