"""Files of API keys for tests, and gates that read them."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from scheduler_svc.security.gate import Gate
from scheduler_svc.security.key_file import KeyFile


def entry(
    tenant: str,
    key: str,
    permissions: Iterable[str] = ("generate",),
    classes: Iterable[str] = ("ls", "be"),
    **limits: int,
) -> str:
    """Returns a key's entry; the key is given as it is presented."""
    lines = [
        "[[keys]]",
        f'tenant = "{tenant}"',
        f'sha256 = "{hashlib.sha256(key.encode()).hexdigest()}"',
        f"permissions = {[*permissions]}",
        f"classes = {[*classes]}",
        *(f"{name} = {limit}" for name, limit in limits.items()),
    ]
    return "\n".join(lines) + "\n"


def write_keys(path: Path, *entries: str) -> Path:
    """Writes a file of keys that only its owner can read."""
    path.touch(0o600)
    path.write_text("\n".join(entries))
    return path


class Clock:
    """A time that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def gate_of(path: Path, *entries: str, clock: Clock | None = None) -> Gate:
    """Returns a gate that knows these keys; without a clock time stands still."""
    return Gate(KeyFile(write_keys(path, *entries)), clock or Clock())


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    """Returns the metadata of a call that presents a key."""
    return (("authorization", f"Bearer {key}"),)
