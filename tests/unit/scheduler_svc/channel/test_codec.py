"""Frames of the control channel: every command arrives as it was meant, and no report can break the scheduler."""

import math
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qllm.protocol import PROTOCOL_VERSION
from qllm.v1 import control_pb2, inference_pb2

from scheduler_svc.channel import codec
from scheduler_svc.channel.codec import ProtocolError
from scheduler_svc.core.state import commands
from scheduler_svc.core.state.cursor import Cursor, Stage
from scheduler_svc.core.state.ids import BatchId, BlockId, CommandId, SeqId
from scheduler_svc.core.state.results import SequenceError, TokenLogprob
from scheduler_svc.core.state.sequence import FinishReason, RequestClass, SamplingParams, Sequence, StopConditions
from scheduler_svc.generation import SamplingDefaults, ServedModel
from tests.support.channel.fake_worker import hello

EPOCH = 2**64 - 1


def decoded(command: commands.Command) -> control_pb2.StepCommand:
    message = control_pb2.ControlMessage.FromString(codec.encode_command(EPOCH, command))
    assert message.worker_epoch == EPOCH
    return message.command


def model() -> ServedModel:
    return codec.decode_model(hello())


def result(**fields: object) -> control_pb2.StepResult:
    reached = control_pb2.Cursor(layer=1, stage=control_pb2.STAGE_EXPERTS, expert=2)
    values = {"command_id": 1, "reached": reached, "duration_ns": 5, **fields}
    return control_pb2.StepResult(**values)  # type: ignore[arg-type]


def test_add_sequence_carries_every_field_of_sampling_and_stop() -> None:
    sampling = SamplingParams(temperature=0.0, top_k=5, top_p=0.5, min_p=0.25, seed=-3)
    stop = StopConditions(max_tokens=9, min_tokens=2, stop_token_ids=(4, 5))
    add = decoded(commands.AddSequence(SeqId(2**63), sampling, stop, 7)).add_sequence
    assert (add.seq_id, add.max_tokens, add.min_tokens, add.num_output_tokens) == (2**63, 9, 2, 7)
    assert list(add.stop_token_ids) == [4, 5]
    fields = ("temperature", "top_k", "top_p", "min_p", "seed")
    assert [getattr(add.sampling, field) for field in fields] == [0.0, 5, 0.5, 0.25, -3]
    assert all(add.sampling.HasField(field) for field in fields)  # type: ignore[arg-type]


def test_add_sequence_tells_what_the_sequence_had_where_its_choices_look_back() -> None:
    def added(**fields: object) -> commands.AddSequence:
        sampling = SamplingParams(**fields)  # type: ignore[arg-type]
        sequence = Sequence(SeqId(1), RequestClass.BEST_EFFORT, (7, 5, 7), sampling, StopConditions(9), 0.0, [3, 3])
        return commands.AddSequence.of(sequence)

    assert (added().num_output_tokens, added().prompt_token_ids, added().output_token_ids) == (2, (), ())
    penalized = added(repetition_penalty=1.5)
    assert (penalized.prompt_token_ids, penalized.output_token_ids) == ((5, 7), (3, 3))
    for rule in ({"presence_penalty": 0.5}, {"frequency_penalty": 0.5}, {"bad_words": ((1, 2),)}):
        assert (added(**rule).prompt_token_ids, added(**rule).output_token_ids) == ((), (3, 3))
    assert added(bad_words=((1,),)).output_token_ids == ()


def test_a_sequence_that_is_only_kept_brings_no_rules_along() -> None:
    sampling = SamplingParams(repetition_penalty=1.5, grammar="start: x")
    sequence = Sequence(SeqId(1), RequestClass.BEST_EFFORT, (7, 5), sampling, StopConditions(9), 0.0, [3, 3])
    kept = commands.AddSequence.kept(sequence, (BlockId(4),))
    assert (kept.num_output_tokens, kept.shared_block_ids) == (2, (BlockId(4),))
    assert (kept.prompt_token_ids, kept.output_token_ids, kept.sampling.grammar) == ((), (), "")


