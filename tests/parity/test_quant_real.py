"""Quantizing on real models: transforms that change nothing, bytes that are the weights, logits that agree.

Slow: the 0.5B is merged, converted and run in float32 torch (8 GB of memory).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from float_model import float_file

from edgereason.core.bundle import file_sha256
from edgereason.engine.llama import LlamaEngine
from edgereason.quant.apply import apply
from edgereason.quant.blocks import quantize
from edgereason.quant.gguf_file import GgufModel, from_gguf_order, hf_names
from edgereason.quant.learned import Learned, StorageConfig
from edgereason.quant.merge import Merge, output_names
from edgereason.train.quant.load import load_torch
from edgereason.train.quant.student import CorrectionConfig, Student
from edgereason.train.quant.transforms import TransformConfig

pytestmark = [pytest.mark.model, pytest.mark.slow]

TEXT = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many "
    "clips did Natalia sell altogether in April and May? In May she sold 48 / 2 = 24 clips. Altogether she "
    "sold 48 + 24 = 72 clips in April and May."
)


def random_student(teacher, dims, storage=None):
    """Transforms far from where they start, as no training would leave them."""
    torch.manual_seed(0)
    student = Student(teacher, dims, storage or StorageConfig(), TransformConfig(), CorrectionConfig())
    with torch.no_grad():
        for layer in student.transforms.each():
            layer.angle.normal_()
            layer.log_scale.normal_(0, 0.3)
            layer.mix.add_(0.04 * torch.randn_like(layer.mix))
            layer.log_up.normal_(0, 0.5)
        for parameter in student.transforms.rotation.parameters():
            parameter.add_(1e-3 * torch.randn_like(parameter))
    return student


def ids_of(path: Path, text: str = TEXT) -> list[int]:
    with LlamaEngine(path) as engine:
        return engine.tokenize(text)


@pytest.mark.parametrize("name", ["smollm2", "qwen"])
def test_transforms_change_every_weight_and_no_output(name, request, tmp_path):
    path = request.getfixturevalue(name)
    ids = torch.tensor([ids_of(path)])
    model = GgufModel(path)
    torch_model = load_torch(model, file_sha256(path), tmp_path)
    with torch.no_grad():
        before = torch_model(input_ids=ids).logits
    student = random_student(torch_model, model.dims)
    learned = Learned(name="moved", teacher_sha256=file_sha256(path), tensors=student.transforms.factors())
    merge, names, weights = Merge(model, learned), hf_names(model.dims), torch_model.state_dict()
    for tensor in output_names(model, tied=False):
        merged = torch.from_numpy(from_gguf_order(model.dims, tensor, merge.tensor(tensor)))
        if merged.ndim == 2:
            assert (merged - weights[names[tensor]]).abs().mean() > 0.1 * merged.abs().mean(), tensor
        weights[names[tensor]].copy_(merged)
    with torch.no_grad():
        after = torch_model(input_ids=ids).logits
    assert (after - before).abs().max() <= 1e-4 * before.abs().max()


def test_every_tensor_of_a_base_is_what_was_put_on_the_grid(smollm2, tmp_path):
    model = GgufModel(smollm2)
    torch_model = load_torch(model, file_sha256(smollm2), tmp_path / "cache")
    factors = random_student(torch_model, model.dims).transforms.factors()
    learned = Learned(name="moved", teacher_sha256=file_sha256(smollm2), tensors=factors)
    apply(smollm2, learned, tmp_path / "base.gguf")
    merge, storage = Merge(model, learned), learned.storage
    for tensor in gguf.GGUFReader(tmp_path / "base.gguf").tensors:
        expected = merge.tensor(tensor.name)
        if tensor.tensor_type.name in ("Q4_0", "Q8_0"):
            grid = storage.embedding if tensor.name == "token_embd.weight" else storage.linears
            expected = quantize(expected, grid, ranges=storage.ranges).dequantized()
        stored = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(stored.reshape(expected.shape), expected), tensor.name


def logprobs_of(path: Path, ids: list[int]) -> np.ndarray:
    """What the engine gives every token but the first, after those before it."""
    with LlamaEngine(path) as engine, engine.reserve(cells=len(ids), sequences=1):
        sequence = engine.new_sequence()
        engine.encode(sequence, ids[:1])
        (scored,) = engine.score([(sequence, ids[1:])])
    return np.array(scored.logprobs)


@pytest.mark.parametrize("name", ["smollm2", "qwen"])
def test_the_engine_gives_the_log_probabilities_of_the_simulation(name, request, tmp_path):
    path = request.getfixturevalue(name)
    sha256 = file_sha256(path)
    learned = Learned(name="plain", teacher_sha256=sha256)
    apply(path, learned, tmp_path / "base.gguf")
    model = GgufModel(path)
    student = Student(
        load_torch(model, sha256, tmp_path / "cache"),
        model.dims,
        learned.storage,
        TransformConfig(residual=False, keys=False, values=False, up=False),
        CorrectionConfig(),
    )
    student.refresh()
    ids = ids_of(path)
    with torch.no_grad():
        logits = student.hidden(torch.tensor([ids]))[0] @ student.head().T
    simulated = torch.log_softmax(logits.double(), -1)[torch.arange(len(ids) - 1), ids[1:]].numpy()
    # The same weights in float32: what is left is the cache's half precision.
    exact = logprobs_of(float_file(tmp_path / "base.gguf", tmp_path / "float.gguf"), ids)
    assert np.abs(exact - simulated).mean() < 0.01
    # In four bits the engine also rounds activations to 8 bits per 32, which the simulation does not: a token
    # may become likelier or less so, a text hardly.
    rounded = logprobs_of(tmp_path / "base.gguf", ids)
    assert np.abs(rounded - simulated).mean() < 0.15
    assert abs(rounded.mean() - simulated.mean()) < 0.02


def test_making_a_base_twice_gives_the_same_bytes(smollm2, tmp_path):
    learned = Learned(name="plain", teacher_sha256=file_sha256(smollm2))
    for name in ("one", "two"):
        apply(smollm2, learned, tmp_path / name)
    assert file_sha256(tmp_path / "one") == file_sha256(tmp_path / "two")
    apply(smollm2, replace(learned, name="other"), tmp_path / "three")
    assert file_sha256(tmp_path / "three") != file_sha256(tmp_path / "one")
