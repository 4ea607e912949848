"""The bench commands about memory: pressure, prefixes and sessions."""
