"""What the packages share: the wire format in `qllm.v1`, addresses, how commands speak, and a log that never fails."""
