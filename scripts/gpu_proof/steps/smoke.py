"""A tiny Mixtral through the real two processes: greedy tokens equal generate's, best-effort work is interrupted."""

import asyncio
import itertools
import random
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from qllm import AsyncClient, GenerateOptions, RequestClass
from qllm.client.bench.load.prompts import PromptForm, Prompts
from qllm.client.bench.load.workload import BE, LS
from qllm.client.bench.service.service import ServiceOptions, running_service
from transformers import AutoModelForCausalLM, MixtralConfig

from scripts.gpu_proof.child import StepFailed, Task
from scripts.gpu_proof.steps.model import device_of

_TYPES = ("float32", "bfloat16")
_VOCAB_SIZE = 1024
_LS_LENGTHS = (5, 40, 300)
_BE_LENGTHS = (200, 300, 400, 500)
_NUM_TOKENS = 24
_NUM_REHEARSED_TOKENS = 8
_FEWEST_ARRIVALS = 8
_LONGEST_PAUSE_S = 0.02
_SALTS = itertools.count()

Tokens = Sequence[int]


@dataclass(frozen=True, slots=True)
class Case:
    """Prompts of one class, and what transformers generates for each by itself."""

    request_class: RequestClass
    prompts: Sequence[Tokens]
    num_tokens: int

    @classmethod
    def of(cls, request_class: RequestClass, lengths: Sequence[int], num_tokens: int) -> "Case":
        """Prompts of so many tokens, the same in every run."""
        source = Prompts(PromptForm.TOKENS, _VOCAB_SIZE, seed=1)
        drawn = (source.draw(request_class, number, length) for number, length in enumerate(lengths))
        return cls(request_class, [[int(token) for token in prompt] for prompt in drawn], num_tokens)

    def options(self) -> GenerateOptions:
        """How one of them is asked for: computed anew each time, so that there is something to interrupt."""
        return {
            "cache_salt": f"apart {next(_SALTS)}",
            "request_class": self.request_class,
            "max_tokens": self.num_tokens,
            "temperature": 0.0,
            "ignore_eos": True,
        }


Expected = Mapping[RequestClass, Sequence[Tokens]]


def _cases(num_tokens: int) -> Sequence[Case]:
    """Latency-sensitive prompts, which are asked alone, and best-effort ones, which are asked together."""
    return (Case.of(LS, _LS_LENGTHS, num_tokens), Case.of(BE, _BE_LENGTHS, num_tokens))


def run(task: Task) -> None:
    """Serves the model in float32, where tokens must be equal, and in bfloat16, where rounding may choose others."""
    device = device_of(task)
    with tempfile.TemporaryDirectory(prefix="smoke-") as name, ThreadPoolExecutor(max_workers=1) as one_by_one:
        folder = Path(name)
        _write_model(folder)
        # One after another: transformers sets torch's default type, which threads share, while it reads a model.
        cases = _cases(_NUM_REHEARSED_TOKENS if task.is_rehearsal else _NUM_TOKENS)
        expected = {dtype: one_by_one.submit(_generate, folder, device, dtype, cases) for dtype in _TYPES}
        checks = [_Check(task, folder, device, dtype, cases, expected[dtype]) for dtype in _TYPES]
        asyncio.run(_serve_all(checks))


async def _serve_all(checks: "Sequence[_Check]") -> None:
    """Starts all services at once, since each takes seconds; a fault of one type hides nothing of another's."""
    outcomes = await asyncio.gather(*(check.run() for check in checks), return_exceptions=True)
    faults = [f"{check.dtype}: {outcome}" for check, outcome in zip(checks, outcomes, strict=True) if outcome]
    if faults:
        raise StepFailed("\n".join(faults))


