"""Experts are quantized one by one, while they are read, and nothing is said of them that is not so.

What needs bitsandbytes imports it: it takes seconds, which every process would take that collects this file.
"""

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.core_model_loading import MergeModulelist

from gpu_worker.experts import quantization
from gpu_worker.experts.matrices import ANY_ROWS, MatrixLinear
from gpu_worker.experts.quantization import form_of
from gpu_worker.experts.queues import is_experts
from gpu_worker.model.loader import LoadedModel, adopt_model, load_model
from gpu_worker.model.weights import Quantization, WeightOptions
from tests.support.models.families import random_model
from tests.support.worker.worker_driver import Driver, random_prompts

NF4 = WeightOptions(quantization="bnb-4bit")
PROMPTS = random_prompts((5, 23, 11))
NUM_TOKENS = 8
# Wide enough that scales and tables of values weigh little.
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}


class Linear4bit:
    """A matrix as bitsandbytes' own layer, without repacking for CPUs that multiply in bfloat16, which rounds anew."""

    most_rows = ANY_ROWS

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        import bitsandbytes as bnb

        out_features, in_features = weight.shape
        self.num_weights = weight.numel()
        self._layer: Any = bnb.nn.Linear4bit(in_features, out_features, bias=False, quant_type="nf4")
        self._layer.weight = bnb.nn.Params4bit(weight.contiguous(), requires_grad=False, quant_type="nf4").to("cpu")
        self._layer.support_avx512bf16_for_cpu = False
        self.weight = torch.empty(0)
        self.nbytes = 0
        assert bias is None

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = self._layer(x)
        return y


def tokens_of(model: LoadedModel) -> tuple[tuple[int, ...], ...]:
    driver = Driver(model)
    stories = [driver.add(prompt, NUM_TOKENS) for prompt in PROMPTS]
    driver.finish(*stories, chunk=9)
    return tuple(story.token_ids for story in stories)


def saved(path: Path, family: str, **settings: Any) -> str:
    random_model(family, **settings).save_pretrained(path)
    return str(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [1, 7])
def test_FourBitMatrix_multiply_as_bitsandbytes_own_layer_does(dtype: torch.dtype, num_rows: int) -> None:
    weight, x = torch.randn(96, 128, dtype=dtype), torch.randn(num_rows, 128, dtype=dtype)
    assert torch.equal(form_of("bnb-4bit")(weight, None)(x), Linear4bit(weight, None)(x))


def test_eight_bits_are_within_their_step_of_the_weight_and_take_any_shape() -> None:
    weight, bias, x = torch.randn(96, 128), torch.randn(96), torch.randn(2, 3, 128)
    expected = nn.functional.linear(x, weight, bias)
    error = (form_of("bnb-8bit")(weight, bias)(x) - expected).norm() / expected.norm()
    assert error < 0.02


@pytest.mark.parametrize("scheme", ["bnb-4bit", "bnb-8bit"])
def test_a_bias_may_come_later(scheme: Quantization) -> None:
    form = form_of(scheme)
    weight, bias, x = torch.randn(96, 128), torch.randn(96), torch.randn(3, 128)
    late = form(weight, None)
    late.set_bias(bias)
    assert torch.equal(late(x), form(weight, bias)(x))


def test_logits_are_those_of_a_model_made_of_bitsandbytes_own_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = adopt_model(random_model("mixtral", **WIDE), name="ours", options=NF4)
    monkeypatch.setattr(quantization, "form_of", lambda scheme: Linear4bit)
    theirs = adopt_model(random_model("mixtral", **WIDE), name="theirs", options=NF4)
    samples = []
    for model in (ours, theirs):
        driver = Driver(model)
        story = driver.add(PROMPTS[1], NUM_TOKENS)
        driver.finish(story)
        samples.append([(token.token_id, token.logprob) for token in story.outputs])
    assert samples[0] == samples[1]


@pytest.mark.parametrize(
    ("scheme", "bits"), [("int8", 8.1), ("bnb-4bit", 4.3), ("bnb-4bit-fp4", 4.3), ("bnb-8bit", 8.2)]
)
def test_every_expert_takes_the_bits_that_it_should(tmp_path: Path, scheme: Quantization, bits: float) -> None:
    model = load_model(saved(tmp_path, "mixtral", **WIDE), options=WeightOptions(quantization=scheme))
    for layer in model.expert_weights:
        assert layer is not None
        assert layer.num_weights == 8 * 3 * 256 * 512
        assert 8 * layer.nbytes / layer.num_weights < bits
    assert model.facts.quantization == scheme
    assert not [name for name, parameter in model.model.named_parameters() if "experts" in name and parameter.numel()]


