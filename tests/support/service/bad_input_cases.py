"""A table of bad inputs, and of odd ones that are allowed: what is sent, and what the service must answer.

Bytes, so that messages can be sent that no client library would build. Used against the servicers alone and against a
whole running service.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import grpc
from qllm.v1 import admin_pb2
from qllm.v1 import inference_pb2 as pb

GENERATE = "/qllm.v1.InferenceService/Generate"
ABORT = "/qllm.v1.InferenceService/Abort"

OK = grpc.StatusCode.OK
INVALID = grpc.StatusCode.INVALID_ARGUMENT
INT32_MAX = 2**31 - 1

Facts = admin_pb2.ModelFacts
Builder = Callable[[Facts], bytes]


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        name: Unique.
        build: Makes the bytes of the message for a model.
        words: All must be in the status message: the field, what was given, what is allowed.
    """

    name: str
    build: Builder
    words: tuple[str, ...] = ()
    status: grpc.StatusCode = INVALID
    method: str = GENERATE


@dataclass
class Answer:
    """What came back."""

    status: grpc.StatusCode
    details: str
    responses: list[bytes] = field(default_factory=list)


async def send(channel: grpc.aio.Channel, method: str, raw: bytes, timeout_s: float = 60) -> Answer:
    """Sends bytes to a method and waits for the call's end."""
    call = channel.unary_stream(method)(raw, timeout=timeout_s)
    answer = Answer(OK, "")

    async def messages() -> AsyncIterator[bytes]:
        async for message in call:
            yield message

    try:
        answer.responses = [message async for message in messages()]
    except grpc.aio.AioRpcError as error:
        answer.status, answer.details = error.code(), error.details() or ""
    return answer


def context(facts: Facts) -> int:
    """The most tokens that one sequence can have."""
    return min(facts.max_model_len, facts.num_blocks * facts.block_size)


def delimited(field_number: int, payload: bytes) -> bytes:
    """A length-delimited field as it stands on the wire."""
    length, prefix = len(payload), bytearray()
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes([field_number << 3 | 2]) + bytes(prefix) + payload


def fixed(**fields: object) -> Builder:
    """A request with these fields, and a good prompt unless one is among them."""
    if not {"text", "chat", "token_ids"} & fields.keys():
        fields["text"] = "hello"
    request = pb.GenerateRequest(**fields)  # type: ignore[arg-type]
    if not request.stop.HasField("max_tokens"):
        request.stop.max_tokens = 2  # the request that is allowed after all ends soon
    return lambda _: request.SerializeToString()


def sampling(**fields: object) -> Builder:
    return fixed(sampling=pb.SamplingParams(**fields))  # type: ignore[arg-type]


def stop(**fields: object) -> Builder:
    return fixed(stop=pb.StopConditions(**fields))  # type: ignore[arg-type]


def targets(**fields: float) -> Builder:
    return fixed(targets=pb.LatencyTargets(**fields))


def session(**fields: object) -> Builder:
    return fixed(session=pb.SessionTurn(**fields))  # type: ignore[arg-type]


def chat(*messages: tuple[str, str]) -> Builder:
    turns = [pb.ChatMessage(role=role, content=content) for role, content in messages]
    return fixed(chat=pb.ChatPrompt(messages=turns))


def ids(*token_ids: int) -> Builder:
    return fixed(token_ids=pb.TokenIds(ids=token_ids))


def per_model(make: Callable[[Facts], pb.GenerateRequest]) -> Builder:
    return lambda facts: make(facts).SerializeToString()


def raw(payload: bytes) -> Builder:
    return lambda _: payload


GOOD_TEXT = delimited(3, b"hello")
NAN, INF = float("nan"), float("inf")

