"""What the packages share: the wire format in `qllm.v1`, addresses, and how commands speak."""
