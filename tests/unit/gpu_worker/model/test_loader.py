"""A model directory is loaded with all that the scheduler must know of it, or refused with the reason."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from gpu_worker.cache.unified import Layout
from gpu_worker.contract.introduction import SamplingDefaults
from gpu_worker.errors import ModelRefused
from gpu_worker.experts.matrices import MatrixLinear
from gpu_worker.experts.queues import ExpertWork, LayerExperts
from gpu_worker.model import loader, weights
from gpu_worker.model.inspection import ErrorLimit
from gpu_worker.model.loader import adopt_model, load_model
from gpu_worker.model.weights import Quantization, WeightOptions
from tests.support.models.families import generated, random_model, tiny_config
from tests.support.worker.worker_driver import Driver, random_prompts

PROMPTS = random_prompts((5, 11))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A tiny mixtral with two ends of text, one in each of its configurations."""
    model = random_model("mixtral", eos_token_id=2)
    model.generation_config.eos_token_id = [2, 7]
    model.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def _change_config(directory: Path, **settings: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_a_directory_tells_what_it_holds(directory: Path) -> None:
    facts = load_model(str(directory)).facts
    assert (facts.name, facts.family, facts.num_layers, facts.experts_by_layer) == ("tiny", "mixtral", 3, (8, 8, 8))
    assert (facts.num_experts_per_token, facts.vocab_size, facts.max_model_len) == (2, 512, 512)
    assert (facts.eos_token_ids, facts.dtype, facts.device) == ((2, 7), "float32", "cpu")
    assert facts.tokenizer.tokenizer_json == b""


def test_a_loaded_directory_generates_as_the_model_that_was_saved(directory: Path) -> None:
    tokens = []
    for model in (load_model(str(directory)), adopt_model(random_model("mixtral"), name="same")):
        driver = Driver(model)
        story = driver.add([5, 6, 7], 6)
        driver.finish(story)
        tokens.append(story.token_ids)
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "deepseek_v2", "ernie4_5_moe"])
def test_dense_and_packed_weights_generate_alike(family: str) -> None:
    tokens = []
    for form in ("dense", "packed"):
        driver = Driver(adopt_model(random_model(family), name=family, options=WeightOptions(form=form)))
        story = driver.add([5, 6, 7, 8, 9], 8)
        driver.finish(story, chunk=3)
        tokens.append(story.token_ids)
    assert tokens[0] == tokens[1]


def test_weights_are_packed_where_they_can_be_and_refused_where_they_must_be_and_can_t(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert isinstance(adopt_model(random_model("mixtral"), name="any").model.lm_head, MatrixLinear)
    monkeypatch.setattr(weights, "can_pack", lambda dtype, device: False)
    assert isinstance(adopt_model(random_model("mixtral"), name="any").model.lm_head, torch.nn.Linear)
    with pytest.raises(ModelRefused, match="type float32 can't be packed on cpu; allowed are auto and dense"):
        adopt_model(random_model("mixtral"), name="any", options=WeightOptions(form="packed"))


def test_the_tokenizer_template_and_special_tokens_come_along(directory: Path) -> None:
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, "hello": 3}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", chat_template="{{ messages }}"
    )
    tokenizer.save_pretrained(directory)
    facts = load_model(str(directory), name="mine").facts
    assert facts.name == "mine"
    assert Tokenizer.from_buffer(facts.tokenizer.tokenizer_json).encode("hello").ids == [3]
    assert facts.tokenizer.chat_template == "{{ messages }}"
    assert facts.tokenizer.special_tokens == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def test_the_tokenizers_end_token_ends_a_text_too(directory: Path) -> None:
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "hello": 3, "<end>": 9}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<end>").save_pretrained(directory)
    assert load_model(str(directory)).facts.eos_token_ids == (2, 7, 9)


def test_the_models_own_sampling_comes_along_unless_it_is_to_be_left_aside(directory: Path) -> None:
    path = directory / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_sample": True, "temperature": 0.6, "top_p": 0.95}))
    assert load_model(str(directory)).facts.sampling == SamplingDefaults(temperature=0.6, top_p=0.95)
    assert load_model(str(directory), uses_generation_config=False).facts.sampling == SamplingDefaults()


def test_the_compute_type_can_be_chosen(directory: Path) -> None:
    loaded = load_model(str(directory), options=WeightOptions("bfloat16"))
    assert loaded.facts.dtype == "bfloat16"
    driver = Driver(loaded)
    story = driver.add([5, 6, 7], 3)
    driver.finish(story, chunk=2)
    assert len(story.token_ids) == 3


