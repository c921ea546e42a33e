"""Moot keeps documents alive."""

__version__ = "0.1.0"
