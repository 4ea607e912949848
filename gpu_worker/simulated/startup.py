"""Makes a worker without a model out of its settings: reads the cost table and a tokenizer, and writes the Hello.

Takes no torch and no transformers, so that it is up within a second.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qllm.cost_table import CostTable
from qllm.settings import SettingRefused
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from gpu_worker.checkpoint.facts import end_token_ids, sampling_defaults
from gpu_worker.checkpoint.names import served_names
from gpu_worker.contract.introduction import Hello, SamplingDefaults, WorkerModel
from gpu_worker.contract.results import WorkTiming
from gpu_worker.errors import ModelRefused
from gpu_worker.settings import GenerationConfig, WorkerConfig
from gpu_worker.simulated.cost_table import load_cost_table
from gpu_worker.simulated.executor import SimulatedExecutor

_log = logging.getLogger(__name__)

_EOS = "</s>"
_TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
# Tokens and context of the made-up iterations that the scheduler's cost model starts from.
_CALIBRATION = ((1, 1), (8, 8), (64, 64), (256, 256), (1, 512), (1, 4096), (1, 64))


@dataclass(frozen=True, slots=True)
class Text:
    """The text side of a simulated model.

    Attributes:
        tokenizer: Its tokenizer.
        eos_token_ids: Tokens that end a text; none is ever sampled.
        chat_template: Jinja source; may be empty.
        special_tokens: Text by role, such as "bos_token".
        sampling: How the model's makers sample.
    """

    tokenizer: Tokenizer
    eos_token_ids: tuple[int, ...]
    chat_template: str
    special_tokens: dict[str, str] = field(default_factory=dict)
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)

    @property
    def vocab_size(self) -> int:
        """Ids are below this."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def readable_ids(self) -> Sequence[int]:
        """Returns the tokens that are whole characters by themselves; all but the end tokens if there are none."""
        ids = [token_id for token_id in range(self.vocab_size) if token_id not in self.eos_token_ids]
        texts = self.tokenizer.decode_batch([[token_id] for token_id in ids], skip_special_tokens=True)
        is_plain = (text.isprintable() and "\ufffd" not in text for text in texts)
        return [token_id for token_id, text, plain in zip(ids, texts, is_plain, strict=True) if text and plain] or ids


@dataclass(frozen=True, slots=True)
class ReadySimulation:
    """A worker without a model that waits for commands, and how it introduces itself."""

    executor: SimulatedExecutor
    hello: Hello


def prepare_simulation(config: WorkerConfig) -> ReadySimulation:
    """Reads the table and the tokenizer; raises SettingRefused or ModelRefused when they can't be used."""
    costs = load_cost_table(config.simulated)
    text = read_text(config.model)
    num_blocks = config.num_blocks or costs.num_blocks
    if (config.max_model_len or 0) > costs.max_model_len:
        raise SettingRefused(
            f"--max-model-len: got {config.max_model_len}, allowed with this table is 2 to {costs.max_model_len}"
        )
    max_model_len = config.max_model_len or costs.max_model_len
    sampling = text.sampling if config.generation_config is GenerationConfig.AUTO else SamplingDefaults()
    executor = SimulatedExecutor(
        costs,
        block_size=config.block_size,
        num_blocks=num_blocks,
        max_model_len=max_model_len,
        vocab_size=text.vocab_size,
        vocabulary=text.readable_ids(),
    )
    names = served_names(costs.name, config.served_model_names)
    model = WorkerModel(
        name=names[0],
        other_names=names[1:],
        family="simulated",
        experts_by_layer=[costs.num_experts] * costs.num_layers,
        num_experts_per_token=costs.num_experts_per_token,
        vocab_size=text.vocab_size,
        eos_token_ids=text.eos_token_ids,
        max_model_len=max_model_len,
        block_size=config.block_size,
        num_blocks=num_blocks,
        num_host_blocks=costs.num_host_blocks,
        dtype="none",
        quantization="none",
        device="simulated",
        tokenizer_json=text.tokenizer.to_str().encode(),
        chat_template=text.chat_template,
        special_tokens=text.special_tokens,
        sampling=sampling,
    )
    calibration = [calibrate(costs, num_tokens, context) for num_tokens, context in _CALIBRATION]
    _log.info("simulating table=%s layers=%d experts=%d", costs.name, costs.num_layers, costs.num_experts)
    return ReadySimulation(executor, Hello(model, calibration, os.getpid()))


