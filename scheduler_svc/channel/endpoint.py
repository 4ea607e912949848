"""Decides whether the control channel may be bound where it was told to, and makes the place ready.

Two places are safe: a Unix socket in a directory that no other user can write, and TCP with CURVE keys on both sides
and an allow-list of workers. Everything else is refused with the reason. Knows nothing of what travels on the channel.
"""

import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

import zmq.auth

MAX_IPC_PATH_BYTES = 107


class EndpointRefused(Exception):
    """The control endpoint can't be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class CurveServer:
    """The scheduler's side of CURVE, in files as `zmq.auth.create_certificates` writes them.

    Attributes:
        secret_key_file: The scheduler's own key pair (`*.key_secret`).
        worker_keys: A public key file (`*.key`), or a directory of them: the workers that may connect.
    """

    secret_key_file: Path
    worker_keys: Path


@dataclass(frozen=True, slots=True)
class CurveKeys:
    """Keys in Z85: the own pair, and the public keys of the workers that may connect."""

    public: bytes
    secret: bytes
    allowed: frozenset[bytes]


def prepare_endpoint(endpoint: str, curve: CurveServer | None) -> CurveKeys | None:
    """Makes `endpoint` ready and returns the keys to bind it with; raises EndpointRefused if it is not safe.

    Creates the directory of an ipc socket (0700) when it is missing, and removes a socket that nobody listens on.
    """
    if endpoint.startswith("ipc://"):
        _prepare_ipc(endpoint.removeprefix("ipc://"))
    elif endpoint.startswith("tcp://"):
        if curve is None:
            raise EndpointRefused(
                f"control endpoint {endpoint}: tcp is allowed with CURVE keys only; give the scheduler's secret key "
                "and the workers' public keys, or use ipc://PATH"
            )
    else:
        raise EndpointRefused(f"control endpoint {endpoint!r}: allowed are ipc://PATH and tcp://ADDRESS:PORT")
    return None if curve is None else _load_keys(curve)


def _prepare_ipc(name: str) -> None:
    if not name or name[0] in "@*":
        raise EndpointRefused(
            f"control endpoint ipc://{name}: allowed is the path of a file; other names have no owner"
        )
    path = Path(name)
    if len(os.fsencode(path)) > MAX_IPC_PATH_BYTES:
        raise EndpointRefused(f"control endpoint ipc://{name}: the path is longer than {MAX_IPC_PATH_BYTES} bytes")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_directory(path.parent)
        _remove_stale_socket(path)
    except OSError as error:
        raise EndpointRefused(f"control endpoint ipc://{name}: {error.strerror or error}: {error.filename}") from error


def _check_directory(directory: Path) -> None:
    facts = directory.stat()
    if facts.st_uid not in (os.geteuid(), 0):
        raise EndpointRefused(
            f"control endpoint: {directory} belongs to user {facts.st_uid}, who could replace the socket"
        )
    if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise EndpointRefused(
            f"control endpoint: other users can write {directory} (mode {stat.S_IMODE(facts.st_mode):04o}); use a "
            "directory of mode 0700"
        )


def _remove_stale_socket(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise EndpointRefused(f"control endpoint: {path} exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            return
        else:
            raise EndpointRefused(f"control endpoint: another process listens on {path}; end it or use another path")


def _load_keys(curve: CurveServer) -> CurveKeys:
    public, secret = _certificate(curve.secret_key_file)
    if secret is None:
        raise EndpointRefused(f"CURVE: {curve.secret_key_file} holds no secret key; give the *.key_secret file")
    directory = curve.worker_keys
    files = sorted(directory.glob("*.key")) if directory.is_dir() else [directory]
    if not files:
        raise EndpointRefused(f"CURVE: no *.key file in {directory}: no worker could connect")
    allowed = frozenset(_certificate(file)[0] for file in files)
    return CurveKeys(public, secret, allowed)


def _certificate(file: Path) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(file)
    except (OSError, ValueError) as error:
        raise EndpointRefused(f"CURVE: can't read a key from {file}: {error}") from error
