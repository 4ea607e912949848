"""Asks a server and notes what comes back: workloads, prompts, targets, and the records of requests."""