def calibrate(costs: CostTable, num_tokens: int, context: int) -> WorkTiming:
    """Returns the timing of one layer and a head over the last tokens of a sequence that then has `context` tokens."""
    num_assigned = num_tokens * costs.num_experts_per_token
    num_runs = min(num_assigned, costs.num_experts)
    for_all, for_some = divmod(num_assigned, num_runs)
    runs = [for_all + (run < for_some) for run in range(num_runs)]
    return WorkTiming(
        num_attention_stages=1,
        attention_tokens=num_tokens,
        attention_pairs=num_tokens * context,
        attention_ns=costs.attention_ns(num_tokens, num_tokens * context),
        num_expert_runs=num_runs,
        expert_tokens=num_assigned,
        expert_ns=sum(costs.expert_ns(num) for num in runs),
        num_heads=1,
        head_rows=min(num_tokens, 8),
        head_ns=costs.head_ns(min(num_tokens, 8)),
    )


def read_text(model: str) -> Text:
    """Reads the tokenizer of a checkpoint's directory; a plain name, or none, stands for one of single bytes.

    Raises:
        SettingRefused: It is neither.
        ModelRefused: The directory has no tokenizer.json, or one that can't be read.
    """
    directory = Path(model)
    if not model or not (directory.exists() or "/" in model):
        _log.info("tokenizer=bytes model=%r", model)
        return _byte_text()
    if not directory.is_dir():
        raise SettingRefused(
            f"--model: got {model}; allowed with --simulated is a directory, or a name "
            "without / for a tokenizer of bytes"
        )
    try:
        tokenizer = Tokenizer.from_buffer((directory / "tokenizer.json").read_bytes())
    except Exception as error:  # the library raises plain Exception
        raise ModelRefused(f"the tokenizer of {model} can't be read: {error}") from error
    settings = _read_json(directory / "tokenizer_config.json")
    template_file = directory / "chat_template.jinja"
    template = template_file.read_text() if template_file.exists() else settings.get("chat_template")
    return Text(
        tokenizer,
        _eos_ids(directory, tokenizer, settings.get("eos_token")),
        template if isinstance(template, str) else "",
        {role: token for role, token in settings.items() if role.endswith("_token") and isinstance(token, str)},
        sampling_defaults(_read_json(directory / "generation_config.json"), tokenizer.get_vocab_size()),
    )


def _byte_text() -> Text:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({_EOS: 0, **{byte: 1 + i for i, byte in enumerate(alphabet)}}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([_EOS])
    return Text(tokenizer, (0,), _TEMPLATE, {"eos_token": _EOS})


def _eos_ids(directory: Path, tokenizer: Tokenizer, of_tokenizer: object) -> tuple[int, ...]:
    """The end tokens as of a model that runs, as far as the tokenizer has them."""
    named = {
        name: _read_json(directory / f"{name}.json").get("eos_token_id") for name in ("generation_config", "config")
    }
    text = of_tokenizer.get("content") if isinstance(of_tokenizer, dict) else of_tokenizer
    of_text = tokenizer.token_to_id(text) if isinstance(text, str) else None
    return end_token_ids(tokenizer.get_vocab_size(), **named, tokenizer=of_text)


def _read_json(path: Path) -> Mapping[str, object]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ModelRefused(f"{path} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelRefused(f"{path}: got {type(content).__name__}, allowed is an object")
    return content