PROMPTS = (
    Case("no prompt", raw(b""), ("prompt", "text, chat, token_ids")),
    Case("empty text", fixed(text=""), ("text", "''", "not empty")),
    Case("prompt of the wrong wire type", raw(b"\x18\x05"), ("prompt", "text, chat, token_ids")),
    Case("text is not UTF-8", raw(delimited(3, b"ab\xff")), ("text", "61 62 ff", "UTF-8")),
    Case("text holds an encoded surrogate", raw(delimited(3, b"\xed\xa0\x80")), ("text", "UTF-8")),
    Case(
        "text too long in tokens",
        per_model(lambda f: pb.GenerateRequest(text="a " * (context(f) + 1))),
        ("text", "tokens", "allowed"),
    ),
    Case("text too long in bytes", fixed(text="a" * (3 << 20)), ("text", "3145728 bytes", "at most 2097152 bytes")),
    Case("empty chat", chat(), ("chat.messages", "0 messages", "1 to 4096")),
    Case("chat turn without role", chat(("user", "a"), ("", "b")), ("chat.messages[1].role", "''")),
    Case("chat role with a line break", chat(("us\ner", "a")), ("chat.messages[0].role", r"'us\ner'", "printable")),
    Case("chat role too long", chat(("r" * 65, "a")), ("chat.messages[0].role", "64")),
    Case("chat with too many turns", chat(*[("user", "a")] * 4097), ("chat.messages", "4097 messages", "4096")),
    Case(
        "chat content is not UTF-8",
        raw(delimited(4, delimited(1, delimited(1, b"user") + delimited(2, b"\xc3")))),
        ("chat.messages[0].content", "bytes c3", "UTF-8"),
    ),
    Case("chat too long in bytes", chat(("user", "a" * (3 << 20))), ("chat", "bytes", "at most 2097152")),
    Case(
        "chat too long in tokens",
        per_model(
            lambda f: pb.GenerateRequest(
                chat=pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content="a " * (context(f) + 1))])
            )
        ),
        ("chat", "tokens", "allowed"),
    ),
    Case("no token ids", ids(), ("token_ids.ids", "0 tokens")),
    Case("token id negative", ids(5, -1), ("token_ids.ids[1]", "-1", "[0, ")),
    Case(
        "token id just past the vocabulary",
        per_model(lambda f: pb.GenerateRequest(token_ids=pb.TokenIds(ids=[f.vocab_size]))),
        ("token_ids.ids[0]", "[0, "),
    ),
    Case("token id huge", ids(INT32_MAX), ("token_ids.ids[0]", str(INT32_MAX))),
    Case(
        "too many token ids",
        per_model(lambda f: pb.GenerateRequest(token_ids=pb.TokenIds(ids=[5] * context(f)))),
        ("token_ids.ids", "tokens"),
    ),
)

STOPS = (
    Case("max_tokens zero", stop(max_tokens=0), ("stop.max_tokens", "got 0", "1 to")),
    Case("max_tokens negative", stop(max_tokens=-1), ("stop.max_tokens", "got -1")),
    Case("max_tokens most negative", stop(max_tokens=-INT32_MAX - 1), ("stop.max_tokens", str(-INT32_MAX - 1))),
    Case("max_tokens huge", stop(max_tokens=INT32_MAX), ("stop.max_tokens", str(INT32_MAX))),
    Case(
        "prompt and max_tokens too long together",
        per_model(
            lambda f: pb.GenerateRequest(
                token_ids=pb.TokenIds(ids=[5] * 10), stop=pb.StopConditions(max_tokens=context(f) - 9)
            )
        ),
        ("stop.max_tokens", "10 of the prompt"),
    ),
    Case("min_tokens negative", stop(min_tokens=-1), ("stop.min_tokens", "got -1")),
    Case("min_tokens above max_tokens", stop(max_tokens=2, min_tokens=3), ("stop.min_tokens", "got 3", "is 2")),
    Case(
        "min_tokens above the default of max_tokens",
        per_model(lambda _: pb.GenerateRequest(text="a", stop=pb.StopConditions(min_tokens=INT32_MAX))),
        ("stop.min_tokens", str(INT32_MAX)),
    ),
    Case("stop string empty", stop(stop_strings=["a", ""]), ("stop.stop_strings[1]", "''", "1 to 256 bytes")),
    Case("stop string too long", stop(stop_strings=["é" * 129]), ("stop.stop_strings[0]", "258 bytes", "256")),
    Case("too many stop strings", stop(stop_strings=["x"] * 17), ("stop.stop_strings", "17", "at most 16")),
    Case(
        "stop string is not UTF-8",
        raw(GOOD_TEXT + delimited(7, delimited(5, b"ok") + delimited(5, b"\xff\xfe"))),
        ("stop.stop_strings[1]", "bytes ff fe", "UTF-8"),
    ),
    Case(
        "stop string cut inside a character",
        raw(GOOD_TEXT + delimited(7, delimited(5, b"\xf0\x9f\x98"))),
        ("stop.stop_strings[0]", "UTF-8"),
    ),
    Case("stop token id negative", stop(stop_token_ids=[-5]), ("stop.stop_token_ids[0]", "-5")),
    Case(
        "stop token id past the vocabulary",
        stop(stop_token_ids=[1, INT32_MAX]),
        ("stop.stop_token_ids[1]", str(INT32_MAX)),
    ),
    Case("too many stop token ids", stop(stop_token_ids=[1] * 65), ("stop.stop_token_ids", "65", "at most 64")),
)

