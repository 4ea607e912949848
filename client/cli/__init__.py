"""The commands of `qllm-client`."""
