"""Measures the service around a model: its streams, its front ends and its control channel."""
