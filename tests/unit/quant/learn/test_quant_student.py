"""The student: what it computes, what it says it learned, and that the base made from that is the student."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_gguf import LLAMA, QWEN2, QWEN3, learned_for, random_weights
from tiny_torch import (
    NO_CORRECTIONS,
    NO_TRANSFORMS,
    distance,
    hf_name,
    hf_rows,
    hf_state,
    logits,
    make_student,
    noise,
    random_ids,
    stir,
    student_logits,
)

from edgereason.errors import ConfigError
from edgereason.quant.apply import apply
from edgereason.quant.blocks import Grid, Ranges
from edgereason.quant.gguf_file import GgufModel
from edgereason.quant.learned import StorageConfig
from edgereason.quant.merge import Merge
from edgereason.train.quant.end_to_end import backward
from edgereason.train.quant.load import load_torch
from edgereason.train.quant.student import CorrectionConfig
from edgereason.train.quant.transforms import TransformConfig

EIGHT = StorageConfig(linears=Grid.Q8_0, head=Grid.Q8_0)
ALL = TransformConfig()
NO_KEYS = TransformConfig(keys=False)
SHAPES = pytest.mark.parametrize("shape", [QWEN2, LLAMA, QWEN3], ids=["qwen2", "llama", "qwen3"])


def transforms_for(shape):
    return NO_KEYS if shape is QWEN3 else ALL


def stirred(teacher, shape, storage=None):
    """A student that everything has moved in, a little."""
    student = make_student(teacher, storage, transforms_for(shape), CorrectionConfig(rank=3))
    stir(student, spread=0.03)
    return student


def base_of(student, teacher, storage, folder):
    """The base that `apply` makes from what the student learned."""
    apply(teacher.path, learned_for(teacher.path, student.learned(), storage), folder / "base.gguf")
    return GgufModel(folder / "base.gguf")


@SHAPES
def test_in_eight_bits_it_says_what_its_teacher_says(loaded, shape):
    teacher, ids = loaded[shape.arch], random_ids(2, 30)
    for transforms in (NO_TRANSFORMS, transforms_for(shape)):
        # A weight is off by d/√12 with d = |w|max / 127 ≈ 2.1 σ / 127: half a per cent of σ. Embedding, head
        # and two layers of four stages add ten such errors, √10 · 0.5 % = 1.6 %, and layers amplify a little.
        off = noise(student_logits(make_student(teacher, EIGHT, transforms), ids), logits(teacher.model, ids))
        assert 0.002 < off < 0.04


def test_in_four_bits_it_is_further_off_and_transforms_alone_change_the_outcome(loaded):
    teacher, ids = loaded["qwen2"], random_ids(2, 30)
    expected = logits(teacher.model, ids)
    # The same with |w|max / 8: sixteen times as far.
    plain, turned = (student_logits(make_student(teacher, None, t), ids) for t in (NO_TRANSFORMS, ALL))
    assert 0.03 < noise(plain, expected) < 0.64
    assert 0.03 < noise(turned, expected) < 0.64
    assert noise(plain, turned) > 0.03


@SHAPES
@pytest.mark.parametrize(
    "storage",
    [
        StorageConfig(),
        StorageConfig(ranges=Ranges.MIN_MAX, per_row=True),
        EIGHT,
        StorageConfig(embedding=Grid.Q4_0),
        StorageConfig(head=Grid.Q8_0, tied=True),
    ],
    ids=["default", "per-row", "8-bit", "4-bit embedding", "tied"],
)
def test_without_transforms_its_weights_are_the_bases(loaded, shape, storage, tmp_path):
    if storage.tied and shape is not LLAMA:
        pytest.skip("has a head of its own")
    teacher = loaded[shape.arch]
    student = make_student(teacher, storage)
    student.refresh()
    base = base_of(student, teacher, storage, tmp_path)
    stored = {
        f"model.layers.{n}.{name}": w
        for n in range(shape.layers)
        for name, w in student.layers[n].stored().items()
    }
    stored["lm_head.weight"] = student.head()
    for name in base.names:
        if name in ("token_embd.weight", "output_norm.weight"):
            continue  # what these do is in the logits, below
        expected = base.weights(name)[hf_rows(shape, name, len(base.weights(name)))]
        # The rule is the same, up to last bits that decide between candidates as good as each other.
        assert (stored[hf_name(name)].detach().numpy() == expected).mean() >= 0.999, name
    model = load_torch(base, hashlib.sha256(base.path.read_bytes()).hexdigest(), tmp_path)
    ids = random_ids(2, 30)
    assert distance(student_logits(student, ids), logits(model, ids)) < 0.01


@SHAPES
def test_the_base_is_what_was_trained(loaded, shape, tmp_path):
    # GIVEN a student with everything learned
    teacher, ids = loaded[shape.arch], random_ids(4, 30)
    student = stirred(teacher, shape)
    got = student_logits(student, ids)
    # WHEN its base is made and read as any model
    base = base_of(student, teacher, None, tmp_path)
    model = load_torch(base, hashlib.sha256(base.path.read_bytes()).hexdigest(), tmp_path)

    # THEN the two are close beside what quantizing itself costs: factors are shipped in half precision, and
    # the last bits of a float32 merge move a weight here and there over to the next code
    def off(model_logits):
        return float((got - model_logits).square().mean().sqrt())

    assert off(logits(model, ids)) < 0.15 * off(logits(teacher.model, ids))


@SHAPES
def test_gradients_reach_every_parameter(loaded, shape):
    teacher = loaded[shape.arch]
    student = make_student(teacher, None, transforms_for(shape), CorrectionConfig(rank=2), kv8=True)
    stir(student, spread=0.01)
    student.refresh()
    backward(student, teacher.model, random_ids(2, 30), "float32")
    parameters = dict(student.named_parameters())
    kinds = {"original", "mix", "log_up"} | ({"angle", "log_scale"} if shape is not QWEN3 else set())
    assert kinds <= {name.rsplit(".", 1)[-1] for name in parameters}
    for name, parameter in parameters.items():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())


def test_there_is_a_parameter_for_every_row_gain_and_bias_and_no_more(loaded):
    def sizes(**used):
        config = CorrectionConfig(**{"rows": False, "norms": False, "biases": False} | used)
        student = make_student(loaded["qwen2"], None, NO_TRANSFORMS, config)
        return sum(parameter.numel() for parameter in student.parameters())

    layers, kv_width = 2, 32
    assert sizes() == 0
    assert sizes(rows=True) == layers * (64 + 2 * kv_width + 64 + 96 + 96 + 64) + 40
    assert sizes(norms=True) == layers * 2 * 64 + 64
    assert sizes(biases=True) == layers * (64 + 2 * kv_width)
    # A product of rank 3 has 3 · (rows + columns): q and o 128, k and v 96, gate, up and down 160.
    assert sizes(rank=3) == layers * 3 * (2 * 128 + 2 * 96 + 3 * 160)


@pytest.mark.parametrize("transforms", [ALL, NO_TRANSFORMS], ids=["all", "none"])
def test_a_correction_is_added_to_what_the_merge_gives(loaded, transforms):
    teacher = loaded["qwen2"]
    student = make_student(teacher, None, transforms, CorrectionConfig())
    stir(student.transforms, spread=0.05)
    factors = dict(student.transforms.factors())
    added = {
        "blk.0.attn_norm.weight": np.linspace(-0.2, 0.2, 64),
        "blk.1.ffn_norm.weight": np.linspace(0.3, 0.1, 64),
        "blk.1.attn_q.bias": np.linspace(-1, 1, 64),
        "blk.0.attn_v.bias": np.linspace(2, 1, 32),
        "output_norm.weight": np.linspace(0, 0.5, 64),
    }
    with torch.no_grad():
        for name, values in added.items():
            hf = hf_name(name)
            if name.startswith("blk."):
                _, _, n, rest = hf.split(".", 3)
                parameter = student.layers[int(n)].corrected.added[rest.replace(".", "/")]
            else:
                parameter = student.corrected.added[hf.replace(".", "/")]
            parameter += torch.from_numpy(values).float()
    learned = student.learned()
    merge = Merge(teacher.file, learned_for(teacher.path, factors))
    for name in teacher.file.names:
        if len(teacher.file.shape(name)) == 1:
            expected = merge.tensor(name) + added.get(name, 0)
            assert np.allclose(learned[name], expected, rtol=1e-4, atol=1e-5), name


def test_factors_by_row_are_shipped_in_the_files_order_of_rows(loaded):
    # llama's GGUF has the rows of queries and keys in another order than transformers.
    teacher = loaded["llama"]
    student = make_student(teacher, None, NO_TRANSFORMS, CorrectionConfig(norms=False, biases=False))
    factors = {}
    with torch.no_grad():
        for part, name in (("self_attn/q_proj/weight", "attn_q"), ("mlp/up_proj/weight", "ffn_up")):
            parameter = student.layers[1].corrected.log_rows[part]
            factors[name] = np.linspace(0.5, 1.5, len(parameter)).astype(np.float32)
            parameter.copy_(torch.from_numpy(np.log(factors[name])))
        parameter = student.corrected.log_rows["lm_head/weight"]
        factors["output"] = np.linspace(0.7, 1.3, 40).astype(np.float32)
        parameter.copy_(torch.from_numpy(np.log(factors["output"])))
    learned = student.learned()
    assert all(values.dtype == np.float16 for name, values in learned.items() if name.endswith(".rows"))
    shipped = learned["blk.1.attn_q.weight.rows"]
    assert np.allclose(shipped[hf_rows(LLAMA, "blk.1.attn_q.weight", 64)], factors["attn_q"], rtol=1e-3)
    assert not np.allclose(shipped, factors["attn_q"], rtol=1e-3)
    assert np.allclose(learned["blk.1.ffn_up.weight.rows"], factors["ffn_up"], rtol=1e-3)
    assert np.allclose(learned["output.weight.rows"], factors["output"], rtol=1e-3)
    assert np.array_equal(learned["blk.0.attn_k.weight.rows"], np.ones(32))


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_products_are_shipped_in_the_files_order_of_rows_and_give_the_same_weights(loaded, arch):
    shape = {"llama": LLAMA, "qwen2": QWEN2}[arch]
    teacher = loaded[arch]
    config = CorrectionConfig(rows=False, norms=False, biases=False, rank=2)
    student = make_student(teacher, None, NO_TRANSFORMS, config)
    stir(student, spread=0.1)
    learned = student.learned()
    merge = Merge(teacher.file, learned_for(teacher.path, learned))
    original = hf_state(shape, random_weights(shape, 7))
    for name in ("blk.0.attn_q.weight", "blk.1.attn_k.weight", "blk.1.ffn_down.weight"):
        _, _, n, rest = hf_name(name).split(".", 3)
        corrected = student.layers[int(n)].corrected
        left, right = (side[rest.replace(".", "/")].detach() for side in (corrected.left, corrected.right))
        expected = (original[hf_name(name)] + left @ right).numpy()
        got = merge.tensor(name)[hf_rows(shape, name, len(expected))]
        # Two factors in half precision, two terms: 2 · 2 · 2⁻¹¹ of the largest product
        bound = 4 * 2.0**-11 * float(left.abs().max() * right.abs().max())
        assert np.abs(got - expected).max() < bound
        assert np.abs((left @ right).numpy()).max() > 20 * bound
        assert learned[f"{name}.left"].dtype == learned[f"{name}.right"].dtype == np.float16


def test_products_start_at_nothing(loaded):
    ids = random_ids(1, 12)
    plain, more = (
        make_student(loaded["qwen2"], None, NO_TRANSFORMS, replace(NO_CORRECTIONS, rank=rank))
        for rank in (0, 4)
    )
    assert torch.equal(student_logits(plain, ids), student_logits(more, ids))


def test_a_rank_below_zero_is_refused():
    with pytest.raises(ConfigError, match=r"rank.*-1"):
        CorrectionConfig(rank=-1)


def test_what_was_learned_is_all_there_is_to_it(loaded):
    learned = make_student(loaded["qwen2"], None, ALL, CorrectionConfig(rank=2)).learned()
    layer = {"keys.cos", "keys.sin", "values", "values_inverse", "up"}
    layer |= {f"{part}.bias" for part in ("attn_q", "attn_k", "attn_v")} | {
        "attn_norm.weight",
        "ffn_norm.weight",
    }
    linears = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    layer |= {f"{part}.weight.{kind}" for part in linears for kind in ("rows", "left", "right")}
    expected = {"rotation", "output.weight.rows", "output_norm.weight"}
    assert set(learned) == expected | {f"blk.{n}.{name}" for n in range(2) for name in layer}
    assert make_student(loaded["qwen2"]).learned() == {}


def test_a_student_leaves_its_teacher_as_it_is(loaded):
    teacher, ids = loaded["qwen2"], random_ids(1, 20)
    before = logits(teacher.model, ids)
    student = stirred(teacher, QWEN2)
    student.refresh()
    backward(student, teacher.model, ids, "float32")
    assert torch.equal(logits(teacher.model, ids), before)


def test_recomputing_layers_in_the_backward_pass_changes_nothing(loaded):
    teacher, ids = loaded["qwen2"], random_ids(1, 20)
    student = stirred(teacher, QWEN2)
    student.refresh()
    with torch.no_grad():
        head, plain = student.head(), student.hidden(ids)
    assert torch.equal(student.hidden(ids).detach(), plain)
    assert torch.equal(student.head().detach(), head)


def test_a_text_does_not_look_ahead(loaded):
    # The first 10 of 20 tokens give the same, whatever follows.
    ids = random_ids(1, 20)
    other = torch.cat([ids[:, :10], random_ids(1, 10, seed=5)], dim=1)
    student = stirred(loaded["qwen2"], QWEN2)
    first, second = (student_logits(student, text)[:, :10] for text in (ids, other))
    assert torch.allclose(first, second, atol=1e-5)


def test_its_stored_weights_are_the_same_whatever_the_forward_pass_multiplies_in(loaded):
    student = stirred(loaded["qwen2"], QWEN2)
    student.refresh()
    layer = student.layers[0]
    expected, head = layer.stored(), student.head()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(torch.equal(values, expected[name]) for name, values in layer.stored().items())
        assert torch.equal(student.head(), head)
