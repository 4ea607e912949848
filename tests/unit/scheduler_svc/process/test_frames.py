"""What the scheduler and its child for chat templates tell each other survives the way, or is refused."""

import pytest

from scheduler_svc.process import frames
from scheduler_svc.process.frames import HEAD_BYTES, MAX_FRAME_BYTES, FrameRefused


@pytest.mark.parametrize("text", ["", "hi\n\x00", "ü🙂", "half of a character: \ud83d"])
def test_every_text_comes_out_as_it_went_in(text: str) -> None:
    sent = frames.written({"text": text})
    assert frames.body_bytes(sent[:HEAD_BYTES]) == len(sent) - HEAD_BYTES
    assert frames.read(sent[HEAD_BYTES:]) == {"text": text}


@pytest.mark.parametrize("body", [b"", b"\xff", b"[1]", b"{", b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(FrameRefused):
        frames.read(body)


def test_a_frame_that_is_too_long_is_refused_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FrameRefused, match="allowed are at most"):
        frames.body_bytes((MAX_FRAME_BYTES + 1).to_bytes(HEAD_BYTES, "big"))
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 10)
    with pytest.raises(FrameRefused, match="allowed are at most 10"):
        frames.written({"text": "longer than ten"})
