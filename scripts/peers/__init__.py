"""Measures QLLM beside what users can pick instead."""
