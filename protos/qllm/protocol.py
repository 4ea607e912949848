"""What both ends of the control channel agree on before the first message: a version, and how large things may be."""

PROTOCOL_VERSION = 7
"""Version of the messages in control.proto; the scheduler tells a worker of another one why it is not wanted."""

MAX_FRAME_BYTES = 64 << 20
"""Largest frame on the channel; only Hello, which carries the tokenizer, comes near it."""

MAX_TOKENIZER_BYTES = 256 << 20
"""Largest tokenizer.json; in Hello it may be compressed."""
