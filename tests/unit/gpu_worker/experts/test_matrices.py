"""A packed weight multiplies as a dense one, and a model's linear layers are packed once or left alone for a reason."""

import gc
import weakref

import pytest
import torch
from torch import nn

from gpu_worker.experts.matrices import DenseMatrix, MatrixLinear, PackedMatrix, replace_linears
from gpu_worker.machine.onednn import can_pack
from tests.support.models.families import random_model

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(96, 64), (8, 64), (1, 64), (3, 5), (64, 1792)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_packed_and_dense_multiply_alike(dtype: torch.dtype, shape: tuple[int, int], has_bias: bool) -> None:
    if not can_pack(dtype, torch.device("cpu")):
        pytest.skip(f"this CPU multiplies no {dtype}")
    weight, bias = torch.randn(shape).to(dtype), torch.randn(shape[0]).to(dtype) if has_bias else None
    for x in (torch.randn(1, 1, shape[1]), torch.randn(17, shape[1]), torch.randn(0, shape[1])):
        dense, packed = (form(weight, bias)(x.to(dtype)) for form in (DenseMatrix, PackedMatrix))
        scale = float(dense.float().abs().max()) if len(x) else 1.0
        torch.testing.assert_close(packed, dense, rtol=0, atol=TOLERANCE[dtype] * scale)


def test_a_transposed_view_is_packed_as_what_it_shows() -> None:
    weight, x = torch.randn(64, 96).t(), torch.randn(4, 64)
    torch.testing.assert_close(PackedMatrix(weight, None)(x), DenseMatrix(weight, None)(x), rtol=0, atol=1e-4)


def test_both_forms_say_how_many_bytes_they_are() -> None:
    weight, bias = torch.randn(6, 4), torch.randn(6)
    assert DenseMatrix(weight, bias).nbytes == PackedMatrix(weight, bias).nbytes == (24 + 6) * 4


@pytest.mark.parametrize(
    ("dtype", "device"),
    [(torch.float64, "cpu"), (torch.int64, "cpu"), (torch.float32, "cuda"), (torch.float32, "meta")],
)
def test_what_onednn_does_not_multiply_is_not_packed(dtype: torch.dtype, device: str) -> None:
    assert not can_pack(dtype, torch.device(device))


def test_packing_a_model_lets_its_dense_weights_go() -> None:
    model = random_model("mixtral")
    layers = [module for module in model.modules() if type(module) is nn.Linear]
    dense = [weakref.ref(layer.weight) for layer in layers]
    names = {name for name, module in model.named_modules() if type(module) is nn.Linear}
    num_layers = len(layers)
    called = set(layers)
    del layers
    assert replace_linears(model, called, PackedMatrix) == num_layers
    del called
    gc.collect()
    assert not any(weight() is not None for weight in dense)
    assert {name for name, module in model.named_modules() if isinstance(module, MatrixLinear)} == names


def test_a_head_that_shares_the_embeddings_weight_is_not_copied() -> None:
    model = random_model("mixtral", tie_word_embeddings=True)
    replace_linears(model, set(model.modules()), PackedMatrix)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert isinstance(model.model.layers[0].self_attn.q_proj, MatrixLinear)


def test_layers_that_are_more_than_linear_are_left_alone() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    model = nn.Sequential(Scaled(4, 4), *(nn.Linear(4, 4) for _ in range(3))).requires_grad_(False)
    model[1].register_forward_hook(lambda *_: None)
    x = torch.randn(2, 4)
    expected = model(x)
    assert replace_linears(model, set(model[:3]), PackedMatrix) == 1
    assert [type(module) for module in model] == [Scaled, nn.Linear, MatrixLinear, nn.Linear]
    torch.testing.assert_close(model(x), expected)


def test_a_packed_layer_tells_its_type_and_place_as_a_linear_layer_does() -> None:
    packed = MatrixLinear(nn.Linear(4, 6, dtype=torch.float32).requires_grad_(False), PackedMatrix)
    assert (packed.in_features, packed.out_features) == (4, 6)
    assert (packed.weight.dtype, packed.weight.device.type, packed.weight.shape) == (torch.float32, "cpu", (6, 4))