def test_the_longest_text_can_be_limited_but_not_beyond_the_model(directory: Path) -> None:
    assert load_model(str(directory), max_model_len=100).facts.max_model_len == 100
    with pytest.raises(ModelRefused, match="--max-model-len: got 513, allowed with this model is 2 to 512"):
        load_model(str(directory), max_model_len=513)


def test_positions_that_scale_with_the_longest_text_of_a_batch_are_kept_below_where_they_do() -> None:
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "rope_theta": 10000.0}
    rope |= {"original_max_position_embeddings": 64, "short_mscale": 1.0, "long_mscale": 1.0, "factor": 8.0}
    model = random_model("phimoe", rope_parameters=rope, original_max_position_embeddings=64)
    assert adopt_model(model, name="long").facts.max_model_len == 64


def test_weights_that_are_not_safetensors_are_refused(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    with pytest.raises(ModelRefused, match="holds no weights"):
        load_model(str(directory))
    torch.save({}, directory / "pytorch_model.bin")
    with pytest.raises(ModelRefused, match=r"only pytorch_model.bin; weights must be in safetensors"):
        load_model(str(directory))


def test_a_model_that_needs_its_own_code_is_refused(directory: Path) -> None:
    _change_config(directory, auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"}, model_type="mine")
    (directory / "modeling_mine.py").write_text("raise SystemExit('this must never run')")
    with pytest.raises(ModelRefused, match="a model's code is never run"):
        load_model(str(directory))


def test_code_that_comes_with_a_family_known_here_is_left_alone(directory: Path) -> None:
    _change_config(directory, auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"})
    (directory / "modeling_mine.py").write_text("raise SystemExit('this must never run')")
    assert load_model(str(directory)).facts.family == "mixtral"


def test_a_checkpoint_that_lacks_weights_is_refused_rather_than_filled_up(directory: Path) -> None:
    _change_config(directory, num_hidden_layers=4)
    with pytest.raises(ModelRefused, match=r"lacks \d+ weights, such as model\.layers\.3"):
        load_model(str(directory))


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "can't be read"), ('{"model_type": "nonsense"}', "can't be served"), ("{}", "can't be served")],
)
def test_a_configuration_that_makes_no_sense_is_refused(directory: Path, content: str, reason: str) -> None:
    (directory / "config.json").write_text(content)
    with pytest.raises(ModelRefused, match=reason):
        load_model(str(directory))


def test_a_name_that_is_no_directory_is_refused_as_one_that_the_hub_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ModelRefused, match="nowhere, which is no directory here and was looked for on the Hugging Face hub, can't"
    ):
        load_model("nowhere")


def test_a_path_that_is_no_model_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="is no directory"):
        load_model(str(tmp_path / "missing"))
    with pytest.raises(ModelRefused, match=r"has no config\.json"):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("family", "settings", "reason"),
    [
        ("llama4_text", {}, "layers of type chunked_attention"),
        ("mamba", {}, "does not say how long a text may be"),
    ],
)
def test_families_out_of_reach_are_refused_with_the_reason(family: str, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelRefused, match=reason):
        adopt_model(random_model(family, **settings), name=family)


def test_an_encoder_decoder_model_is_refused(directory: Path) -> None:
    _change_config(directory, is_encoder_decoder=True)
    with pytest.raises(ModelRefused, match="encoder-decoder"):
        load_model(str(directory))


def test_a_layer_that_does_not_attend_through_the_interface_is_refused() -> None:
    model = random_model("mixtral")
    model.model.layers[1].self_attn.config = copy.copy(model.config)  # which goes on to say what it said
    with pytest.raises(ModelRefused, match="layer 1 of this mixtral stores K/V 1 times and attends 0 times"):
        adopt_model(model, name="odd")


def test_attention_that_asks_for_more_than_is_computed_is_refused() -> None:
    model = random_model("mixtral")
    attention = model.model.layers[1].self_attn
    forward = attention.forward
    attention.forward = lambda *args, **kwargs: forward(*args, **kwargs, head_mask=torch.zeros(1, 1, 1, 1))
    with pytest.raises(ModelRefused, match="asks for head_mask"):
        adopt_model(model, name="odd")


