"""The OpenAI-compatible HTTP endpoint: JSON in, JSON or server-sent events out, around the same generations as gRPC.

Needs the extra `http`, so nothing outside may import it unless HTTP is asked for. Source: OpenAI API reference,
Completions and Chat; vLLM's OpenAI-compatible server for the fields that load generators add.
"""
