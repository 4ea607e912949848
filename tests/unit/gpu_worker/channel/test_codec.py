"""What either side of the control channel writes, the other reads as it was meant."""

import math
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qllm.settings import SettingRefused
from qllm.v1 import control_pb2

from gpu_worker.channel import codec
from gpu_worker.channel.codec import decode_command, encode_hello, encode_outcome, encode_refusal
from gpu_worker.contract import commands as ours
from gpu_worker.contract.introduction import Hello, SamplingDefaults, WorkerModel
from gpu_worker.contract.results import (
    AdvanceOutcome,
    BatchError,
    Candidate,
    FinishReason,
    SampledToken,
    ScoredTokens,
    SequenceError,
    WorkTiming,
)
from gpu_worker.cursor import Cursor, Stage
from gpu_worker.errors import CommandRefused
from scheduler_svc.channel.codec import decode_calibration, decode_model, decode_step_result, encode_command
from scheduler_svc.core.state import commands as theirs
from scheduler_svc.core.state.cursor import Cursor as TheirCursor
from scheduler_svc.core.state.cursor import PreemptAt
from scheduler_svc.core.state.cursor import Stage as TheirStage
from scheduler_svc.core.state.ids import BatchId, BlockId, CommandId, SeqId
from scheduler_svc.core.state.sequence import RequestClass, SamplingParams, StopConditions

ITEMS = (
    theirs.BatchItem(SeqId(1), 2, (5, 6), 0, (BlockId(3), BlockId(1)), samples=False),
    theirs.BatchItem(SeqId(2), 1, (), 9, (), samples=True),
    theirs.BatchItem(SeqId(3), 1, (5,), 9, (), samples=True, also_sampled_ids=(SeqId(4), SeqId(5))),
    theirs.BatchItem(SeqId(3), 2, (5, 6), 0, (), False, (6, 7)),
)
UNTIL = TheirCursor(2, TheirStage.EXPERTS, 4)
MODEL = WorkerModel(
    name="mini",
    other_names=("small",),
    family="mixtral",
    experts_by_layer=(0, 8, 8),
    num_experts_per_token=2,
    vocab_size=100,
    eos_token_ids=(1, 2),
    max_model_len=64,
    block_size=16,
    num_blocks=8,
    num_host_blocks=4,
    dtype="float32",
    quantization="none",
    device="cpu",
    tokenizer_json=b"{}",
    chat_template="{{ messages }}",
    special_tokens={"bos_token": "<s>"},
    sampling=SamplingDefaults(temperature=0.5, top_k=3),
    checkpoint_dtype="bfloat16",
    dtype_reason="measurement: bfloat16/float32=2.21",
)
TIMING = WorkTiming(*range(1, 11))
RULES: Any = {
    "repetition_penalty": 1.5,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "logit_bias": ((3, 1.5), (7, -100.0)),
    "allowed_token_ids": (3, 7),
    "bad_words": ((3,), (7, 3)),
    "num_top_logprobs": 5,
    "num_candidates": 6,
    "typical_p": 0.25,
}
SEEN = (1, 2), (2, 2)  # prompt and output


