"""The transforms in torch: where they start, what they ship, and that they merge as `Merge` does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_gguf import LLAMA, QWEN2, learned_for
from tiny_torch import hf_name, hf_rows, stir

from edgereason.errors import ConfigError
from edgereason.quant.dyadic import exact_product, on_grid
from edgereason.quant.merge import Merge
from edgereason.train.quant.fake_quant import hadamard
from edgereason.train.quant.transforms import Rotation, TransformConfig, Transforms

ALL = ("residual", "keys", "values", "up")


def only(*used: str, start: str = "hadamard") -> TransformConfig:
    return TransformConfig(**{kind: kind in used for kind in ALL}, start=start)


def layer_weights(teacher, n):
    layer = teacher.model.model.layers[n]
    return {name: parameter.detach() for name, parameter in layer.named_parameters()}


@pytest.mark.parametrize("used", [ALL, *((kind,) for kind in ALL)], ids=["all", *ALL])
@pytest.mark.parametrize("shape", [QWEN2, LLAMA], ids=["qwen2", "llama"])
def test_a_layer_merges_as_the_exact_merge_does(loaded, shape, used):
    # GIVEN
    teacher = loaded[shape.arch]
    transforms = Transforms(teacher.dims, only(*used))
    stir(transforms, spread=0.05)  # A stays far from singular
    random = torch.Generator().manual_seed(1)
    for layer in transforms.layers:
        for name, parameter in layer.named_parameters():
            if name != "mix":
                parameter.data += 0.5 * torch.randn(parameter.shape, generator=random)
    # WHEN merged in float32 and transformers' order, and in float64 and the GGUF's from what is shipped
    q = transforms.q()
    merge = Merge(teacher.file, learned_for(teacher.path, transforms.factors()))
    # THEN
    for n in range(shape.layers):
        original = layer_weights(teacher, n)
        merged = transforms.layers[n].merged(original, q)
        assert merged.keys() == original.keys()
        for name in teacher.file.names:
            if name.startswith(f"blk.{n}."):
                hf = hf_name(name).removeprefix(f"model.layers.{n}.")
                expected = merge.tensor(name)
                expected = expected[hf_rows(shape, name, len(expected))]
                off = np.abs(merged[hf].detach().numpy() - expected).max()
                assert off <= 1e-5 * np.abs(expected).max(), name


def test_transforms_that_are_not_used_leave_the_weights_and_ship_nothing(loaded):
    teacher = loaded["qwen2"]
    transforms = Transforms(teacher.dims, only())
    original = layer_weights(teacher, 0)
    merged = transforms.layers[0].merged(original, transforms.q())
    assert all(torch.equal(merged[name], original[name]) for name in original)
    assert transforms.factors() == {}
    assert not list(transforms.parameters())


def test_the_weights_that_are_given_are_not_changed(loaded):
    teacher = loaded["qwen2"]
    transforms = Transforms(teacher.dims, only(*ALL))
    stir(transforms)
    original = layer_weights(teacher, 0)
    before = {name: values.clone() for name, values in original.items()}
    transforms.layers[0].merged(original, transforms.q())
    assert all(torch.equal(original[name], before[name]) for name in before)


def test_all_but_the_rotation_start_at_identity(loaded):
    shipped = Transforms(loaded["qwen2"].dims, only("keys", "values", "up")).factors()
    for n in range(2):
        assert np.array_equal(shipped[f"blk.{n}.keys.cos"], np.ones((2, 8)))
        assert np.array_equal(shipped[f"blk.{n}.keys.sin"], np.zeros((2, 8)))
        assert np.array_equal(shipped[f"blk.{n}.values"], [np.eye(16)] * 2)
        assert np.array_equal(shipped[f"blk.{n}.values_inverse"], [np.eye(16)] * 2)
        assert np.array_equal(shipped[f"blk.{n}.up"], np.ones(96))


@pytest.mark.parametrize("start", ["hadamard", "identity"])
def test_a_rotation_starts_where_it_is_told_and_stays_orthogonal(start):
    rotation = Rotation(64, start)
    expected = np.eye(64) if start == "identity" else hadamard(64) / 8
    assert np.abs(rotation.weight.detach().numpy() - expected).max() < 1e-6
    stir(rotation, spread=0.3)
    q = rotation.weight.detach().double()
    assert (q - torch.from_numpy(expected)).abs().max() > 0.1
    assert (q @ q.T - torch.eye(64, dtype=torch.float64)).abs().max() < 1e-5


@pytest.mark.parametrize("start", ["hadamard", "identity"])
@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-4, 0.1])
def test_a_rotation_is_shipped_on_its_grid_however_little_it_moved(start, spread):
    # From the identity its largest entry lies a hair below 1, which must not cost the grid a bit.
    rotation = Rotation(36, start)
    stir(rotation, spread=spread)
    shipped = rotation.factor()
    assert np.array_equal(on_grid(shipped), shipped)
    assert np.abs(shipped - rotation.weight.detach().numpy()).max() <= 2.0**-20
    assert np.isfinite(exact_product(np.eye(36), shipped.astype(np.float64), factor=np.eye(36))).all()


def test_a_matrix_for_values_and_its_inverse_are_shipped_on_grids(loaded):
    transforms = Transforms(loaded["qwen2"].dims, only("values"))
    stir(transforms)
    shipped = transforms.factors()
    mix, inverse = shipped["blk.0.values"], shipped["blk.0.values_inverse"]
    assert all(np.array_equal(on_grid(values), values) for values in (mix, inverse))
    product = mix.astype(np.float64) @ inverse.astype(np.float64)
    assert np.abs(product - np.eye(16)).max() < 16 * 2 * 2.0**-19  # 16 terms, each off by half a unit or so


def test_transforms_of_keys_are_refused_where_keys_are_normalised(loaded):
    with pytest.raises(ConfigError, match=r"qwen3 normalises.*T_k"):
        Transforms(loaded["qwen3"].dims, only(*ALL))
    Transforms(loaded["qwen3"].dims, only("residual", "values", "up"))


def test_a_hidden_size_without_a_hadamard_matrix_is_refused(loaded):
    dims = replace(loaded["qwen2"].dims, hidden_size=44)
    with pytest.raises(ConfigError, match=r"\b44\b.*identity"):
        Transforms(dims, only("residual"))
    assert Transforms(dims, only("residual", start="identity")).q().shape == (44, 44)


def test_an_unknown_start_is_refused():
    with pytest.raises(ConfigError, match="'random'"):
        TransformConfig(start="random")