@dataclass(frozen=True, slots=True)
class _Check:
    """The service in one compute type."""

    task: Task
    folder: Path
    device: str
    dtype: str
    cases: Sequence[Case]
    expected: "Future[Expected]"

    async def run(self) -> None:
        """Serves and reports; raises StepFailed for what does not hold."""
        worker = ("--device", self.device, "--dtype", self.dtype, "--kv-memory", "256MiB", "--host-kv-gib", "0.05")
        options = ServiceOptions(str(self.folder), worker=worker)
        async with running_service(options, echo=True) as address, AsyncClient(address) as client:
            expected = await asyncio.wrap_future(self.expected)
            alone, batch = self.cases
            faults = [await self._compare(client, alone, expected[LS])]
            stop = asyncio.Event()
            flood = [
                asyncio.create_task(self._repeat(client, batch, number, stop)) for number in range(len(batch.prompts))
            ]
            try:
                faults.append(await self._interrupt(client, alone.prompts[0]))
            finally:
                stop.set()
            given = [tokens for answers in await asyncio.gather(*flood) for tokens in answers]
        right = [expected[BE][number] for number, answers in enumerate(flood) for _ in answers.result()]
        faults.append(self._judge("tokens of interrupted BE", given, right))
        if any(faults):
            raise StepFailed("; ".join(filter(None, faults)))

    async def _compare(self, client: AsyncClient, case: Case, right: Sequence[Tokens]) -> str:
        results = [await client.generate(prompt, **case.options()).collect() for prompt in case.prompts]
        return self._judge("tokens of LS", [result.token_ids for result in results], right)

    def _judge(self, what: str, given: Sequence[Tokens], right: Sequence[Tokens]) -> str:
        """Reports how many tokens are right; returns the fault in a type in which all must be."""
        equal, total = sum(map(_num_equal, given, right)), sum(map(len, right))
        self.task.report.figure(f"{self.dtype}: {what} equal to generate's", equal=equal, of=total)
        return f"{total - equal} {what} differ from generate's" if equal < total and self.dtype == "float32" else ""

    async def _repeat(self, client: AsyncClient, case: Case, number: int, stop: asyncio.Event) -> list[Tokens]:
        """Asks for one prompt again and again; returns the tokens of each answer."""
        answers: list[Tokens] = []
        while not (answers and stop.is_set()):
            result = await client.generate(case.prompts[number], **case.options()).collect()
            answers.append(result.token_ids)
        return answers

    async def _interrupt(self, client: AsyncClient, prompt: Tokens) -> str:
        """Sends LS requests beside the flood until one has interrupted it; returns the fault if none has."""
        short = Case(LS, (), 4)
        chance, first_ms, num_stops = random.Random(0), list[float](), 0
        at_layers = at_experts = 0
        ends_left_s = self.task.left_s() / 3  # kept for the flood's last answers
        while not (num_stops and len(first_ms) >= _FEWEST_ARRIVALS) and self.task.left_s() > ends_left_s:
            await asyncio.sleep(chance.uniform(0, _LONGEST_PAUSE_S))
            result = await client.generate(prompt, **short.options()).collect()
            first_ms.append((result.ttft_s or 0.0) * 1e3)
            loads = await client.loads()
            at_layers, at_experts = loads.num_preemptions_at_layer, loads.num_preemptions_at_expert
            num_stops = at_layers + at_experts
        self.task.report.figure(
            f"{self.dtype}: stops of BE",
            at_layers=at_layers,
            at_experts=at_experts,
            arrivals=len(first_ms),
            worst_first_token_ms=max(first_ms, default=None),
        )
        if num_stops:
            return ""
        fault = f"none of {len(first_ms)} LS requests interrupted best-effort work"
        if self.dtype == "float32":
            return fault
        self.task.report.note(f"{self.dtype}: {fault}; a decode of a model this small is one CUDA graph")
        return ""


def _write_model(folder: Path) -> None:
    """Writes a checkpoint whose weights are the same wherever it is made."""
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=_VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=2048,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)


def _generate(folder: Path, device: str, dtype: str, cases: Sequence[Case]) -> Expected:
    """What transformers generates for each prompt by itself."""
    with torch.inference_mode():
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        model.to(device)

        def continue_by(count: int, prompt: Tokens) -> Tokens:
            ids = torch.tensor([prompt], device=device)
            tokens = model.generate(ids, max_new_tokens=count, do_sample=False, attention_mask=torch.ones_like(ids))
            return tuple(tokens[0, len(prompt) :].tolist())

        return {case.request_class: [continue_by(case.num_tokens, prompt) for prompt in case.prompts] for case in cases}


def _num_equal(given: Tokens, right: Tokens) -> int:
    """Tokens that are right up to the first wrong one: what follows that has another past."""
    differing = (number for number, pair in enumerate(zip(given, right, strict=True)) if pair[0] != pair[1])
    return next(differing, len(right))
