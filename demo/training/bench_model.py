"""Writes mini-mixtral, the benchmark checkpoint: a Mixtral of 190 M random weights, with a real tokenizer.

Owns its architecture and the guard against overwriting what is not its own. Speed does not depend on what the weights
are, so nothing is trained here but the tokenizer.
"""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import MixtralForCausalLM, PreTrainedTokenizerFast

# `python demo/training/bench_model.py` works from anywhere
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from demo.training.checkpoint import count_parameters, make_config, quiet_transformers, save_checkpoint
from demo.training.corpus import read_documents
from demo.training.tokenizer import EOS, token_id, train_tokenizer

log = logging.getLogger("demo.training.bench_model")

VOCAB_SIZE = 8192
MAX_TOKENS = 4096
MARKER = ".qllm-bench-model"


class NotOursError(Exception):
    """The folder holds files that this script did not write."""


def check_folder(folder: Path, *, force: bool) -> None:
    """Refuses a folder that holds something else.

    Raises:
        NotOursError: The folder is a file, or is not empty and lacks this script's marker, and ``force`` is not given.
    """
    if folder.exists() and not folder.is_dir():
        raise NotOursError(f"{folder} is a file; give a folder")
    is_ours = not folder.exists() or not any(folder.iterdir()) or (folder / MARKER).exists()
    if not is_ours and not force:
        raise NotOursError(f"{folder} is not empty and was not written by this script; give another, or --force")


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> MixtralForCausalLM:
    """Makes the model with random weights in float32; only the tokenizer's ``</s>`` ends a generation."""
    torch.manual_seed(seed)
    config = make_config(
        tokenizer,
        hidden_size=512,
        num_layers=8,
        intermediate_size=1792,
        num_heads=8,
        num_key_value_heads=4,
        max_tokens=MAX_TOKENS,
        tie_embeddings=False,
        eos_token_id=token_id(tokenizer, EOS),
    )
    return MixtralForCausalLM(config)


def write_checkpoint(folder: Path, seed: int, stdlib: Path | None) -> None:
    """Makes the tokenizer and the model and writes them, with a progress line before each part."""
    start = time.monotonic()
    log.info("1/3 training a tokenizer of %d tokens on the standard library", VOCAB_SIZE)
    tokenizer = train_tokenizer((document.text for document in read_documents(stdlib)), VOCAB_SIZE, MAX_TOKENS)
    log.info("2/3 making the random weights (seed %d)", seed)
    model = make_model(tokenizer, seed)
    log.info("3/3 writing %s", folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text(f"demo/training/bench_model.py --seed {seed}\n")
    size_bytes = save_checkpoint(model, tokenizer, folder, torch.float32)
    log.info(
        "done: %d parameters, %.0f MB, %.0f s", count_parameters(model), size_bytes / 1e6, time.monotonic() - start
    )


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description="Write mini-mixtral: a Mixtral with 190 M random weights for benchmarks. It writes no sense.",
        epilog="example: python demo/training/bench_model.py bench-models/mini-mixtral",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to write the checkpoint (about 765 MB)")
    parser.add_argument("--force", action="store_true", help="write into a folder that holds something else")
    parser.add_argument("--seed", type=int, default=0, help="decides the weights (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads for torch (default: %(default)s)")
    parser.add_argument("--stdlib", type=Path, help="folder of .py files (default: this interpreter's library)")
    return parser.parse_args(argv)


def main() -> int:
    """Runs the command and returns its exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = parse_arguments()
    quiet_transformers()
    torch.set_num_threads(arguments.threads)
    try:
        check_folder(arguments.folder, force=arguments.force)
    except NotOursError as error:
        log.error("error: %s", error)  # noqa: TRY400 - a message for a person, not a traceback
        return 2
    write_checkpoint(arguments.folder, arguments.seed, arguments.stdlib)
    return 0


if __name__ == "__main__":
    sys.exit(main())
