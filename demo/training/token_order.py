"""Decides the order of the training tokens: encodes the corpus once, mixes each epoch anew, cuts it into windows.

Legend: B windows in a batch, T tokens in a window. Knows nothing about the model.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerFast

from demo.training.corpus import Document, Function, make_dialogues
from demo.training.tokenizer import BOS, EOS

TokenArray = npt.NDArray[np.int16]  # the vocabulary is smaller than 2**15

DIALOGUE_SHARE = 0.17
SNIPPET_SHARE = 0.06
LONGEST_WINDOW_TOKENS = 512


@dataclass(frozen=True, slots=True)
class EncodedCorpus:
    """The corpus as tokens, one array an item."""

    documents: list[TokenArray]
    snippets: list[TokenArray]
    dialogues: list[TokenArray]

    @property
    def num_document_tokens(self) -> int:
        """Number of tokens in the plain documents: one epoch without what is mixed in."""
        return sum(map(len, self.documents))

    def mix_epoch(self, rng: random.Random) -> TokenArray:
        """Returns one epoch: every document, and random snippets and dialogues by their share of the documents."""
        items = list(self.documents)
        items += _sample_tokens(self.snippets, int(self.num_document_tokens * SNIPPET_SHARE), rng)
        items += _sample_tokens(self.dialogues, int(self.num_document_tokens * DIALOGUE_SHARE), rng)
        rng.shuffle(items)
        return np.concatenate(items)


def encode_documents(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[TokenArray]:
    """Encodes texts as whole documents: ``<s>`` text ``</s>``."""
    return _encode(tokenizer, [f"{BOS}{text}{EOS}" for text in texts])


def encode_corpus(
    tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document], functions: Sequence[Function], seed: int
) -> EncodedCorpus:
    """Encodes documents, their functions as snippets, and the dialogues made from these functions."""
    dialogues = [
        str(tokenizer.apply_chat_template(dialogue.messages(), tokenize=False))
        for dialogue in make_dialogues(functions, seed)
    ]
    return EncodedCorpus(
        documents=encode_documents(tokenizer, [document.text for document in documents]),
        snippets=encode_documents(tokenizer, [function.source + "\n" for function in functions]),
        dialogues=_encode(tokenizer, dialogues),
    )


def cut_windows(tokens: TokenArray, window_tokens: int) -> torch.Tensor:
    """Cuts tokens into windows [num_windows, T]; what is left over at the end is dropped."""
    num_windows = len(tokens) // window_tokens
    return torch.from_numpy(tokens[: num_windows * window_tokens].astype(np.int64)).view(num_windows, window_tokens)


class BatchStream:
    """Yields training batches without end, epoch after epoch; the window length may change between batches."""

    def __init__(self, corpus: EncodedCorpus, batch_tokens: int, seed: int) -> None:
        """Starts before the first epoch.

        Args:
            corpus: The tokens to draw from.
            batch_tokens: Tokens in a batch, B * T, whatever the window length.
            seed: Decides the order of everything.
        """
        self.num_epochs = 0.0
        self._corpus = corpus
        self._batch_tokens = batch_tokens
        self._rng = random.Random(seed)
        self._chunks = self._iterate_chunks()

    def next_batch(self, window_tokens: int) -> torch.Tensor:
        """Returns the next batch [B, T] with T = ``window_tokens``, which must divide the tokens in a batch."""
        return next(self._chunks).view(-1, window_tokens)

    def _iterate_chunks(self) -> Iterator[torch.Tensor]:
        """Yields shuffled runs of tokens; a run is as long as the longest window, so that any window fits in it."""
        while True:
            runs = cut_windows(self._corpus.mix_epoch(self._rng), LONGEST_WINDOW_TOKENS)
            order = list(range(len(runs)))
            self._rng.shuffle(order)
            runs_per_batch = self._batch_tokens // LONGEST_WINDOW_TOKENS
            num_batches = len(order) // runs_per_batch
            for index in range(num_batches):
                yield runs[order[index * runs_per_batch : (index + 1) * runs_per_batch]]
                self.num_epochs += 1 / num_batches


def _encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[TokenArray]:
    encodings = tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [np.array(encoding.ids, dtype=np.int16) for encoding in encodings]


def _sample_tokens(items: Sequence[TokenArray], num_tokens: int, rng: random.Random) -> list[TokenArray]:
    chosen: list[TokenArray] = []
    remaining = num_tokens
    for item in rng.sample(items, len(items)):
        if remaining <= 0:
            break
        chosen.append(item)
        remaining -= len(item)
    return chosen
