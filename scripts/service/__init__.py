"""Measures the service around a model: its streams and its front ends."""