SAMPLING = (
    *(
        Case(f"temperature {value}", sampling(temperature=value), ("sampling.temperature", str(value), "[0, 100]"))
        for value in (NAN, INF, -INF, -0.1, 100.1, 1e308)
    ),
    *(
        Case(f"top_p {value}", sampling(top_p=value), ("sampling.top_p", str(value), "(0, 1]"))
        for value in (0.0, -0.5, 1.0001, NAN, INF)
    ),
    *(
        Case(f"min_p {value}", sampling(min_p=value), ("sampling.min_p", str(value), "[0, 1]"))
        for value in (-0.1, 1.1, NAN, -INF)
    ),
    *(
        Case(f"top_k {value}", sampling(top_k=value), ("sampling.top_k", str(value)))
        for value in (-1, INT32_MAX, -INT32_MAX - 1)
    ),
)

TARGETS = (
    *(
        Case(f"ttft_ms {value}", targets(ttft_ms=value), ("targets.ttft_ms", str(value), "[0, 3600000]"))
        for value in (-0.1, 3_600_000.1, NAN, INF, -INF)
    ),
    *(
        Case(f"tpot_ms {value}", targets(tpot_ms=value), ("targets.tpot_ms", str(value), "[0, 60000]"))
        for value in (-0.1, 60_000.1, NAN, INF, -INF)
    ),
    Case(
        "ttft_ms of best-effort work",
        fixed(request_class=pb.REQUEST_CLASS_BEST_EFFORT, targets=pb.LatencyTargets(ttft_ms=0)),
        ("targets.ttft_ms", "got 0.0", "best-effort"),
    ),
    Case(
        "tpot_ms of best-effort work",
        fixed(request_class=pb.REQUEST_CLASS_BEST_EFFORT, targets=pb.LatencyTargets(tpot_ms=50)),
        ("targets.tpot_ms", "got 50.0", "best-effort"),
    ),
)

CACHE = (
    Case("cache salt too long", fixed(cache_salt="é" * 65), ("cache_salt", "130 bytes", "at most 128 bytes")),
    Case("session without id", session(), ("session.session_id", "got ''", "1 to 128 printable ASCII")),
    Case("session id too long", session(session_id="x" * 129), ("session.session_id", "1 to 128")),
    Case("session id outside ASCII", session(session_id="größe"), ("session.session_id", "ASCII")),
    Case(
        "tool with a line break",
        session(session_id="s", expects_tool_call="a\nb"),
        ("session.expects_tool_call", r"'a\nb'", "0 to 128 printable"),
    ),
    Case(
        "tool too long", session(session_id="s", expects_tool_call="x" * 129), ("session.expects_tool_call", "0 to 128")
    ),
    Case(
        "tool without session",
        session(expects_tool_call="search"),
        ("session.expects_tool_call", "'search'", "nothing without session_id"),
    ),
    Case("last turn of no session", session(last_turn=True), ("session.last_turn", "nothing without session_id")),
    Case(
        "last turn that expects a tool",
        session(session_id="s", expects_tool_call="search", last_turn=True),
        ("session.last_turn", "got true", "another turn follows", "'search'"),
    ),
    Case("cache salt is not UTF-8", raw(GOOD_TEXT + delimited(9, b"\xff")), ("cache_salt", "UTF-8")),
)

