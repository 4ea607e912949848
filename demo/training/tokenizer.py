"""Owns the demo models' tokenizer: a byte-level BPE with chat markers and the chat template that writes them.

Knows nothing about where its text comes from, nor about models.
"""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
SYSTEM, USER, ASSISTANT, END = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL_TOKENS = (BOS, EOS, PAD, SYSTEM, USER, ASSISTANT, END)

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] not in ['system', 'user', 'assistant'] -%}
{{- raise_exception("The role is " + message['role'] + "; it may be system, user or assistant.") -}}
{%- endif -%}
{{- '<|' + message['role'] + '|>\\n' + message['content'] | trim + '<|end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>\\n' -}}
{%- endif -%}
"""


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_tokens: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE and wraps it for transformers.

    Encoding puts ``<s>`` in front; ``add_special_tokens=False`` leaves it out.

    Args:
        texts: The text to learn merges from.
        vocab_size: Number of tokens, the special ones included.
        max_tokens: The longest sequence that the model takes (``model_max_length``).
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bpe.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT, END],
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_tokens,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """Returns the id of a token that the vocabulary is known to hold.

    Raises:
        KeyError: The vocabulary does not hold it.
    """
    return tokenizer.get_vocab()[token]


def end_token_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Returns the ids that end a generation: the end of a document and the end of a chat turn."""
    return [token_id(tokenizer, EOS), token_id(tokenizer, END)]
