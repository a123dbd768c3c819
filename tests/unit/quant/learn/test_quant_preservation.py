"""Merged transforms change every weight and no logit: random decoders, there and back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_gguf import (
    KINDS,
    LLAMA,
    QWEN2,
    QWEN3,
    Shape,
    learned_for,
    random_transforms,
    random_weights,
    write_gguf,
)
from tiny_torch import distance, hf_model, logits, random_ids

from edgereason.quant.gguf_file import GgufModel
from edgereason.quant.merge import Merge, output_names

# What each transform must change in a layer, and must leave alone.
CHANGED = {
    "rotation": {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"},
    "keys": {"attn_q", "attn_k"},
    "values": {"attn_v", "attn_output"},
    "up": {"ffn_up", "ffn_down"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("merged")


def merged_weights(folder, shape, weights, tensors):
    path = write_gguf(folder / "model.gguf", shape, weights)
    model = GgufModel(path)
    merge = Merge(model, learned_for(path, tensors))
    return {name: merge.tensor(name) for name in output_names(model, tied=False)}


def moved(before, after):
    return float(np.abs(after - before).max() / np.abs(before).max())


def inverted(tensors):
    """The transforms that undo these: Qᵀ, s⁻¹ R(−θ), A⁻¹ and A, 1/u."""
    out = {}
    for name, values in tensors.items():
        layer, _, part = name.rpartition(".")
        match part:
            case "rotation":
                out[name] = np.ascontiguousarray(values.T)
            case "cos" | "sin":
                squared = tensors[f"{layer}.cos"] ** 2 + tensors[f"{layer}.sin"] ** 2
                out[name] = (values if part == "cos" else -values) / squared
            case "values":
                out[f"{name}_inverse"] = values
            case "values_inverse":
                out[name.removesuffix("_inverse")] = values
            case "up":
                out[name] = 1 / values
    return out


@settings(max_examples=15, deadline=None)
@given(
    arch=st.sampled_from(["qwen2", "llama"]),
    tied=st.booleans(),
    hidden=st.sampled_from([36, 72]),  # multiples of all head counts, as transformers wants them
    kv=st.integers(1, 3),
    group=st.integers(1, 3),
    head_dim=st.sampled_from([4, 8, 16]),
    ff=st.sampled_from([24, 56]),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_transforms_leave_the_logits_of_random_models(
    folder, arch, tied, hidden, kv, group, head_dim, ff, seed
):
    shape = Shape(
        arch=arch, tied=tied, hidden=hidden, kv=kv, heads=kv * group, head_dim=head_dim, ff=ff, layers=2
    )
    weights = random_weights(shape, seed)
    merged = merged_weights(folder, shape, weights, random_transforms(shape, seed + 1))
    ids = random_ids(2, 20, seed)
    before, after = (logits(hf_model(shape, w), ids) for w in (weights, merged))
    assert distance(after, before) < 1e-4


@pytest.mark.parametrize("shape", [QWEN2, LLAMA], ids=["qwen2", "llama"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_transform_alone_changes_its_weights_and_no_logit(folder, shape, kind):
    # GIVEN
    weights = random_weights(shape, 2)
    merged = merged_weights(folder, shape, weights, random_transforms(shape, 3, [kind]))
    # THEN
    ids = random_ids(2, 24)
    assert distance(logits(hf_model(shape, merged), ids), logits(hf_model(shape, weights), ids)) < 1e-4
    for name, values in weights.items():
        part = name.split(".")[-2]
        if part in CHANGED[kind] and (name.endswith("weight") or kind != "rotation"):
            # up's columns of down, and the rest: all of them far from what they were
            assert moved(values, merged[name]) > 0.1, name
        elif kind != "rotation":
            assert np.array_equal(merged[name], values), name


@pytest.mark.parametrize("shape", [QWEN2, LLAMA, QWEN3], ids=["qwen2", "llama", "qwen3"])
def test_a_rotation_turns_embedding_and_head_and_leaves_gains_of_one(folder, shape):
    weights = random_weights(shape, 2)
    tensors = random_transforms(shape, 3, ["rotation", "values", "up"])
    merged = merged_weights(folder, shape, weights, tensors)
    q = tensors["rotation"].astype(np.float64)
    head = weights.get("output.weight", weights["token_embd.weight"])
    assert np.allclose(merged["token_embd.weight"], weights["token_embd.weight"] @ q, atol=1e-5)
    assert np.allclose(merged["output.weight"], head * weights["output_norm.weight"] @ q, atol=1e-5)
    for name in merged:
        if name.split(".")[-2] in ("attn_norm", "ffn_norm", "output_norm"):
            assert np.array_equal(merged[name], np.ones(64)), name
    ids = random_ids(2, 24)
    assert distance(logits(hf_model(shape, merged), ids), logits(hf_model(shape, weights), ids)) < 1e-4


def test_without_a_rotation_a_tied_head_is_the_embedding(folder):
    weights = random_weights(LLAMA, 2)
    merged = merged_weights(folder, LLAMA, weights, random_transforms(LLAMA, 3, ["up"]))
    assert np.array_equal(merged["output.weight"], weights["token_embd.weight"])
    assert np.array_equal(merged["token_embd.weight"], weights["token_embd.weight"])


@pytest.mark.parametrize("kinds", [KINDS, *([kind] for kind in KINDS)], ids=["all", *KINDS])
@pytest.mark.parametrize("shape", [QWEN2, LLAMA], ids=["qwen2", "llama"])
def test_the_inverses_give_the_weights_back(folder, shape, kinds):
    weights = random_weights(shape, 4)
    tensors = random_transforms(shape, 5, kinds)
    there = merged_weights(folder, shape, weights, tensors)
    back = merged_weights(folder, replace(shape, tied=False), there, inverted(tensors))
    expected = dict(weights)
    expected.setdefault("output.weight", weights["token_embd.weight"])
    if "rotation" in kinds:  # gains were folded into what is behind them, where they stay
        for n in range(shape.layers):
            for norm, parts in (("attn_norm", "attn_q attn_k attn_v"), ("ffn_norm", "ffn_gate ffn_up")):
                gain = f"blk.{n}.{norm}.weight"
                for part in parts.split():
                    expected[f"blk.{n}.{part}.weight"] = weights[f"blk.{n}.{part}.weight"] * weights[gain]
                expected[gain] = np.ones_like(weights[gain])
        expected["output.weight"] = expected["output.weight"] * weights["output_norm.weight"]
        expected["output_norm.weight"] = np.ones_like(weights["output_norm.weight"])
    assert back.keys() == expected.keys()
    for name, values in expected.items():
        assert moved(values, back[name]) < 1e-5, name
