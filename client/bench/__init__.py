"""Measures any LLM server under a mixed load, and shows what came of it: `qllm-client bench`."""
