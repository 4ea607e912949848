"""Trains the demo model: a small Mixtral that writes recognizable Python, for demonstrations and tests only.

Owns the training run: the architecture, the schedules over the time budget, the loop, the progress lines. Knows
nothing about how the corpus is cut (corpus.py), mixed (token_order.py) or tokenized (tokenizer.py).
"""

import argparse
import logging
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import MixtralForCausalLM, PreTrainedTokenizerFast

# `python demo/training/train.py` works from anywhere
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from demo.training.checkpoint import count_parameters, make_config, quiet_transformers, save_checkpoint
from demo.training.corpus import Document, extract_functions, read_documents, split_documents
from demo.training.token_order import BatchStream, cut_windows, encode_corpus, encode_documents
from demo.training.tokenizer import end_token_ids, train_tokenizer

log = logging.getLogger("demo.training.train")

VOCAB_SIZE = 2048
MAX_TOKENS = 2048
BATCH_TOKENS = 2048
SHORT_WINDOW_TOKENS, LONG_WINDOW_TOKENS = 256, 512
LONG_WINDOW_FROM = 0.75  # long windows are slower, so only the last part of the budget pays for them
PEAK_LEARNING_RATE = 2e-3
FINAL_LEARNING_RATE = 4e-5
WARM_UP_SHARE = 0.03
WEIGHT_DECAY = 0.1
MAX_GRADIENT_NORM = 1.0
ROUTER_AUX_LOSS_COEF = 0.02
HELD_OUT_FRACTION = 0.01
REPORT_EVERY_STEPS = 50
FIRST_SAVE_S, SAVE_EVERY_S = 150.0, 600.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """Decides the learning rate and the window length from the fraction of the budget that is spent."""

    peak: float = PEAK_LEARNING_RATE
    final: float = FINAL_LEARNING_RATE

    def learning_rate(self, fraction: float) -> float:
        """Returns a linear warm-up, then a cosine down to the final rate."""
        if fraction < WARM_UP_SHARE:
            return self.peak * max(fraction / WARM_UP_SHARE, 0.01)
        progress = min((fraction - WARM_UP_SHARE) / (1 - WARM_UP_SHARE), 1.0)
        return self.final + (self.peak - self.final) * 0.5 * (1 + math.cos(math.pi * progress))

    def window_tokens(self, fraction: float) -> int:
        """Returns the number of tokens in a window."""
        return LONG_WINDOW_TOKENS if fraction >= LONG_WINDOW_FROM else SHORT_WINDOW_TOKENS


