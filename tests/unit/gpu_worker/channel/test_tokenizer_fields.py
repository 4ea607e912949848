"""A large tokenizer travels compressed, and one that cannot travel is refused with both sizes."""

import random

import pytest
from qllm.protocol import MAX_FRAME_BYTES
from qllm.v1 import control_pb2

from gpu_worker.channel import tokenizer_fields as fields
from gpu_worker.channel.tokenizer_fields import tokenizer_fields
from gpu_worker.errors import ModelRefused


def test_a_small_tokenizer_goes_as_it_is_and_a_large_one_compressed() -> None:
    assert tokenizer_fields(b"{}") == {"tokenizer_json": b"{}"}
    large = b'{"a": [' + b"1, " * (30 << 20) + b"1]}"
    model = control_pb2.WorkerModel(**tokenizer_fields(large))
    assert model.tokenizer_json == b""
    assert model.ByteSize() < MAX_FRAME_BYTES // 8 < len(large)


def test_a_tokenizer_that_does_not_fit_is_refused_with_what_it_has_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noise = random.Random(1).randbytes(2 << 20)
    monkeypatch.setattr(fields, "_MAX_SENT_BYTES", 1 << 20)
    with pytest.raises(ModelRefused, match=rf"got {2 << 20} bytes, \d+ when compressed; allowed are {1 << 20}, which"):
        tokenizer_fields(noise)
    monkeypatch.setattr(fields, "MAX_TOKENIZER_BYTES", 1 << 10)
    with pytest.raises(ModelRefused, match=rf"got {2 << 20} bytes, allowed are {1 << 10}"):
        tokenizer_fields(noise)
