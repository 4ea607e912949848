"""Real tokenizers for tests, built here: a byte-level BPE and one with byte fallback, as Llama and Mixtral have."""

import json
from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CORPUS = (
    "def hello(world):\n    return world + 1\n",
    "the quick brown fox jumps over the lazy dog, STOP",
    "naïve café, größer, Ελληνικά, русский текст",
    "日本語のテキスト 中文文本 한국어",
    "👩‍👩‍👧‍👦 🎉🎉 é (combining)",
)
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
BOS_ID, EOS_ID = 0, 1
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role') }}"
    "{% endif %}"
    "[{{ message['role'] }}] {{ message['content'] }}\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


@cache
def byte_level_tokenizer() -> Tokenizer:
    """Every text round-trips: the alphabet is the 256 bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(SPECIAL_TOKENS.values()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


@cache
def byte_fallback_tokenizer() -> Tokenizer:
    """Spaces are written as U+2581, the first one is dropped when decoding, and unknown characters become bytes."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdefghé", "▁a", "▁ab", "cd"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    merges = [("▁", "a"), ("▁a", "b"), ("c", "d")]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def panicking_tokenizer_json() -> bytes:
    """A tokenizer whose library panics, in Rust, when it decodes a token `a`."""
    content = json.loads(byte_level_tokenizer().to_str())
    content["decoder"] = {"type": "Strip", "content": "a", "start": 1, "stop": 1}
    return json.dumps(content).encode()


def without_bound(tokenizer: Tokenizer) -> bytes:
    """The same tokenizer's file, spaces around a text removed: no number of characters says its tokens are too many."""
    changed = Tokenizer.from_str(tokenizer.to_str())
    changed.normalizer = normalizers.Strip()
    return changed.to_str().encode()
