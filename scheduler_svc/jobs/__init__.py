"""Durable best-effort jobs: accepted with a commit, run whenever there is room, each item with one result."""
