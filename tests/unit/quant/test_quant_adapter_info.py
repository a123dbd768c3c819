"""What an adapter's file says of itself, and whether it fits a base."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from tiny_gguf import LLAMA, QWEN2, random_weights, write_gguf, write_out

from edgereason.errors import BundleError
from edgereason.quant.adapter_file import AdapterGrid, Product, read_adapter_info, require_fit, write_adapter
from edgereason.quant.gguf_file import GgufModel

DOWN, Q = "blk.1.ffn_down.weight", "blk.0.attn_q.weight"


@pytest.fixture
def base(tmp_path):
    return GgufModel(write_gguf(tmp_path / "base.gguf", QWEN2, random_weights(QWEN2, 1)))


def product(rank, inputs, outputs):
    return Product(np.ones((rank, inputs), np.float32), np.ones((outputs, rank), np.float32))


@pytest.fixture
def adapter(base, tmp_path):
    path = tmp_path / "adapter.gguf"
    products = {DOWN: product(64, 96, 64), Q: product(32, 64, 64)}
    write_adapter(
        path, base, products, alpha=1, grid=AdapterGrid.Q8_0, base_sha256="ab" * 32, invocation=(7, 8)
    )
    return path


def test_what_was_written_is_said_and_fits(base, adapter):
    info = read_adapter_info(adapter)
    assert (info.arch, info.base_sha256, info.invocation) == ("qwen2", "ab" * 32, (7, 8))
    assert info.products == {Q: ((32, 64), (64, 32)), DOWN: ((64, 96), (64, 64))}
    assert (info.rank, info.storage) == (64, "Q8_0")
    require_fit(info, base)


def test_an_adapter_that_names_no_base_says_so(base, tmp_path):
    path = tmp_path / "adapter.gguf"
    write_adapter(path, base, {Q: product(4, 64, 64)}, alpha=1, grid=AdapterGrid.F16)
    info = read_adapter_info(path)
    assert (info.base_sha256, info.invocation, info.storage) == (None, (), "F16")


def test_another_family_or_shape_is_refused_by_name(adapter, tmp_path):
    info = read_adapter_info(adapter)
    llama = GgufModel(write_gguf(tmp_path / "llama.gguf", LLAMA, random_weights(LLAMA, 1)))
    with pytest.raises(BundleError, match="family qwen2, the base is of llama"):
        require_fit(info, llama)
    weights = random_weights(QWEN2, 1)
    weights[Q] = np.zeros((96, 64), np.float32)
    with pytest.raises(BundleError, match=r"attn_q.weight has the shapes \(32, 64\) and \(64, 32\)"):
        require_fit(info, GgufModel(write_gguf(tmp_path / "wide.gguf", QWEN2, weights)))
    del weights[DOWN]
    weights[Q] = np.zeros((64, 64), np.float32)
    with pytest.raises(BundleError, match=r"blk.1.ffn_down.weight, which few.gguf has not"):
        require_fit(info, GgufModel(write_gguf(tmp_path / "few.gguf", QWEN2, weights)))


def half(path):
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_tensor(f"{Q}.lora_a", np.zeros((4, 64), np.float32))
    write_out(writer, path)


def test_what_is_no_adapter_is_refused(base, tmp_path):
    with pytest.raises(BundleError, match=r"base.gguf is not a LoRA adapter"):
        read_adapter_info(base.path)
    (tmp_path / "text.gguf").write_text("no GGUF at all, but long enough to have a header")
    with pytest.raises(BundleError, match=r"text.gguf can't be read as GGUF"):
        read_adapter_info(tmp_path / "text.gguf")
    (tmp_path / "cut.gguf").write_bytes(base.path.read_bytes()[:5000])
    with pytest.raises(BundleError, match=r"cut.gguf can't be read as GGUF"):
        read_adapter_info(tmp_path / "cut.gguf")
    half(tmp_path / "half.gguf")
    with pytest.raises(BundleError, match=r"half.gguf lacks matrices"):
        read_adapter_info(tmp_path / "half.gguf")
