"""The scheduler's end of the control channel: who the worker is, whether it lives, and what it reported."""
