"""What this host is made of: one file per vendor, a parser of recorded text and the few lines that fetch it."""
