"""Owns the version of this distribution; what builds the wheel reads it here too."""

__version__ = "0.1.0"
