"""Shows what moving caches in int8 does to a model's predictions of a text, and how many bytes it saves.

    python -m scripts.engine.offload_quality --model demo/model --text FILE --text FILE

The text is cut into windows. The first half of each is read as a prompt; its cache is moved off the device and back, as
the worker does it with --offload-dtype int8; then the other half is read token by token, as decodes are. Logits are
compared with those of a cache that stayed where it was. Where a small difference has a token choose another expert, its
logits differ by far more than others'. It takes about two minutes for the demo's model.
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

from gpu_worker.cache.compressed import Form, Int8
from gpu_worker.model.loader import LoadedModel, load_model
from gpu_worker.model.weights import WeightOptions
from gpu_worker.settings import DType
from scripts.engine.quality import BLOCK_SIZE, Reader, windows_of


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model made of the second half of some windows.

    Attributes:
        logits: Of each token but the last (windows, tokens - 1, V).
        losses: Of the tokens that come (windows * (tokens - 1),).
        block_bytes: Bytes of a block of the cache on the device, and off it.
    """

    logits: Tensor
    losses: Tensor
    block_bytes: tuple[int, int]

    @property
    def perplexity(self) -> float:
        """Of the tokens that come."""
        return math.exp(float(self.losses.mean()))


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one reading is from another.

    Attributes:
        largest: The largest difference of a logit.
        mean: The mean difference.
        spread: Standard deviation of the logits themselves, beside which the differences are to be seen.
        agreement: Share of the tokens at which both would choose the same next one.
    """

    largest: float
    mean: float
    spread: float
    agreement: float

    @classmethod
    def between(cls, one: Reading, other: Reading) -> "Difference":
        """Compares."""
        distance = (one.logits - other.logits).abs()
        same = one.logits.argmax(-1) == other.logits.argmax(-1)
        return cls(float(distance.max()), float(distance.mean()), float(one.logits.std()), float(same.float().mean()))


def read(loaded: LoadedModel, windows: Tensor, form: Form | None, *, num_moves: int) -> Reading:
    """Has a model read windows (windows, tokens) side by side, moving their caches so often in the middle."""
    middle, length = windows.shape[1] // 2, windows.shape[1]
    reader = Reader(loaded, windows, form)
    reader.run(0, middle)
    for _ in range(num_moves):
        reader.move()
    logits = torch.cat([reader.run(at, at + 1) for at in range(middle, length)], 1)[:, :-1]
    expected = windows[:, middle + 1 :].flatten()
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), expected, reduction="none")
    return Reading(logits, losses, reader.block_bytes)


def read_all(loaded: LoadedModel, windows: Tensor, beside: int, form: Form | None, *, num_moves: int) -> Reading:
    """Reads windows, so many side by side."""
    parts = [read(loaded, several, form, num_moves=num_moves) for several in torch.split(windows, beside)]
    return joined(parts)


def joined(parts: Sequence[Reading]) -> Reading:
    """Returns readings of the same kind as one."""
    logits, losses = (torch.cat([getattr(part, name) for part in parts]) for name in ("logits", "losses"))
    return Reading(logits, losses, parts[0].block_bytes)


def offload_quality(
    text: Annotated[list[Path], typer.Option(help="Files to read, which the model was not trained on.")],
    model: Annotated[str, typer.Option(help="Model directory.")] = "demo/model",
    dtype: Annotated[DType, typer.Option(help="Type to compute in.")] = DType.FLOAT32,
    window: Annotated[int, typer.Option(min=4, help="Tokens of a window.")] = 256,
    most: Annotated[int, typer.Option(min=1, help="Windows at most.")] = 32,
    beside: Annotated[int, typer.Option(min=1, help="Windows side by side.")] = 8,
    moves: Annotated[int, typer.Option(min=1, help="How often each cache is moved off and back.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of one tensor operation.")] = 1,
) -> None:
    """Prints bytes saved, differences of logits, and agreement of the next tokens; as computed and in int8."""
    torch.set_num_threads(threads)
    windows = windows_of(Tokenizer.from_file(str(Path(model) / "tokenizer.json")), text, window, most)
    with torch.inference_mode():
        loaded = load_model(model, options=WeightOptions(dtype.value))
        stayed = read_all(loaded, windows, beside, None, num_moves=0)
        ways = {
            "moved as computed": read_all(loaded, windows, beside, None, num_moves=moves),
            "moved in int8": read_all(loaded, windows, beside, Int8(BLOCK_SIZE), num_moves=moves),
        }
    print(f"{len(windows)} windows of {window} tokens, {beside} side by side; each moved {moves} times in its middle")
    print(f"{'stayed':18} perplexity {stayed.perplexity:.4f}, logits spread {float(stayed.logits.std()):.3f}")
    for name, reading in ways.items():
        found = Difference.between(stayed, reading)
        on_device, off_device = reading.block_bytes
        saved = 1 - off_device / on_device
        print(f"{name:18} perplexity {reading.perplexity:.4f}, logits differ by {found.largest:.4f} at most and")
        print(f"{'':18} {found.mean:.5f} on average; the same next token at {found.agreement:.2%} of all;")
        print(
            f"{'':18} {off_device / BLOCK_SIZE:,.0f} bytes a token off the device, {on_device / BLOCK_SIZE:,.0f} on it"
        )
        print(f"{'':18} ({saved:.1%} saved)")


if __name__ == "__main__":
    typer.run(offload_quality)