def test_start_batch_carries_its_items() -> None:
    item = commands.BatchItem(SeqId(1), 2, (7, 8), 16, (BlockId(0), BlockId(3)), samples=True)
    start = decoded(commands.StartBatch(BatchId(4), RequestClass.BEST_EFFORT, (item,))).start_batch
    assert (start.batch_id, start.request_class) == (4, inference_pb2.REQUEST_CLASS_BEST_EFFORT)
    assert start.items[0] == control_pb2.BatchItem(
        seq_id=1, num_tokens=2, token_ids=[7, 8], first_position=16, new_block_ids=[0, 3], samples=True
    )


@pytest.mark.parametrize("until", [Cursor(0), Cursor(1, Stage.EXPERTS, 3), Cursor(2)])
def test_advance_carries_its_cursor(until: Cursor) -> None:
    advance = decoded(commands.Advance(CommandId(9), (BatchId(1), BatchId(2)), until)).advance
    assert (advance.command_id, list(advance.batch_ids)) == (9, [1, 2])
    assert (advance.until.layer, advance.until.stage, advance.until.expert) == tuple(until)


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (commands.DropSequence(SeqId(1)), "drop_sequence"),
        (commands.OffloadSequence(SeqId(1)), "offload_sequence"),
        (commands.RestoreSequence(SeqId(1), (BlockId(0),)), "restore_sequence"),
        (commands.DropBatch(BatchId(1)), "drop_batch"),
    ],
)
def test_small_commands_arrive_as_their_kind(command: commands.Command, kind: str) -> None:
    assert decoded(command).WhichOneof("command") == kind


def test_hello_becomes_the_served_model() -> None:
    served = model()
    assert served.core.experts_by_layer == (0, 4)
    assert (served.vocab_size, served.eos_token_ids, served.special_tokens) == (100, (1,), {"bos_token": "<s>"})
    assert codec.decode_calibration(hello())[0].expert_ns == 5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_layers", 0),
        ("num_layers", 3),
        ("num_layers", 2**32 - 1),
        ("num_experts_per_token", 0),
        ("num_experts_per_token", 5),
        ("vocab_size", 0),
        ("vocab_size", 2**32 - 1),
        ("max_model_len", 0),
        ("block_size", 0),
        ("block_size", 1 << 20),
        ("num_blocks", 0),
        ("num_blocks", 2**32 - 1),
        ("num_host_blocks", 2**32 - 1),
        ("name", ""),
    ],
)
def test_hello_that_makes_no_sense_is_refused_with_the_field(field: str, value: object) -> None:
    greeting = hello()
    setattr(greeting.model, field, value)
    with pytest.raises(ProtocolError, match=r"experts_by_layer" if value == 3 else field):
        codec.decode_model(greeting)


def test_hello_without_a_model_is_refused() -> None:
    with pytest.raises(ProtocolError, match="missing"):
        codec.decode_model(control_pb2.Hello(protocol_version=PROTOCOL_VERSION))


def test_hello_tells_how_the_models_makers_sample() -> None:
    assert model().sampling == SamplingDefaults()
    greeting = hello()
    greeting.model.default_sampling.temperature = 0.6
    greeting.model.default_sampling.top_k = 20
    assert codec.decode_model(greeting).sampling == SamplingDefaults(temperature=0.6, top_k=20)


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", float("nan")), ("top_k", 101), ("top_p", 0.0), ("min_p", 2.0), ("repetition_penalty", 0.0)],
)
def test_hello_with_a_default_that_no_request_may_ask_for_is_refused(field: str, value: float) -> None:
    greeting = hello()
    setattr(greeting.model.default_sampling, field, value)
    with pytest.raises(ProtocolError, match=field):
        codec.decode_model(greeting)


def test_hello_with_a_negative_end_token_is_refused() -> None:
    greeting = hello()
    greeting.model.eos_token_ids[:] = [-1]
    with pytest.raises(ProtocolError, match="eos_token_ids"):
        codec.decode_model(greeting)


