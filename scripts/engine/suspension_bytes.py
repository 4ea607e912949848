"""Tells what a batch that is stopped inside a layer keeps in memory for each of its tokens, beside their K and V.

    python -m scripts.engine.suspension_bytes --model demo/model
    python -m scripts.engine.suspension_bytes --model DIR --dtype bfloat16 --tokens 8 --tokens 256

A pass through the model is stopped before each layer and before each run of an expert, and asked each time what it
holds: hidden states, positions, routing, inputs and outputs of experts. The same is reckoned for Mixtral 8x7B, by a
formula that the measured numbers agree with. It takes a few seconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
import typer

from gpu_worker.cache.ragged import RaggedCache
from gpu_worker.cache.span import Span
from gpu_worker.cache.unified import UnifiedDynamicCache
from gpu_worker.contract.ledger import BlockLedger
from gpu_worker.cursor import Cursor, Stage
from gpu_worker.experts.queues import run_jointly
from gpu_worker.model.loader import LoadedModel, load_model
from gpu_worker.model.weights import WeightOptions
from gpu_worker.passes.forward import ForwardPass
from gpu_worker.settings import DType

_BLOCK_SIZE = 16
_ID_BYTES = _POSITION_BYTES = _SLOT_BYTES = 8
_ROUTING_BYTES = 4  # routing weights are float32 in every type
_FEW_PAIRS = 64  # outputs of fewer (token, expert) pairs are kept until all are there


@dataclass(frozen=True, slots=True)
class Widths:
    """What decides how much a token takes in a model of Mixtral's kind.

    Attributes:
        hidden: D, the width of hidden states.
        num_chosen: K, the experts of a token.
        num_layers: L.
        kv_width: Width of K, and of V, in a layer: heads times their width.
        head_dim: Width of a head, which the tables of rotary positions have.
        number_bytes: Bytes of a number in the type that is computed in.
    """

    hidden: int
    num_chosen: int
    num_layers: int
    kv_width: int
    head_dim: int
    number_bytes: int

    @property
    def kv_bytes(self) -> int:
        """Bytes of a token's K and V in all layers."""
        return 2 * self.num_layers * self.kv_width * self.number_bytes

    @property
    def at_layer(self) -> int:
        """Bytes of a token before a layer: its hidden state, cosines and sines of its position, where its rows go."""
        return (self.hidden + 2 * self.head_dim) * self.number_bytes + _POSITION_BYTES + _SLOT_BYTES

    @property
    def at_experts(self) -> int:
        """Bytes of a token before the first expert: also their input, the routing in two orders, and the sums."""
        routing = 2 * self.num_chosen * (_ID_BYTES + _ROUTING_BYTES)
        sums = self.hidden * max(self.number_bytes, _ROUTING_BYTES)
        return self.at_layer + self.hidden * self.number_bytes + routing + sums

    def most(self, num_tokens: int) -> int:
        """Bytes of a token, of so many, where outputs of experts wait to be summed up: one each, or all of a few."""
        waiting = min(self.num_chosen, max(1.0, _FEW_PAIRS / num_tokens))
        return self.at_experts + round(waiting * self.hidden * self.number_bytes)


MIXTRAL_8X7B = Widths(hidden=4096, num_chosen=2, num_layers=32, kv_width=8 * 128, head_dim=128, number_bytes=2)


@dataclass(frozen=True, slots=True)
class Held:
    """What a pass held where it was stopped, in bytes a token.

    Attributes:
        at_layer: The most of it before a layer.
        at_experts: The most of it before the first expert of a layer.
        most: The most of it anywhere.
        kv_bytes: K and V of a token in all layers.
    """

    at_layer: float
    at_experts: float
    most: float
    kv_bytes: float


def measure(loaded: LoadedModel, num_tokens: int) -> Held:
    """Runs a prompt of so many tokens, stopping wherever that is possible."""
    num_blocks = -(-num_tokens // _BLOCK_SIZE)
    store = UnifiedDynamicCache(BlockLedger(num_blocks, _BLOCK_SIZE, num_host_blocks=0), torch.device("cpu"))
    table = store.new_table(0)
    store.extend(table, range(num_blocks))
    table.begin(0, num_tokens)
    cache = RaggedCache(store, [Span(table, 0, num_tokens, 0)], loaded.latent_layers, loaded.own_layers)
    forward_pass = ForwardPass(
        loaded.model,
        loaded.facts.experts_by_layer,
        cache,
        torch.randint(3, loaded.facts.vocab_size, (num_tokens,)),
        torch.arange(num_tokens),
        torch.tensor([num_tokens - 1]),
    )
    seen: dict[str, int] = {}
    try:
        for place, num_bytes in _stops(forward_pass, loaded):
            seen[place] = max(num_bytes, seen.get(place, 0))
    finally:
        forward_pass.close()
    return Held(
        at_layer=seen["layer"] / num_tokens,
        at_experts=seen["experts"] / num_tokens,
        most=max(seen.values()) / num_tokens,
        kv_bytes=store.block_bytes / _BLOCK_SIZE,
    )


def _stops(forward_pass: ForwardPass, loaded: LoadedModel) -> Iterator[tuple[str, int]]:
    """Runs a pass to its end; yields each place where it stood, and the bytes that it held there."""
    while forward_pass.cursor < Cursor(loaded.facts.num_layers):
        queues, weights = forward_pass.queues, loaded.expert_weights[forward_pass.cursor.layer]
        if forward_pass.cursor.stage is Stage.ATTENTION or queues is None or weights is None:
            yield "layer", forward_pass.suspended_bytes
            forward_pass.run_attention(None)
            continue
        yield "experts", forward_pass.suspended_bytes
        while not queues.is_done:
            run_jointly(weights, [queues], queues.next_expert)
            yield "between experts", forward_pass.suspended_bytes
        forward_pass.deliver()


def line(name: str, held: Held) -> str:
    """Returns a row of the table; shares are of the K and V of the same token."""
    parts = (f"{part:10,.0f} ({part / held.kv_bytes:6.1%})" for part in (held.at_layer, held.at_experts, held.most))
    return f"{name:36} {'  '.join(parts)}  {held.kv_bytes:10,.0f}"


def suspension_bytes(
    model: Annotated[str, typer.Option(help="Model directory.")] = "demo/model",
    dtype: Annotated[DType, typer.Option(help="Type to compute in.")] = DType.FLOAT32,
    tokens: Annotated[list[int] | None, typer.Option(min=1, help="Tokens of a batch. [default: 8, 256]")] = None,
) -> None:
    """Prints bytes a token before a layer, before its experts, and at most; measured, and for Mixtral 8x7B reckoned."""
    torch.set_num_threads(1)
    print(f"{'bytes a token (share of its K/V)':36} {'at a layer':>19}  {'at experts':>19}  {'most':>19}  {'K/V':>10}")
    counts = tokens or [8, 256]
    with torch.inference_mode():
        loaded = load_model(model, options=WeightOptions(dtype.value))
        for count in counts:
            print(line(f"{loaded.facts.name}, {dtype.value}, {count} tokens", measure(loaded, count)))
    widths = MIXTRAL_8X7B
    for count in counts:
        held = Held(widths.at_layer, widths.at_experts, widths.most(count), widths.kv_bytes)
        print(line(f"Mixtral 8x7B, bfloat16, {count} tokens*", held))
    print("* reckoned: on a CPU; other devices sum each expert's outputs up at once, and hold no more than at experts")


if __name__ == "__main__":
    typer.run(suspension_bytes)
