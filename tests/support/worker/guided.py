"""Guides over a small tokenizer, and what they allow."""

from functools import cache

import torch
from tokenizers import Tokenizer

from gpu_worker.sampling.guide import Guide, Guides
from tests.support.models.sample_tokenizers import EOS_ID, byte_level_tokenizer


@cache
def tokenizer() -> Tokenizer:
    """A tokenizer whose alphabet is the 256 bytes."""
    return byte_level_tokenizer()


@cache
def guides() -> Guides:
    """Guides for a model that has more tokens than the tokenizer."""
    return Guides(tokenizer().to_str().encode(), tokenizer().get_vocab_size() + 40, (EOS_ID,))


def allowed(guide: Guide) -> set[int]:
    """The tokens that may come next."""
    bits = (guide.mask()[:, None] >> torch.arange(32, dtype=torch.int32)) & 1
    return set(bits.flatten().nonzero()[:, 0].tolist())
