"""A tiny Mixtral through the real two processes: greedy tokens equal generate's, and best-effort work is interrupted."""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, MixtralConfig

from client import AsyncClient, GenerateOptions, GenerationResult, RequestClass
from client.bench.load.prompts import PromptForm, Prompts
from client.bench.load.workload import BE, LS
from client.bench.service.service import ServiceOptions, running_service
from scripts.gpu_proof.child import Report, StepFailed, Task
from scripts.gpu_proof.steps.model import device_of

_VOCAB_SIZE = 1024
_PROMPT_LENGTHS = (5, 40, 300)
_BE_LENGTHS = (700, 900, 1100, 1300)
_NUM_TOKENS = 24
_NUM_BE_TOKENS = 64
_NUM_ARRIVALS = 24
_PAUSE_S = 0.05
Flood = asyncio.Future[list[GenerationResult]]


def run(task: Task) -> None:
    """Serves the model in float32, where tokens must be equal, and on a device in bfloat16 too, where rounding may differ."""
    device = device_of(task)
    types = ("float32", "bfloat16") if device == "cuda" else ("float32",)
    with tempfile.TemporaryDirectory(prefix="smoke-") as name:
        folder = Path(name)
        _write_model(folder)
        asyncio.run(_serve_all(folder, device, types, task.report))


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


async def _serve_all(folder: Path, device: str, types: Sequence[str], report: Report) -> None:
    """Starts all services at once, since each takes seconds; the first fault that counts ends the step."""
    async with asyncio.TaskGroup() as group:
        checks = [group.create_task(_check(folder, device, dtype, report)) for dtype in types]
    for dtype, check in zip(types, checks, strict=True):
        if fault := check.result():
            raise StepFailed(f"{dtype}: {fault}")


async def _check(folder: Path, device: str, dtype: str, report: Report) -> str:
    """Serves in one compute type; returns what does not hold, or nothing."""
    prompts = Prompts(PromptForm.TOKENS, _VOCAB_SIZE, seed=1)
    alone = [_tokens(prompts, LS, number, length) for number, length in enumerate(_PROMPT_LENGTHS)]
    batch = [_tokens(prompts, BE, number, length) for number, length in enumerate(_BE_LENGTHS)]
    expected = asyncio.create_task(asyncio.to_thread(_generate, folder, device, dtype, alone, batch))
    worker = ("--device", device, "--dtype", dtype, "--kv-cache-gib", "0.25", "--host-kv-gib", "0.05")
    options = ServiceOptions(str(folder), worker=worker)
    async with running_service(options, echo=True) as address, AsyncClient(address) as client:
        right_alone, right_batch = await expected
        results = [await client.generate(one, **_options(_NUM_TOKENS)).collect() for one in alone]
        equal = _num_equal([result.token_ids for result in results], right_alone)
        report.figure(f"{dtype}: tokens equal to generate's", equal=equal, of=_NUM_TOKENS * len(alone))
        flood = asyncio.gather(*(client.generate(one, **_options(_NUM_BE_TOKENS, BE)).collect() for one in batch))
        first_ms = await _interrupt(client, alone[0], flood)
        equal_batch = _num_equal([result.token_ids for result in await flood], right_batch)
        loads = await client.loads()
    at_layer, at_expert = loads.num_preemptions_at_layer, loads.num_preemptions_at_expert
    report.figure(f"{dtype}: best-effort work interrupted", at_layers=at_layer, at_experts=at_expert)
    report.figure(f"{dtype}: its tokens equal to generate's", equal=equal_batch, of=_NUM_BE_TOKENS * len(batch))
    report.figure(f"{dtype}: LS first token beside it", arrivals=len(first_ms), worst_ms=max(first_ms, default=0.0))
    if at_layer + at_expert == 0:
        return f"none of {len(first_ms)} LS requests interrupted the best-effort work"
    wrong = _NUM_TOKENS * len(alone) - equal + _NUM_BE_TOKENS * len(batch) - equal_batch
    return f"{wrong} tokens differ from generate's" if wrong and dtype == "float32" else ""


async def _interrupt(client: AsyncClient, prompt: Sequence[int], flood: Flood) -> list[float]:
    """Sends LS requests one after another while the flood runs; returns the milliseconds to each one's first token."""
    first_ms = []
    for _ in range(_NUM_ARRIVALS):
        await asyncio.sleep(_PAUSE_S)
        if flood.done():
            break
        result = await client.generate(prompt, **_options(4)).collect()
        first_ms.append((result.ttft_s or 0.0) * 1e3)
    return first_ms


def _tokens(prompts: Prompts, request_class: RequestClass, number: int, length: int) -> list[int]:
    return list(map(int, prompts.draw(request_class, number, length)))


def _options(max_tokens: int, request_class: RequestClass = LS) -> GenerateOptions:
    return {"request_class": request_class, "max_tokens": max_tokens, "temperature": 0.0, "ignore_eos": True}


def _generate(
    folder: Path, device: str, dtype: str, alone: Sequence[Sequence[int]], batch: Sequence[Sequence[int]]
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """What transformers generates for each prompt by itself."""
    with torch.inference_mode():
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        model.to(device)

        def continue_by(count: int, prompt: Sequence[int]) -> tuple[int, ...]:
            ids = torch.tensor([prompt], device=device)
            tokens = model.generate(ids, max_new_tokens=count, do_sample=False, attention_mask=torch.ones_like(ids))
            return tuple(tokens[0, len(prompt) :].tolist())

        return [continue_by(_NUM_TOKENS, one) for one in alone], [continue_by(_NUM_BE_TOKENS, one) for one in batch]


def _num_equal(given: Sequence[Sequence[int]], right: Sequence[Sequence[int]]) -> int:
    """Tokens that are right up to the first wrong one of each text: what follows that has another past."""
    count = 0
    for mine, its in zip(given, right, strict=True):
        differing = (number for number, pair in enumerate(zip(mine, its, strict=True)) if pair[0] != pair[1])
        count += next(differing, len(its))
    return count
