"""Seeded faults: each is put into a copy of the package, and a test must catch it."""
