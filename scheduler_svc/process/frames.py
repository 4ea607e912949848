"""Writes what the scheduler and a child process tell each other: length, then an object as JSON.

Knows no socket.
"""

import json
from typing import Any, TypeAlias

Frame: TypeAlias = dict[str, Any]

HEAD_BYTES = 4
# The longest text that is rendered, where JSON takes six bytes for each character.
MAX_FRAME_BYTES = 32 << 20


class FrameRefused(Exception):
    """What came is no frame."""


def written(frame: Frame) -> bytes:
    """Returns a frame as bytes; raises FrameRefused if it is too long."""
    # What a client wrote may hold halves of characters.
    body = json.dumps(frame, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")
    if len(body) > MAX_FRAME_BYTES:
        raise FrameRefused(f"a frame of {len(body)} bytes, allowed are at most {MAX_FRAME_BYTES}")
    return len(body).to_bytes(HEAD_BYTES, "big") + body


def body_bytes(head: bytes | bytearray) -> int:
    """Returns the length that a frame's head tells; raises FrameRefused if it is too long."""
    num_bytes = int.from_bytes(head, "big")
    if num_bytes > MAX_FRAME_BYTES:
        raise FrameRefused(f"a frame of {num_bytes} bytes, allowed are at most {MAX_FRAME_BYTES}")
    return num_bytes


def read(body: bytes) -> Frame:
    """Returns the frame of a body; raises FrameRefused if it is none."""
    try:
        frame = json.loads(body.decode(errors="surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise FrameRefused(f"a body that is no JSON: {type(error).__name__}") from error
    if not isinstance(frame, dict):
        raise FrameRefused(f"a body that is no object but a {type(frame).__name__}")
    return frame
