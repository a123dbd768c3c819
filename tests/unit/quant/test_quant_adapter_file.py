"""Adapters on disk, read back with gguf-py as llama.cpp would."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from tiny_gguf import QWEN2, random_weights, write_gguf

from edgereason.errors import BundleError, ConfigError
from edgereason.quant.adapter_file import AdapterGrid, Product, base_of, write_adapter
from edgereason.quant.gguf_file import GgufModel

NAME = "blk.1.ffn_down.weight"


@pytest.fixture
def base(tmp_path):
    return GgufModel(write_gguf(tmp_path / "base.gguf", QWEN2, random_weights(QWEN2, 1)))


def product(rank=32, inputs=96, outputs=64):
    random = np.random.default_rng(0)
    a, b = random.standard_normal((rank, inputs)), random.standard_normal((outputs, rank))
    return Product(a.astype(np.float32), b.astype(np.float32))


def test_an_adapter_says_what_llama_cpp_reads(base, tmp_path):
    target = tmp_path / "adapter.gguf"
    write_adapter(
        target,
        base,
        {NAME: product()},
        alpha=64.0,
        grid=AdapterGrid.Q8_0,
        base_sha256="ab" * 32,
        invocation=(13708, 766),
    )
    fields = gguf.GGUFReader(target).fields
    keys = ("general.type", "general.architecture", "adapter.type", "adapter.lora.alpha")
    assert [fields[key].contents() for key in keys] == ["adapter", "qwen2", "lora", 64.0]
    ids = fields["adapter.alora.invocation_tokens"]
    assert ids.contents() == [13708, 766]
    assert ids.types == [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32]
    assert base_of(target) == "ab" * 32


@pytest.mark.parametrize(("grid", "off"), [(AdapterGrid.F16, 2.0**-11), (AdapterGrid.Q8_0, 0.5 / 127)])
def test_matrices_come_back_within_half_a_step(base, tmp_path, grid, off):
    target, written = tmp_path / "adapter.gguf", product()
    write_adapter(target, base, {NAME: written}, alpha=1.0, grid=grid)
    tensors = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(target).tensors}
    assert list(tensors) == [f"{NAME}.lora_a", f"{NAME}.lora_b"]
    for matrix, expected in zip(tensors.values(), written, strict=True):
        largest = np.abs(expected).max()
        assert 0 < np.abs(matrix - expected).max() <= largest * off * 1.06  # fp16's rounding of the step


def test_an_adapter_that_is_on_everywhere_has_no_invocation_and_any_rank_fits_f16(base, tmp_path):
    target = tmp_path / "adapter.gguf"
    write_adapter(target, base, {NAME: product(rank=5)}, alpha=1.0, grid=AdapterGrid.F16)
    assert "adapter.alora.invocation_tokens" not in gguf.GGUFReader(target).fields
    assert base_of(target) is None
    with pytest.raises(ConfigError, match="rank 5"):
        write_adapter(target, base, {NAME: product(rank=5)}, alpha=1.0, grid=AdapterGrid.Q8_0)
    assert base_of(target) is None  # the older file stands


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("blk.2.ffn_down.weight", product()), (NAME, product(inputs=64)), (NAME, product(outputs=96))],
)
def test_a_product_for_another_model_is_refused_and_leaves_nothing(base, tmp_path, name, wrong):
    with pytest.raises(BundleError, match="another model"):
        write_adapter(tmp_path / "adapter.gguf", base, {name: wrong}, alpha=1.0, grid=AdapterGrid.F16)
    assert [path.name for path in tmp_path.iterdir()] == ["base.gguf"]


def test_a_model_is_no_adapter(base):
    with pytest.raises(BundleError, match="is not a LoRA adapter"):
        base_of(base.path)
