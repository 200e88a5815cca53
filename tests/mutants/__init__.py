"""Seeded faults: each is put into a copy of the package, and a test must catch it.

A module of this package with a list `FAULTS` is a room of faults; there is no other list of them.
"""
