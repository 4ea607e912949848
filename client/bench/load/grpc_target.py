"""A QLLM service over gRPC as the server under test."""

from collections.abc import Collection, Mapping
from contextlib import aclosing

from qllm.client.access import NO_ACCESS, AccessOptions
from qllm.client.async_client import AsyncClient, Loads
from qllm.client.bench.errors import RequestFailed, TargetFailed
from qllm.client.bench.load.memory.books import Books
from qllm.client.bench.load.target import Ask, Chunk, Ending, RunSalt, Stream, TargetFacts
from qllm.client.errors import QllmError, Unreachable
from qllm.client.messages import ChatMessage, GenerateOptions, Prompt, RequestClass

_CLASS_COUNTERS = ("busy_ns", "num_finished", "num_generated_tokens", "num_prompt_tokens")


class GrpcTarget:
    """Asks `qllm.v1.InferenceService/Generate`, greedy, and finds nothing cached that another target has asked before.

    Args:
        address: "host:port".
        ignore_eos: Generate exactly as many tokens as are asked for.
        chat: Classes whose texts are asked as one message of a user, in the model's own chat template.
        access: What is needed to be let in.
    """

    def __init__(
        self,
        address: str,
        *,
        ignore_eos: bool,
        chat: Collection[RequestClass] = (),
        access: AccessOptions = NO_ACCESS,
    ) -> None:
        self._address = address
        self._ignore_eos = ignore_eos
        self._chat = chat
        self._salt = RunSalt()
        self._client = AsyncClient(address, **access)

    async def prepare(self) -> TargetFacts:
        """Asks the service for its facts."""
        try:
            info = await self._client.server_info()
        except Unreachable as error:
            raise TargetFailed(str(error), error.status.name) from error
        except QllmError as error:
            kind = error.status.name
            raise TargetFailed(f"no service answers at {self._address}: {kind}: {error}", kind) from error
        if not info.HasField("model"):
            raise TargetFailed(f"the service at {self._address} has no worker yet; wait with: qllm-client health")
        details = {
            "version": info.version,
            "policy": info.policy,
            "preempt_at": info.preempt_at,
            "ls_ttft_ms": f"{info.ls_ttft_ms:g}",
            "ls_tpot_ms": f"{info.ls_tpot_ms:g}",
            "family": info.model.family,
            "dtype": info.model.dtype,
            "quantization": info.model.quantization,
            "device": info.model.device,
        }
        model = info.model
        return TargetFacts(
            "grpc",
            self._address,
            model.name,
            model.vocab_size,
            details,
            block_size=model.block_size,
            num_blocks=model.num_blocks,
            max_model_len=model.max_model_len,
        )

    async def stream(self, ask: Ask) -> Stream:
        """Streams one generation."""
        try:
            stream = self._client.generate(self._prompt(ask), **self._options(ask))
            async with stream, aclosing(aiter(stream)) as deltas:
                async for delta in deltas:
                    if delta.token_ids:
                        yield Chunk(len(delta.token_ids), token_ids=delta.token_ids, text=delta.text)
        except QllmError as error:
            raise RequestFailed(error.status.name, str(error)) from error
        usage = stream.result.usage
        yield Ending(usage.completion_tokens, usage.prompt_tokens, usage.queue_ms, usage.cached_tokens)

    async def counters(self) -> Mapping[str, int]:
        """Reads the service's counters."""
        try:
            loads = await self._client.loads()
        except QllmError:
            return {}
        return _flat(loads)

    async def books(self, *, check: bool = False) -> Books:
        """Returns who holds the service's memory and what was moved; with `check` also what its check finds.

        Raises:
            TargetFailed: The service does not say.
        """
        try:
            loads = await self._client.loads(check=check)
        except QllmError as error:
            raise TargetFailed(f"the service at {self._address} does not tell its loads: {error}") from error
        return Books.of(loads)

    async def close(self) -> None:
        """Closes the channel."""
        await self._client.close()

    def _options(self, ask: Ask) -> GenerateOptions:
        options: GenerateOptions = {
            "request_class": ask.request_class,
            "max_tokens": ask.max_tokens,
            "temperature": 0.0,
            "ignore_eos": self._ignore_eos,
            "cache_salt": self._salt.of(ask),
        }
        if ask.turn is not None:
            options["session_id"] = ask.turn.session_id
            options["expects_tool_call"] = ask.turn.expects_tool_call
            options["last_turn"] = ask.turn.is_last
        return options

    def _prompt(self, ask: Ask) -> Prompt:
        if isinstance(ask.prompt, str) and ask.request_class in self._chat:
            return [ChatMessage("user", ask.prompt)]
        return ask.prompt


def _flat(loads: Loads) -> dict[str, int]:
    """Returns what only grows: counts and times, those of a class with its name in front."""
    names = [
        field.name for field in loads.DESCRIPTOR.fields if field.name.startswith("num_") or field.name.endswith("_ns")
    ]
    counters = {name: int(getattr(loads, name)) for name in names}
    for prefix, load in (("ls", loads.latency_sensitive), ("be", loads.best_effort)):
        counters |= {f"{prefix}_{name}": int(getattr(load, name)) for name in _CLASS_COUNTERS}
    return counters