def test_calibration_with_an_absurd_time_is_refused() -> None:
    greeting = hello()
    greeting.calibration[0].expert_ns = 2**64 - 1
    with pytest.raises(ProtocolError, match="expert_ns"):
        codec.decode_calibration(greeting)


def test_step_result_carries_everything() -> None:
    message = result(idle_ns=3)
    message.tokens.add(seq_id=1, token_id=99, logprob=-0.5, finish_reason=inference_pb2.FINISH_REASON_LENGTH)
    message.tokens.add(seq_id=2, token_id=0, logprob=0.0).top.tokens.add(token_id=5, logprob=-1.0)
    message.batch_errors.add(batch_id=6, seq_ids=[7, 8], message="why")
    message.sequence_errors.add(seq_id=9, message="its fault")
    message.timing.attention_pairs = 11
    step = codec.decode_step_result(message, model())
    assert (step.command_id, step.reached, step.duration_ns, step.idle_ns) == (1, Cursor(1, Stage.EXPERTS, 2), 5, 3)
    assert [token.finish_reason for token in step.tokens] == [FinishReason.LENGTH, None]
    assert [token.top for token in step.tokens] == [(), (TokenLogprob(5, -1.0),)]
    assert (step.batch_errors[0].seq_ids, step.timing.attention_pairs) == ((7, 8), 11)
    assert step.sequence_errors == (SequenceError(SeqId(9), "its fault"),)


def set_cursor(layer: int, stage: int, expert: int) -> Callable[[control_pb2.StepResult], None]:
    def change(message: control_pb2.StepResult) -> None:
        reached = message.reached
        reached.layer, reached.stage, reached.expert = layer, stage, expert  # type: ignore[assignment]

    return change


def add_token(**fields: object) -> Callable[[control_pb2.StepResult], None]:
    values = {"seq_id": 1, "token_id": 1, **fields}
    return lambda message: message.tokens.add(**values) and None  # type: ignore[arg-type,func-returns-value]


def add_scores(**fields: object) -> Callable[[control_pb2.StepResult], None]:
    good: dict[str, object] = {"token_ids": [1], "logprobs": [-1.0], "ranks": [1], "first_position": 1}
    return lambda message: message.scored.add(seq_id=1, tokens=good | fields) and None  # type: ignore[arg-type,func-returns-value]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (add_scores(first_position=0), "scored.first_position"),
        (add_scores(first_position=64), "scored.first_position"),
        (add_scores(token_ids=[100]), "scored.token_ids"),
        (add_scores(token_ids=[-1]), "scored.token_ids"),
        (add_scores(logprobs=[]), "scored.logprobs"),
        (add_scores(logprobs=[math.nan]), "scored.logprobs"),
        (add_scores(ranks=[0]), "scored.ranks"),
        (add_scores(ranks=[101]), "scored.ranks"),
        (add_scores(num_alternatives=1), "scored.alternative_ids"),
        (add_scores(num_alternatives=1, alternative_ids=[100], alternative_logprobs=[0]), "scored.alternative_ids"),
        (add_scores(num_alternatives=101), "scored.num_alternatives"),
        (lambda message: message.ClearField("reached"), "reached"),
        (lambda message: setattr(message, "command_id", 0), "command_id"),
        (lambda message: setattr(message, "duration_ns", 2**64 - 1), "duration_ns"),
        (lambda message: setattr(message.timing, "head_ns", 2**64 - 1), "head_ns"),
        (set_cursor(1, 0, 0), "stage"),
        (set_cursor(1, 9, 0), "stage"),
        (set_cursor(3, 1, 0), "layer"),
        (set_cursor(2, 2, 0), "layer"),
        (set_cursor(1, 1, 1), "expert"),
        (set_cursor(1, 2, 5), "expert"),
        (set_cursor(0, 2, 1), "expert"),
        (add_token(token_id=-1), "token_id"),
        (add_token(token_id=100), "token_id"),
        (add_token(logprob=math.nan), "logprob"),
        (add_token(top={"tokens": [{"token_id": 100}]}), "top.token_id"),
        (add_token(top={"tokens": [{"logprob": math.nan}]}), "top.logprob"),
        (add_token(candidates={"logprobs": [-1]}), "candidates.logprobs"),
        (add_token(candidates={"token_ids": [1], "logprobs": [-1]}), "candidates.scores"),
        (add_token(candidates={"token_ids": [100], "logprobs": [-1], "scores": [-1]}), "candidates.token_id"),
        (add_token(candidates={"token_ids": [-1], "logprobs": [-1], "scores": [-1]}), "candidates.token_id"),
        (add_token(candidates={"token_ids": [1], "logprobs": [-1], "scores": [-math.inf]}), "finite"),
        (add_token(candidates={"token_ids": [1], "logprobs": [math.nan], "scores": [-1]}), "finite"),
        (add_token(finish_reason=3), "finish_reason"),
        (add_token(finish_reason=77), "finish_reason"),
    ],
)
def test_step_result_that_contradicts_the_model_is_refused_with_the_field(
    change: Callable[[control_pb2.StepResult], None], field: str
) -> None:
    message = result()
    change(message)
    with pytest.raises(ProtocolError, match=field):
        codec.decode_step_result(message, model())


