"""Writes a tokenizer into the fields of Hello, compressed where it is large, and refuses one too large for a frame."""

import zlib

from qllm.protocol import MAX_FRAME_BYTES, MAX_TOKENIZER_BYTES

from gpu_worker.errors import ModelRefused

_LARGE_BYTES = 1 << 20
_MAX_SENT_BYTES = MAX_FRAME_BYTES - (8 << 20)  # beside it a template, names and timings
_FASTEST = 1


def tokenizer_fields(tokenizer_json: bytes) -> dict[str, bytes]:
    """Returns the fields of WorkerModel that carry a tokenizer.

    Raises:
        ModelRefused: It is too large; the message says both sizes.
    """
    num_bytes = len(tokenizer_json)
    if num_bytes > MAX_TOKENIZER_BYTES:
        raise ModelRefused(f"tokenizer.json: got {num_bytes} bytes, allowed are {MAX_TOKENIZER_BYTES}")
    if num_bytes <= _LARGE_BYTES:
        return {"tokenizer_json": tokenizer_json}
    compressed = zlib.compress(tokenizer_json, _FASTEST)
    if len(compressed) > _MAX_SENT_BYTES:
        raise ModelRefused(
            f"tokenizer.json: got {num_bytes} bytes, {len(compressed)} when compressed; allowed are {_MAX_SENT_BYTES}, "
            "which fit into a frame of the control channel"
        )
    return {"tokenizer_json_zlib": compressed}
