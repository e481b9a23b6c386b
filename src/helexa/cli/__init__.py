"""One command a file; each imports its wing inside itself."""