# A family decides what is read as one matrix, a scheme what becomes of it: each is tried, not each with each.
@pytest.mark.parametrize(
    ("family", "scheme"),
    [(family, "bnb-4bit") for family in ("mixtral", "gpt_oss", "deepseek_v3", "qwen3_next", "nemotron_h")]
    + [("gpt_oss", "int8"), ("gpt_oss", "bnb-8bit"), ("mixtral", "int8"), ("mixtral", "bnb-8bit")],
)
def test_experts_quantized_while_read_are_those_quantized_in_memory(
    tmp_path: Path, family: str, scheme: Quantization
) -> None:
    options = WeightOptions(quantization=scheme)
    read = load_model(saved(tmp_path, family), options=options)
    assert tokens_of(read) == tokens_of(adopt_model(random_model(family), name=family, options=options))


def test_no_two_layers_experts_are_in_memory_at_full_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    convert = quantization._QuantizeArriving.convert

    def watched(self: Any, input_dict: dict[str, Any], *patterns: Any, model: Any = None, **others: Any) -> Any:
        experts = [module for module in model.modules() if is_experts(module)]
        held.append(sum(p.nbytes for module in experts for p in module.parameters() if p.device.type != "meta"))
        return convert(self, input_dict, *patterns, model=model, **others)

    monkeypatch.setattr(quantization._QuantizeArriving, "convert", watched)
    load_model(saved(tmp_path, "mixtral"), options=NF4)
    assert len(held) >= 6  # two projections of three layers, and linear layers
    assert not any(held)


def test_experts_are_not_merged_at_full_precision_and_linear_layers_do_not_wait_for_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from gpu_worker.experts.bnb import FourBitMatrix

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("merged")

    monkeypatch.setattr(MergeModulelist, "convert", refuse)
    caplog.set_level("INFO")
    loaded = load_model(saved(tmp_path, "mixtral"), options=NF4)
    assert "quantized 12 linear layers as they were read" in caplog.text  # four of each layer
    head = loaded.model.get_output_embeddings()
    linears = [module for module in loaded.model.modules() if isinstance(module, (nn.Linear, MatrixLinear))]
    assert all(isinstance(module.matrix, FourBitMatrix) for module in linears if module is not head)


@pytest.mark.parametrize("scheme", ["int8", "bnb-4bit", "bnb-8bit"])
def test_stopping_everywhere_changes_no_token(scheme: Quantization) -> None:
    model = adopt_model(random_model("mixtral"), name="quantized", options=WeightOptions(quantization=scheme))
    expected = tokens_of(model)
    driver = Driver(model, rng=Random(3))
    stories = [driver.add(prompt, NUM_TOKENS) for prompt in PROMPTS]
    while live := [story for story in stories if not story.is_over]:
        batch_id = driver.start(*live, chunk=9)
        cursor = driver.cursor(batch_id)
        while batch_id in driver.batches:
            cursor = driver.next_cursor(cursor)
            assert not driver.advance(batch_id, until=cursor).batch_errors
            cursor = driver.cursor(batch_id) if batch_id in driver.batches else cursor
    assert tuple(story.token_ids for story in stories) == expected


def test_a_checkpoint_of_bitsandbytes_is_served_as_it_is_and_its_experts_are_quantized_on_request(
    tmp_path: Path,
) -> None:
    from gpu_worker.experts.bnb import FourBitMatrix

    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    plain = saved(tmp_path / "plain", "mixtral")
    model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=settings, dtype=torch.float32)
    model.save_pretrained(tmp_path / "quantized")
    ids = torch.tensor([PROMPTS[1]])
    expected = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NUM_TOKENS, do_sample=False, eos_token_id=None
    )
    served = load_model(str(tmp_path / "quantized"))
    assert served.facts.quantization == "bitsandbytes"
    assert tokens_of(served)[1] == tuple(expected[0, len(PROMPTS[1]) :].tolist())
    experts = load_model(str(tmp_path / "quantized"), options=NF4).expert_weights
    assert all(isinstance(layer._up[0], FourBitMatrix) for layer in experts)  # type: ignore[union-attr]


def test_a_checkpoint_that_transformers_dequantizes_is_served_and_called_not_quantized(tmp_path: Path) -> None:
    saved(tmp_path, "mixtral", hidden_size=128, intermediate_size=128, head_dim=32)
    _to_fp8(tmp_path)
    served = load_model(str(tmp_path), options=WeightOptions("float32"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.tensor([PROMPTS[1]])
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NUM_TOKENS, do_sample=False)
    assert served.facts.quantization == "none"
    assert tokens_of(served)[1] == tuple(expected[0, len(PROMPTS[1]) :].tolist())


def _to_fp8(directory: Path) -> None:
    """Rewrites a checkpoint in 8-bit floats with a scale for each block of 128 x 128."""
    weights = load_file(directory / "model.safetensors")
    for name in [name for name in weights if "experts" in name or "self_attn" in name]:
        out_features, in_features = weights[name].shape
        rows, columns = max(1, out_features // 128), in_features // 128
        blocks = weights[name].view(rows, out_features // rows, columns, 128)
        scales = blocks.abs().amax((1, 3)) / 448  # the largest number of the format
        scaled = (blocks / scales[:, None, :, None]).view(out_features, in_features)
        weights[name], weights[f"{name}_scale_inv"] = scaled.to(torch.float8_e4m3fn), scales
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
    }
    (directory / "config.json").write_text(json.dumps(config))
