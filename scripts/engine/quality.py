"""Shows what quantized weights and other types do to a model's predictions of a text, beside those in float32.

    python -m scripts.engine.quality --model demo/model --text FILE --text FILE
    python -m scripts.engine.quality --model DIR --text FILE --way bfloat16/none --way auto/int8

The text is cut into windows, which are run as the worker would: at once, as prompts are, and token by token, several
side by side, as decodes are. Some ways to multiply run few rows otherwise than many. Perplexity is that of each next
token; "the same" is the share of tokens of which float32's model would have chosen the same one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from tokenizers import Tokenizer
from torch import Tensor

from gpu_worker.cache.compressed import Form
from gpu_worker.cache.ragged import RaggedCache
from gpu_worker.cache.span import Span
from gpu_worker.cache.unified import UnifiedDynamicCache
from gpu_worker.contract.ledger import BlockLedger
from gpu_worker.cursor import Cursor, Stage
from gpu_worker.experts.queues import run_jointly
from gpu_worker.model.loader import LoadedModel, load_model
from gpu_worker.model.weights import WeightOptions
from gpu_worker.passes.forward import ForwardPass
from gpu_worker.settings import DType, Quantization

BLOCK_SIZE = 16
_WAYS = ("float32/none", "bfloat16/none", "float32/int8", "bfloat16/int8", "float32/bnb-8bit", "float32/bnb-4bit")


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a model makes of windows.

    Attributes:
        choices: The token that it would choose after each but the last (windows, tokens - 1).
        perplexity: Of the tokens that come.
    """

    choices: Tensor
    perplexity: float


class Reader:
    """Runs windows of the same length through a model, side by side.

    Args:
        loaded: The model.
        windows: Token ids (windows, tokens).
        form: How cached rows lie while they are moved off the device; None is as they were computed.
    """

    def __init__(self, loaded: LoadedModel, windows: Tensor, form: Form | None = None) -> None:
        self._loaded = loaded
        self._windows = windows
        num_windows, length = windows.shape
        blocks_each = -(-length // BLOCK_SIZE)
        num_blocks = blocks_each * num_windows
        ledger = BlockLedger(num_blocks, BLOCK_SIZE, num_host_blocks=num_blocks)
        self._store = UnifiedDynamicCache(ledger, torch.device("cpu"), form=form)
        self._tables = [self._store.new_table(number) for number in range(num_windows)]
        self._block_ids = [range(first, first + blocks_each) for first in range(0, num_blocks, blocks_each)]
        for table, block_ids in zip(self._tables, self._block_ids, strict=True):
            self._store.extend(table, block_ids)

    def logits(self, step: int) -> Tensor:
        """Logits (windows, tokens, V) of all tokens, so many of each window at a time."""
        length = self._windows.shape[1]
        return torch.cat([self.run(start, min(length, start + step)) for start in range(0, length, step)], 1)

    def move(self) -> None:
        """Moves what is cached of all windows off the device and back."""
        for table in self._tables:
            self._store.offload(table)
        for table, block_ids in zip(self._tables, self._block_ids, strict=True):
            self._store.restore(table, block_ids)

    @property
    def block_bytes(self) -> tuple[int, int]:
        """Bytes of a block on the device, and off it; known once something is cached."""
        return self._store.block_bytes, self._store.host_block_bytes

    def run(self, start: int, stop: int) -> Tensor:
        """Logits (windows, stop - start, V) of some tokens of all windows."""
        count = stop - start
        spans = []
        for number, table in enumerate(self._tables):
            table.begin(start, count)
            spans.append(Span(table, number * count, count, start))
        structure = self._loaded
        cache = RaggedCache(self._store, spans, structure.latent_layers, structure.own_layers)
        forward_pass = ForwardPass(
            structure.model,
            structure.facts.experts_by_layer,
            cache,
            self._windows[:, start:stop].flatten(),
            torch.arange(start, stop).repeat(len(spans)),
            torch.arange(count * len(spans)),
            reads_rows_back=structure.reads_rows_back,
        )
        logits = _run_to_the_end(forward_pass, structure)
        for table in self._tables:
            table.commit()
        return logits.float().view(len(spans), count, -1)


def _run_to_the_end(forward_pass: ForwardPass, loaded: LoadedModel) -> Tensor:
    """Logits (rows, V) of a pass, whose experts run one after another."""
    try:
        while forward_pass.cursor < Cursor(loaded.facts.num_layers):
            queues, weights = forward_pass.queues, loaded.expert_weights[forward_pass.cursor.layer]
            if forward_pass.cursor.stage is Stage.ATTENTION or queues is None or weights is None:
                forward_pass.run_attention(None)
                continue
            while not queues.is_done:
                run_jointly(weights, [queues], queues.next_expert)
            forward_pass.deliver()
        assert forward_pass.logits is not None
        return forward_pass.logits
    finally:
        forward_pass.close()


def predict(loaded: LoadedModel, windows: Tensor, beside: int, step: int) -> Predictions:
    """Has a model read windows (windows, tokens), so many side by side and so many tokens of each at a time."""
    choices, losses = [], []
    for several in torch.split(windows, beside):
        logits = Reader(loaded, several).logits(step)[:, :-1]  # (windows, tokens - 1, V)
        choices.append(logits.argmax(-1))
        losses.append(
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), several[:, 1:].flatten(), reduction="sum")
        )
    return Predictions(torch.cat(choices), math.exp(float(sum(losses)) / windows[:, 1:].numel()))


def windows_of(tokenizer: Tokenizer, texts: Sequence[Path], length: int, most: int) -> Tensor:
    """Token ids (windows, length) of texts, without what is left at their end."""
    token_ids = [token for text in texts for token in tokenizer.encode(text.read_text()).ids]
    return torch.tensor(token_ids[: len(token_ids) // length * length]).view(-1, length)[:most]


def quality(
    text: Annotated[list[Path], typer.Option(help="Files to read, which the model was not trained on.")],
    model: Annotated[str, typer.Option(help="Model directory.")] = "demo/model",
    way: Annotated[list[str] | None, typer.Option(help=f"TYPE/QUANTIZATION.  [default: {', '.join(_WAYS)}]")] = None,
    window: Annotated[int, typer.Option(min=2, help="Tokens of a window.")] = 256,
    most: Annotated[int, typer.Option(min=1, help="Windows at most.")] = 64,
    beside: Annotated[int, typer.Option(min=1, help="Windows side by side.")] = 8,
    threads: Annotated[int, typer.Option(min=1, help="Threads of one tensor operation.")] = 1,
) -> None:
    """Prints perplexity and agreement of each way, of prompts and of decodes."""
    torch.set_num_threads(threads)
    tokenizer = Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
    windows = windows_of(tokenizer, text, window, most)
    print(f"{len(windows)} windows of {window} tokens, {beside} side by side")
    expected: Tensor | None = None
    for name in way or _WAYS:
        dtype, _, scheme = name.partition("/")
        options = WeightOptions(DType(dtype).value, quantization=Quantization(scheme or "none").value)
        with torch.inference_mode():
            loaded = load_model(model, options=options)
            prompts, decodes = (predict(loaded, windows, beside, step) for step in (window, 1))
        if expected is None:
            expected = prompts.choices
        same = [float((each.choices == expected).float().mean()) for each in (prompts, decodes)]
        print(
            f"{name:18} perplexity {prompts.perplexity:.3f} (decodes {decodes.perplexity:.3f})"
            f"  the same {same[0]:.2%} (decodes {same[1]:.2%})"
        )


if __name__ == "__main__":
    typer.run(quality)