def step(command: theirs.Command) -> control_pb2.StepCommand:
    return control_pb2.ControlMessage.FromString(encode_command(7, command)).command


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (
            theirs.AddSequence(SeqId(1), SamplingParams(0.5, 3, 0.75, 0.25, 9), StopConditions(8, 2, (4, 5)), 3),
            ours.AddSequence(1, ours.Sampling(0.5, 3, 0.75, 0.25, 9), (4, 5), 8, 2, 3),
        ),
        (
            theirs.AddSequence(SeqId(1), SamplingParams(1.0, seed=9, **RULES), StopConditions(8), 2, (), *SEEN),
            ours.AddSequence(1, ours.Sampling(1.0, seed=9, **RULES), (), 8, 0, 2, (), *SEEN),
        ),
        (
            theirs.AddSequence(SeqId(1), SamplingParams(num_prompt_logprobs=4), StopConditions(0), 0),
            ours.AddSequence(1, ours.Sampling(1.0, num_prompt_alternatives=4), (), 0),
        ),
        (theirs.DropSequence(SeqId(1)), ours.DropSequence(1)),
        (theirs.OffloadSequence(SeqId(1)), ours.OffloadSequence(1)),
        (theirs.RestoreSequence(SeqId(1), (BlockId(4), BlockId(2))), ours.RestoreSequence(1, (4, 2))),
        (
            theirs.StartBatch(BatchId(6), RequestClass.BEST_EFFORT, ITEMS),
            ours.StartBatch(
                6,
                [
                    ours.BatchItem(1, 2, (5, 6), 0, (3, 1), samples=False),
                    ours.BatchItem(2, 1, first_position=9),
                    ours.BatchItem(3, 1, (5,), 9, also_sampled_ids=(4, 5)),
                    ours.BatchItem(3, 2, (5, 6), 0, (), False, (6, 7)),
                ],
            ),
        ),
        (theirs.DropBatch(BatchId(6)), ours.DropBatch(6)),
        (theirs.CheckIntegrity(5), ours.CheckIntegrity(5)),
        (theirs.OffloadSequence(SeqId(1), theirs.Tier.DISK), ours.OffloadSequence(1, ours.Tier.DISK)),
        (theirs.RestoreSequence(SeqId(1), (BlockId(4),), 1), ours.RestoreSequence(1, (4,), 1)),
        (theirs.ForkSequence(SeqId(2), SeqId(1), (BlockId(4),)), ours.ForkSequence(2, 1, (4,))),
        *(
            (
                theirs.Advance(CommandId(3), (BatchId(6), BatchId(7)), UNTIL, sent_at),
                ours.Advance(3, (6, 7), Cursor(2, Stage.EXPERTS, 4), read_at),
            )
            for sent_at, read_at in (
                (None, None),
                (PreemptAt.ITERATION, None),
                (PreemptAt.LAYER, ours.PreemptAt.LAYER),
                (PreemptAt.EXPERT, ours.PreemptAt.EXPERT),
            )
        ),
    ],
    ids=str,
)
def test_every_command_is_read_as_the_scheduler_sent_it(
    sent: theirs.Command, read: ours.Command | ours.Advance | ours.CheckIntegrity
) -> None:
    assert decode_command(step(sent)) == read


def test_a_command_of_no_known_kind_or_to_no_stage_is_refused() -> None:
    with pytest.raises(CommandRefused, match="command None is not known"):
        decode_command(control_pb2.StepCommand())
    advance = control_pb2.Advance(batch_ids=[9], until=control_pb2.Cursor(layer=1))
    with pytest.raises(CommandRefused, match=r"until.stage: got 0, allowed are \[1, 2\]"):
        decode_command(control_pb2.StepCommand(advance=advance))


def test_the_scheduler_reads_all_of_what_an_advance_did() -> None:
    outcome = AdvanceOutcome(
        Cursor(2, Stage.EXPERTS, 4),
        [
            SampledToken(1, 17, -0.5, None),
            SampledToken(2, 18, -0.25, FinishReason.STOP),
            SampledToken(3, 19, -0.5, None, candidates=(Candidate(19, -0.5, -0.75), Candidate(20, -1.5, -1.75))),
            SampledToken.undecided(4, ()),
        ],
        [BatchError(6, (3, 4), "RuntimeError: unlucky")],
        [SequenceError(5, "its logits are not finite")],
        TIMING,
        suspended_bytes=1234,
    )
    result = encode_outcome(3, outcome).step_result
    assert result.suspended_bytes == 1234
    result.duration_ns = 1
    read = decode_step_result(result, decode_model(encode_hello(Hello(MODEL, (), 1))))
    assert (read.command_id, read.reached) == (3, UNTIL)
    told = [(t.seq_id, t.token_id, t.logprob) for t in read.tokens]
    assert told == [(1, 17, -0.5), (2, 18, -0.25), (3, 19, -0.5), (4, 0, -math.inf)]
    assert [t.finish_reason and t.finish_reason.name for t in read.tokens] == [None, "STOP", None, None]
    assert [t.candidates for t in read.tokens] == [None, None, ((19, -0.5, -0.75), (20, -1.5, -1.75)), ()]
    assert [(e.batch_id, e.seq_ids, e.message) for e in read.batch_errors] == [(6, (3, 4), "RuntimeError: unlucky")]
    assert [(e.seq_id, e.message) for e in read.sequence_errors] == [(5, "its logits are not finite")]
    assert asdict(read.timing) == asdict(TIMING)


def test_a_refusal_names_the_advance_and_the_reason() -> None:
    error = encode_refusal(3, "batch 9 is not known").command_error
    assert (error.command_id, error.message) == (3, "batch 9 is not known")


