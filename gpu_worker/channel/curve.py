"""Reads the worker's CURVE keys from the files that its settings name."""

import zmq.auth
from qllm.settings import SettingRefused

from gpu_worker.channel.link import CurveClient
from gpu_worker.settings import CurveFiles


def load_curve(files: CurveFiles | None) -> CurveClient | None:
    """Reads the worker's keys; raises SettingRefused when a file holds none."""
    if files is None:
        return None
    try:
        public, secret = zmq.auth.load_certificate(files.secret_key_file)
        server, _ = zmq.auth.load_certificate(files.server_key_file)
    except (OSError, ValueError) as error:
        raise SettingRefused(f"CURVE: can't read a key: {error}") from error
    if secret is None:
        raise SettingRefused(f"CURVE: {files.secret_key_file} holds no secret key; give the *.key_secret file")
    return CurveClient(public, secret, server)
