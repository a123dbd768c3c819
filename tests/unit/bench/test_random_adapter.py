"""The random adapter, read back with gguf-py as llama.cpp would, and by llama.cpp itself."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from tiny_gguf import write_out

from edgereason.bench.files import write_random_adapter
from edgereason.errors import ConfigError

HIDDEN, KV, FFN = 64, 32, 96


@pytest.fixture
def base(tmp_path):
    """A GGUF of one layer with the shapes of a model, and tensors that get no adapter."""
    path = tmp_path / "base.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    shapes = {"attn_q": (HIDDEN, HIDDEN), "attn_k": (KV, HIDDEN), "ffn_down": (HIDDEN, FFN)}  # (out, in)
    for name, shape in shapes.items():
        writer.add_tensor(f"blk.0.{name}.weight", np.ones(shape, np.float32))
    writer.add_tensor("blk.0.attn_q.bias", np.ones(HIDDEN, np.float32))
    writer.add_tensor("blk.0.attn_norm.weight", np.ones(HIDDEN, np.float32))
    writer.add_tensor("token_embd.weight", np.ones((128, HIDDEN), np.float32))
    writer.add_tensor("output.weight", np.ones((128, HIDDEN), np.float32))
    return write_out(writer, path)


def test_every_linear_gets_a_and_b_with_the_fastest_axis_first(base, tmp_path):
    target = tmp_path / "adapter.gguf"
    write_random_adapter(base, target, rank=32)
    tensors = {t.name: t for t in gguf.GGUFReader(target).tensors}
    assert {name: tuple(map(int, t.shape)) for name, t in tensors.items()} == {
        "blk.0.attn_q.weight.lora_a": (HIDDEN, 32),
        "blk.0.attn_q.weight.lora_b": (32, HIDDEN),
        "blk.0.attn_k.weight.lora_a": (HIDDEN, 32),
        "blk.0.attn_k.weight.lora_b": (32, KV),
        "blk.0.ffn_down.weight.lora_a": (FFN, 32),
        "blk.0.ffn_down.weight.lora_b": (32, HIDDEN),
    }
    assert {t.tensor_type for t in tensors.values()} == {gguf.GGMLQuantizationType.Q8_0}


def test_the_header_says_lora_for_this_architecture_at_scale_one(base, tmp_path):
    target = tmp_path / "adapter.gguf"
    write_random_adapter(base, target, rank=32)
    fields = gguf.GGUFReader(target).fields
    keys = ("general.type", "general.architecture", "adapter.type", "adapter.lora.alpha")
    assert [fields[key].contents() for key in keys] == ["adapter", "qwen2", "lora", 32.0]


def test_the_adapter_changes_outputs_by_a_few_per_cent_of_their_input(base, tmp_path):
    # y = B (A x): A keeps x's size and B's entries have σ = 0.005, so y's are ≈ 0.005 · √32 ≈ 0.028 of x's.
    target = tmp_path / "adapter.gguf"
    write_random_adapter(base, target, rank=32)
    tensors = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(target).tensors}
    x = np.random.default_rng(0).standard_normal(HIDDEN)
    y = tensors["blk.0.attn_q.weight.lora_b"] @ (tensors["blk.0.attn_q.weight.lora_a"] @ x)
    # 64 entries, 32 products: the ratio's own deviation is under a fifth, so 0.5–2 × fails by chance never.
    assert 0.014 < np.sqrt((y**2).mean() / (x**2).mean()) < 0.056


def test_equal_seeds_give_equal_bytes_and_others_do_not(base, tmp_path):
    files = [tmp_path / name for name in ("a", "b", "c")]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        write_random_adapter(base, file, seed=seed)
    one, same, other = (file.read_bytes() for file in files)
    assert one == same
    assert one != other


def test_a_rank_that_q8_0_cannot_hold_is_refused(base, tmp_path):
    with pytest.raises(ConfigError, match=r"rank 24 .* multiple"):
        write_random_adapter(base, tmp_path / "adapter.gguf", rank=24)


@pytest.mark.model
def test_llama_cpp_takes_it_and_it_changes_the_logits(engine, random_adapter):
    adapter = engine.load_adapter(random_adapter)
    logits = []
    for encoder in (None, adapter):
        with engine.reserve(cells=8, sequences=1):
            sequence = engine.new_sequence()
            engine.cross(sequence, encoder)
            engine.encode(sequence, engine.tokenize("The capital of France is"))
            logits.append(engine.logits(sequence))
            engine.release(sequence)
    off, on = logits
    assert np.abs(on - off).max() > 0.01
    # Small enough to stay sane: both still agree on most of what is likely (random words would share none).
    assert len(set(np.argsort(off)[-10:]) & set(np.argsort(on)[-10:])) >= 5