def test_state_that_the_cache_does_not_see_is_refused() -> None:
    model = random_model("mixtral")

    def mix_with_the_token_before(_: object, args: object, output: torch.Tensor) -> torch.Tensor:
        return output + torch.nn.functional.pad(output, (0, 0, 1, 0))[:, :-1]

    model.model.layers[1].register_forward_hook(mix_with_the_token_before)
    with pytest.raises(ModelRefused, match="keeps state that is not seen here"):
        adopt_model(model, name="odd")


def test_a_model_that_fails_its_trial_run_is_refused() -> None:
    model = random_model("mixtral")
    model.model.norm.forward = lambda _: 1 / 0
    with pytest.raises(ModelRefused, match=r"failed a trial run: ZeroDivisionError"):
        adopt_model(model, name="odd")


@pytest.mark.parametrize("quantization", ["none", "bnb-4bit"])
@pytest.mark.parametrize("family", ["mixtral", "qwen3_next", "gpt_oss"])
def test_random_weights_need_a_configuration_only(tmp_path: Path, family: str, quantization: Quantization) -> None:
    tiny_config(family).save_pretrained(tmp_path)
    options = WeightOptions("float32", quantization=quantization, source="dummy")
    loaded = load_model(str(tmp_path), options=options)
    expected = dict(random_model(family).named_buffers())
    for name, buffer in loaded.model.named_buffers():
        torch.testing.assert_close(buffer, expected[name])
    driver = Driver(loaded)
    story = driver.add([5, 6, 7], 4)
    driver.finish(story)
    assert len(story.token_ids) == 4
    with pytest.raises(ModelRefused, match="holds no weights"):
        load_model(str(tmp_path))


def test_a_last_bit_that_flips_one_prompt_s_experts_refuses_no_model_of_half_precision() -> None:
    half, full = ErrorLimit(0.3, is_median=True), ErrorLimit(0.01, is_median=False)
    assert half.holds([0.03, 0.6, 0.01, 0.02, 0.03])
    assert not half.holds([0.4, 0.6, 0.01, 0.5, 0.03])
    assert not half.holds([0.0, 0.0, 0.0, 0.0, float("nan")])
    assert full.holds([0.001, 0.009])
    assert not full.holds([0.001, 0.02])


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "qwen3_moe"])
def test_models_of_half_precision_are_served(family: str) -> None:
    loaded = adopt_model(random_model(family, dtype=torch.bfloat16), name=family)
    assert loaded.facts.dtype == "bfloat16"


def _refuses(self: LayerExperts, work: ExpertWork) -> Tensor:
    raise RuntimeError("strides should be multiple of 16 bytes\nException raised from ...")


def _gives_zeros(self: LayerExperts, work: ExpertWork) -> Tensor:
    return torch.zeros_like(work.hidden)


def test_whole_layers_run_where_a_device_has_grouped_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Layout, "of", lambda device: Layout.PAGES)
    model = adopt_model(random_model("mixtral"), name="right", options=WeightOptions(form="dense"))
    assert all(weights is not None and weights.runs_whole for weights in model.expert_weights)


@pytest.mark.parametrize(
    ("grouped", "reason"), [(_refuses, "RuntimeError: strides"), (_gives_zeros, "relative errors of the logits")]
)
def test_experts_run_one_by_one_where_grouped_products_raise_or_give_something_else(
    grouped: Callable[..., Tensor], reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = generated("mixtral", PROMPTS, 4)
    monkeypatch.setattr(Layout, "of", lambda device: Layout.PAGES)
    monkeypatch.setattr(LayerExperts, "run_whole", grouped)
    model = adopt_model(random_model("mixtral"), name="mixtral", options=WeightOptions(form="dense"))
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert reason in warning
    assert "instead=one by one" in warning
    driver = Driver(model, layout=Layout.PAGES)
    stories = [driver.add(prompt, 4) for prompt in PROMPTS]
    driver.finish(*stories)
    assert tuple(story.token_ids for story in stories) == expected


def test_of_random_weights_in_half_precision_only_unrelated_logits_are_refused() -> None:
    half, full = (SimpleNamespace(dtype=dtype) for dtype in (torch.bfloat16, torch.float32))
    limit = loader._error_limit(half, WeightOptions(source="dummy"))
    assert limit.holds([0.6] * 5)
    assert not limit.holds([1.4] * 5)
    assert not loader._error_limit(half, WeightOptions()).holds([0.6] * 5)
    assert not loader._error_limit(full, WeightOptions(source="dummy")).holds([0.02] * 5)