IDENTITIES = (
    *(
        Case(
            f"class {number}",
            fixed(request_class=number),
            ("request_class", str(number), "_CLASS_BEST_EFFORT)"),
        )
        for number in (-1, 3, 7, INT32_MAX)
    ),
    Case("request id too long", fixed(request_id="x" * 129), ("request_id", "128")),
    Case("request id with a control character", fixed(request_id="a\x07b"), ("request_id", r"'a\x07b'", "printable")),
    Case("request id outside ASCII", fixed(request_id="größe"), ("request_id", "ASCII")),
    Case("request id is not UTF-8", raw(delimited(1, b"\x80") + GOOD_TEXT), ("request_id", "UTF-8")),
    Case("abort without id", raw(b""), ("request_id", "''"), method=ABORT),
    Case("abort with an id too long", raw(delimited(1, b"x" * 200)), ("request_id", "128"), method=ABORT),
    Case("abort with an id that is not UTF-8", raw(delimited(1, b"\xff")), ("request_id", "UTF-8"), method=ABORT),
    Case("abort with broken bytes", raw(b"\x0a\x50short"), ("request", "AbortRequest"), method=ABORT),
)

WIRE = (
    Case("random bytes", raw(bytes(range(255, 100, -1))), ("request", "GenerateRequest")),
    Case("only a tag", raw(b"\x1a"), ("request", "got 1 byte,", "GenerateRequest")),
    Case("truncated message", raw(GOOD_TEXT[:-2]), ("request", "GenerateRequest")),
    Case("truncated inside a nested message", raw(GOOD_TEXT + b"\x3a\x05\x2a\x09ab"), ("request", "GenerateRequest")),
    Case("length beyond the message", raw(b"\x1a\xff\xff\xff\xff\x07abc"), ("request", "GenerateRequest")),
    Case("varint without end", raw(b"\x10" + b"\xff" * 11), ("request", "GenerateRequest")),
    Case("zero tag", raw(b"\x00\x00"), ("request", "GenerateRequest")),
    Case("5 MB message", fixed(text="a" * (5 << 20)), ("larger than max",), grpc.StatusCode.RESOURCE_EXHAUSTED),
    Case(
        "broken bytes for admin", raw(b"\x0a"), ("request", "GetLoadsRequest"), method="/qllm.v1.AdminService/GetLoads"
    ),
    Case("unknown method", raw(b""), (), grpc.StatusCode.UNIMPLEMENTED, "/qllm.v1.InferenceService/Nothing"),
    Case("unknown service", raw(b""), (), grpc.StatusCode.UNIMPLEMENTED, "/qllm.v1.Nobody/Generate"),
    Case("method path without service", raw(b""), (), grpc.StatusCode.UNIMPLEMENTED, "/Generate"),
)

ALLOWED = (
    Case("text with NUL", fixed(text="a\x00b"), status=OK),
    Case("text of one space", fixed(text=" "), status=OK),
    Case("text with every kind of space and control", fixed(text="\r\n\t\u2028\ufeff\x1b[31m"), status=OK),
    Case("text with noncharacters and combining marks", fixed(text="\uffff\u0301\u200d😀" * 5), status=OK),
    Case("text that spells a special token", fixed(text="</s><s>"), status=OK),
    Case("unknown fields", raw(GOOD_TEXT + delimited(7, b"\x08\x01") + delimited(15, b"x" * 100)), status=OK),
    Case("temperature almost zero", sampling(temperature=5e-324), status=OK),
    Case("seed most negative", sampling(seed=-(2**63)), status=OK),
    Case("targets of zero", targets(ttft_ms=0, tpot_ms=0), status=OK),
    Case("the longest targets", targets(ttft_ms=3_600_000, tpot_ms=60_000), status=OK),
    Case(
        "targets without any", fixed(request_class=pb.REQUEST_CLASS_BEST_EFFORT, targets=pb.LatencyTargets()), status=OK
    ),
    Case(
        "the longest session id and tool",
        session(session_id="x" * 128, expects_tool_call="read a file, " + "x" * 115),
        status=OK,
    ),
    Case("session whose tool is not known", session(session_id="s"), status=OK),
    Case("the longest cache salt", fixed(cache_salt="é" * 64), status=OK),
    Case("same stop string twice", stop(stop_strings=["x", "x"]), status=OK),
    Case("abort of an unknown id", raw(delimited(1, b"nobody")), status=OK, method=ABORT),
)

BAD_INPUT_CASES = (*PROMPTS, *STOPS, *SAMPLING, *TARGETS, *CACHE, *IDENTITIES, *WIRE)
ALL_CASES = (*BAD_INPUT_CASES, *ALLOWED)
