"""Distributed number crunching with Python."""

__version__ = "0.2.0"
