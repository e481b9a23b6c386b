"""Fakes with scripted timing and faults, for these tests and for the users' own."""
