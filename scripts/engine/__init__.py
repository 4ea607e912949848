"""Measures the engine and the core by themselves, without a service."""
