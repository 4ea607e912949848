"""Bytes that are no message are refused with what is wrong with them, whatever they are."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qllm.v1 import inference_pb2 as pb

from scheduler_svc.api.grpc.malformed import MalformedRequest, decode
from tests.support.service.bad_input_cases import delimited

REQUEST = pb.GenerateRequest(
    request_id="id",
    chat=pb.ChatPrompt(messages=[{"role": "user", "content": "naïve"}]),
    stop=pb.StopConditions(stop_strings=["é", "日本"], stop_token_ids=[1, 300]),
)


def refused(raw: bytes) -> str:
    decoded = decode(pb.GenerateRequest, raw)
    assert isinstance(decoded, MalformedRequest)
    return str(decoded.error)


def test_good_bytes_are_the_message() -> None:
    assert decode(pb.GenerateRequest, REQUEST.SerializeToString()) == REQUEST


@settings(deadline=None)
@given(raw=st.binary(max_size=200))
def test_no_bytes_make_it_fail(raw: bytes) -> None:
    assert isinstance(decode(pb.GenerateRequest, raw), pb.GenerateRequest | MalformedRequest)


@settings(deadline=None)
@given(at=st.integers(0, REQUEST.ByteSize() - 1), value=st.integers(0, 255))
def test_no_changed_byte_makes_it_fail(at: int, value: int) -> None:
    raw = bytearray(REQUEST.SerializeToString())
    raw[at] = value
    assert isinstance(decode(pb.GenerateRequest, bytes(raw)), pb.GenerateRequest | MalformedRequest)


def test_broken_string_is_named_with_its_path() -> None:
    broken = delimited(4, delimited(1, b"\x0a\x01a") + delimited(1, delimited(2, b"ok\xff")))
    assert refused(broken) == r"chat.messages[1].content: got the bytes 6f 6b ff, allowed is valid UTF-8"


def test_long_broken_string_is_shown_in_part() -> None:
    assert len(refused(delimited(3, b"\xff" * 10_000))) < 120


@pytest.mark.parametrize("depth", [50, 5000])
def test_deep_nesting_is_refused_or_ignored(depth: int) -> None:
    raw = b""
    for _ in range(depth):
        raw = delimited(15, raw)
    assert isinstance(decode(pb.GenerateRequest, b"\x7b" * depth + raw), MalformedRequest)