@given(st.binary(max_size=200))
def test_random_bytes_are_a_protocol_error_or_a_report(frame: bytes) -> None:
    try:
        message = codec.decode_report(frame)
    except ProtocolError:
        return
    assert message.worker_epoch
    assert message.report.WhichOneof("report")


@given(st.data())
def test_damaged_reports_never_raise_anything_but_a_protocol_error(data: st.DataObject) -> None:
    whole = control_pb2.WorkerReport(hello=hello()) if data.draw(st.booleans()) else None
    report = whole or control_pb2.WorkerReport(step_result=result(tokens=[control_pb2.SampledToken(seq_id=1)]))
    frame = bytearray(control_pb2.ControlMessage(worker_epoch=1, report=report).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        message = codec.decode_report(bytes(frame))
        codec.decode_step_result(message.report.step_result, model())
        codec.decode_model(message.report.hello)
        codec.decode_calibration(message.report.hello)
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    "message",
    [
        control_pb2.ControlMessage(worker_epoch=1),
        control_pb2.ControlMessage(worker_epoch=1, report=control_pb2.WorkerReport()),
        control_pb2.ControlMessage(worker_epoch=1, command=control_pb2.StepCommand()),
        control_pb2.ControlMessage(report=control_pb2.WorkerReport(heartbeat=control_pb2.Heartbeat())),
    ],
)
def test_message_that_is_no_report_is_refused(message: control_pb2.ControlMessage) -> None:
    with pytest.raises(ProtocolError):
        codec.decode_report(message.SerializeToString())


def test_a_compressed_tokenizer_is_unpacked() -> None:
    said = hello()
    said.model.ClearField("tokenizer_json")
    said.model.tokenizer_json_zlib = zlib.compress(b'{"large": true}')
    assert codec.decode_model(said).tokenizer_json == b'{"large": true}'


@pytest.mark.parametrize("spoil", [lambda packed: packed[:-9], lambda packed: b"no zlib", lambda packed: packed])
def test_a_tokenizer_that_unpacks_to_too_much_or_not_at_all_is_refused(
    spoil: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "MAX_TOKENIZER_BYTES", 1 << 16)
    said = hello()
    said.model.tokenizer_json_zlib = spoil(zlib.compress(bytes(1 << 20)))
    with pytest.raises(ProtocolError, match="tokenizer_json_zlib"):
        codec.decode_model(said)


@pytest.mark.parametrize("token_id", [-1, 100, 99999])
def test_an_end_token_beyond_the_vocabulary_is_refused_by_its_field(token_id: int) -> None:
    said = hello()
    said.model.eos_token_ids.append(token_id)
    with pytest.raises(ProtocolError, match=f"model.eos_token_ids: got {token_id}, allowed is 0 to 99"):
        codec.decode_model(said)


def test_a_model_has_the_names_that_its_worker_gives_it() -> None:
    said = hello()
    said.model.other_names.extend(["org/fake", ""])
    assert codec.decode_model(said).names == ("fake", "org/fake")