class Trainer:
    """Takes optimizer steps on a model, and measures its loss."""

    def __init__(self, model: MixtralForCausalLM) -> None:
        """Makes the optimizer; norms are not decayed."""
        self.model = model
        matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
        vectors = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
        groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)

    def step(self, batch: torch.Tensor, learning_rate: float) -> float:
        """Takes one step on a batch [B, T] and returns its cross-entropy in nats a token."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        cross_entropy, router_loss = self._losses(batch)
        torch.autograd.backward(cross_entropy + ROUTER_AUX_LOSS_COEF * router_loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return cross_entropy.item()

    @torch.no_grad()
    def evaluate(self, windows: torch.Tensor) -> float:
        """Returns the mean cross-entropy over windows [num_windows, T], in nats a token."""
        self.model.train(mode=False)
        losses = [self._losses(batch)[0].item() * len(batch) for batch in torch.split(windows, 8)]
        self.model.train()
        return sum(losses) / len(windows)

    def _losses(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            output = self.model(input_ids=batch, labels=batch, use_cache=False, output_router_logits=True)
        router_loss = output.aux_loss
        return output.loss - ROUTER_AUX_LOSS_COEF * router_loss, router_loss


class Run:
    """One training run against the wall clock: steps, reports, saves."""

    def __init__(
        self,
        trainer: Trainer,
        tokenizer: PreTrainedTokenizerFast,
        stream: BatchStream,
        held_out: torch.Tensor,
        *,
        out: Path,
        budget_s: float,
    ) -> None:
        """Takes what the run needs; nothing happens before ``train``."""
        self._trainer = trainer
        self._tokenizer = tokenizer
        self._stream = stream
        self._held_out = held_out
        self._out = out
        self._budget_s = budget_s
        self._num_steps = 0
        self._recent_losses: list[float] = []

    def train(self) -> None:
        """Steps until the budget is spent, then saves the model and reports its losses."""
        schedule = Schedule()
        start = time.monotonic()
        next_save_s = FIRST_SAVE_S
        while (elapsed_s := time.monotonic() - start) < self._budget_s:
            fraction = elapsed_s / self._budget_s
            learning_rate = schedule.learning_rate(fraction)
            batch = self._stream.next_batch(schedule.window_tokens(fraction))
            self._recent_losses.append(self._trainer.step(batch, learning_rate))
            self._num_steps += 1
            if self._num_steps % REPORT_EVERY_STEPS == 0:
                self._report(time.monotonic() - start, learning_rate)
            if elapsed_s >= next_save_s:
                self._save()
                next_save_s += SAVE_EVERY_S
        self._report(time.monotonic() - start, 0.0)
        self._save()

    def _report(self, elapsed_s: float, learning_rate: float) -> None:
        num_tokens = self._num_steps * BATCH_TOKENS
        recent = self._recent_losses[-REPORT_EVERY_STEPS:]
        log.info(
            "step=%d tokens=%d epoch=%.2f elapsed_s=%.0f tokens_per_s=%.0f lr=%.2e train_loss=%.4f",
            *(self._num_steps, num_tokens, self._stream.num_epochs, elapsed_s, num_tokens / elapsed_s),
            *(learning_rate, sum(recent) / len(recent)),
        )

    def _save(self) -> None:
        size_bytes = save_checkpoint(self._trainer.model, self._tokenizer, self._out, torch.bfloat16)
        loss = self._trainer.evaluate(self._held_out)
        log.info("saved=%s size_bytes=%d step=%d held_out_loss=%.4f", self._out, size_bytes, self._num_steps, loss)


def make_model(tokenizer: PreTrainedTokenizerFast) -> MixtralForCausalLM:
    """Makes the untrained model; grouped experts and eager attention measured fastest on one CPU thread."""
    config = make_config(
        tokenizer,
        hidden_size=192,
        num_layers=6,
        intermediate_size=192,
        num_heads=6,
        num_key_value_heads=2,
        max_tokens=MAX_TOKENS,
        tie_embeddings=True,
        eos_token_id=end_token_ids(tokenizer),
    )
    config.router_aux_loss_coef = ROUTER_AUX_LOSS_COEF
    model = MixtralForCausalLM(config)
    model.set_experts_implementation("grouped_mm")
    model.set_attn_implementation("eager")
    return model


def make_run(arguments: argparse.Namespace) -> Run:
    """Reads the corpus, trains the tokenizer, and puts a run together."""
    documents, held_out = split_documents(read_documents(arguments.stdlib), HELD_OUT_FRACTION, arguments.seed)
    tokenizer = train_tokenizer((document.text for document in documents), VOCAB_SIZE, MAX_TOKENS)
    functions = [function for document in documents for function in extract_functions(document)]
    corpus = encode_corpus(tokenizer, documents, functions, arguments.seed)
    model = make_model(tokenizer)
    log.info(
        "documents=%d functions=%d document_tokens=%d held_out_documents=%d parameters=%d",
        *(len(documents), len(functions), corpus.num_document_tokens, len(held_out), count_parameters(model)),
    )
    return Run(
        Trainer(model),
        tokenizer,
        BatchStream(corpus, BATCH_TOKENS, arguments.seed),
        _held_out_windows(tokenizer, held_out),
        out=arguments.out,
        budget_s=arguments.minutes * 60,
    )


def _held_out_windows(tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document]) -> torch.Tensor:
    tokens = np.concatenate(encode_documents(tokenizer, [document.text for document in documents]))
    return cut_windows(tokens, SHORT_WINDOW_TOKENS)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description="Train the demo model on this Python's standard library, on the CPU, within a time budget.",
        epilog="example: nice -n 10 python demo/training/train.py --out demo/model --minutes 60. The first loadable "
        "checkpoint is written after about three minutes and replaced every ten; the last one when the time is up.",
    )
    parser.add_argument("--out", type=Path, default=Path("demo/model"), help="checkpoint folder (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=60.0, help="time to train (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides the weights and the order (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads for torch (default: %(default)s)")
    parser.add_argument("--stdlib", type=Path, help="folder of .py files (default: this interpreter's library)")
    return parser.parse_args(argv)


def main() -> None:
    """Runs the command."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    arguments = parse_arguments()
    quiet_transformers()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    make_run(arguments).train()


if __name__ == "__main__":
    main()
