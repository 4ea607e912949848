"""Durable jobs behind both public APIs: what may be in one, what is said when there is none, and how an item is run."""