def test_the_scheduler_reads_who_introduces_itself() -> None:
    hello = encode_hello(Hello(MODEL, (TIMING, WorkTiming()), pid=77))
    model = decode_model(hello)
    assert (model.core.experts_by_layer, model.core.num_layers) == (MODEL.experts_by_layer, MODEL.num_layers)
    for name in ("num_experts_per_token", "max_model_len", "block_size", "num_blocks", "num_host_blocks"):
        assert getattr(model.core, name) == getattr(MODEL, name)
    for name in ("name", "other_names", "family", "vocab_size", "eos_token_ids", "dtype", "quantization", "device"):
        assert getattr(model, name) == getattr(MODEL, name)
    assert (model.checkpoint_dtype, model.dtype_reason) == (MODEL.checkpoint_dtype, MODEL.dtype_reason)
    assert (model.tokenizer_json, model.chat_template) == (MODEL.tokenizer_json, MODEL.chat_template)
    assert model.special_tokens == MODEL.special_tokens
    assert (model.sampling.temperature, model.sampling.top_k) == (0.5, 3)
    assert hello.pid == 77
    assert [asdict(timing) for timing in decode_calibration(hello)] == [asdict(TIMING), asdict(WorkTiming())]


def test_an_introduction_that_no_frame_holds_is_refused_with_both_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_FRAME_BYTES", 100)
    with pytest.raises(SettingRefused, match=r"--model: got \d+ bytes of tokenizer, .* allowed are 100"):
        encode_hello(Hello(MODEL, (), 1))


IDS = st.integers(0, 2**64 - 1)
COUNTS = st.integers(0, 2**32 - 1)
TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=4).map(tuple)
BLOCKS = st.lists(COUNTS, max_size=4).map(tuple)
SHARES = st.floats(0, 1)
BIASES = st.dictionaries(st.integers(0, 2**31 - 1), SHARES, max_size=3).map(
    lambda biases: tuple(sorted(biases.items()))
)
SAMPLINGS = st.builds(
    ours.Sampling,
    SHARES,
    st.integers(0, 100),
    SHARES,
    SHARES,
    st.integers(-(2**63), 2**63 - 1),
    SHARES,
    SHARES,
    SHARES,
    BIASES,
    TOKENS,
    st.lists(TOKENS, max_size=2).map(tuple),
    SHARES,
    COUNTS,
    COUNTS,
    st.text(max_size=5),
    COUNTS,
)
OTHERS = st.lists(IDS, max_size=3).map(tuple)
OUR_ITEMS = st.builds(ours.BatchItem, IDS, COUNTS, TOKENS, COUNTS, BLOCKS, st.booleans(), TOKENS, OTHERS)
CURSORS = st.builds(Cursor, COUNTS, st.sampled_from(Stage), COUNTS)
OUR_COMMANDS = st.one_of(
    st.builds(ours.AddSequence, IDS, SAMPLINGS, TOKENS, COUNTS, COUNTS, COUNTS, BLOCKS, TOKENS, TOKENS),
    st.builds(ours.ForkSequence, IDS, IDS, BLOCKS),
    st.builds(ours.DropSequence, IDS),
    st.builds(ours.OffloadSequence, IDS, st.sampled_from(ours.Tier)),
    st.builds(ours.RestoreSequence, IDS, BLOCKS, COUNTS),
    st.builds(ours.StartBatch, IDS, st.lists(OUR_ITEMS, max_size=3)),
    st.builds(ours.DropBatch, IDS),
    st.builds(
        ours.Advance, IDS, st.lists(IDS, max_size=3).map(tuple), CURSORS, st.none() | st.sampled_from(ours.PreemptAt)
    ),
)


@given(OUR_COMMANDS)
def test_a_rank_hands_every_command_on_as_it_was_given(command: ours.Command | ours.Advance) -> None:
    assert codec.decode_frame(codec.encode_command(command)) == command


def test_scores_of_a_prompt_arrive_as_they_were_found() -> None:
    columns = (3, [7, 8], [-0.5, -2.0], [1, 9], 2, [7, 1, 2, 3], [-0.5, -1.0, -1.5, -2.0])
    report = encode_outcome(4, AdvanceOutcome(Cursor(3), scored=[ScoredTokens(6, *columns)]))
    model = decode_model(encode_hello(Hello(MODEL, (), 1)))
    [scored] = decode_step_result(report.step_result, model).scored
    assert (scored.seq_id, tuple(asdict(scored.scores).values())) == (6, columns)
