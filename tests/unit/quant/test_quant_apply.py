"""Bases made from tiny teachers, read back with gguf-py as llama.cpp would."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import gguf
import numpy as np
import pytest
from tiny_gguf import (
    KINDS,
    LLAMA,
    QWEN2,
    QWEN3,
    TOKENS,
    learned_for,
    random_transforms,
    random_weights,
    write_gguf,
)

from edgereason.errors import BundleError, ConfigError, ModelFileError
from edgereason.quant import merge
from edgereason.quant.apply import apply
from edgereason.quant.blocks import Grid, Ranges, quantize
from edgereason.quant.dyadic import on_grid
from edgereason.quant.gguf_file import GgufModel
from edgereason.quant.learned import Learned, StorageConfig
from edgereason.quant.merge import Merge

MATRICES = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"}
STORAGES = (
    StorageConfig(),
    StorageConfig(linears=Grid.Q8_0, head=Grid.Q8_0, ranges=Ranges.MIN_MAX),
    StorageConfig(per_row=True),  # of the 4-bit ones; the embedding's 8-bit blocks stay blocks
    StorageConfig(embedding=Grid.Q4_0, ranges=Ranges.MIN_MAX),
)


def kinds_for(shape):
    return [kind for kind in KINDS if kind != "keys" or shape.arch != "qwen3"]


def product(name, rows, columns, rank=3):
    """The two factors of what is added to a linear, on grids that fp16 holds."""
    rng = np.random.default_rng(rows)
    sizes = {"left": (rows, rank), "right": (rank, columns)}
    return {
        f"{name}.{side}": on_grid(0.125 * rng.standard_normal(size), 10).astype(np.float16)
        for side, size in sizes.items()
    }


def everything(shape, path, storage=None):
    """Transforms, factors by row, and a gain and a bias in place of the merged ones."""
    rng = np.random.default_rng(5)
    tensors = random_transforms(shape, 3, kinds_for(shape))
    tensors["blk.0.ffn_down.weight.rows"] = rng.uniform(0.8, 1.2, shape.hidden).astype(np.float16)
    tensors["output.weight.rows"] = rng.uniform(0.8, 1.2, shape.vocab).astype(np.float16)
    tensors["output_norm.weight"] = rng.uniform(0.5, 1.5, shape.hidden).astype(np.float32)
    tensors |= product("blk.0.attn_q.weight", shape.width, shape.hidden)
    if shape.arch == "qwen2":
        tensors["blk.0.attn_k.bias"] = rng.standard_normal(shape.kv * shape.head_dim).astype(np.float32)
    return learned_for(path, tensors, storage)


def grid_of(name, storage):
    """The grid that a tensor must be on, from the picture in `StorageConfig`; None for float32."""
    if name == "token_embd.weight":
        return storage.embedding
    if name == "output.weight":
        return storage.head
    parts = name.split(".")
    return storage.linears if parts[0] == "blk" and parts[2] in MATRICES and parts[3] == "weight" else None


@pytest.mark.parametrize("storage", STORAGES, ids=["default", "8-bit", "per-row", "4-bit embedding"])
def test_every_tensor_is_the_merged_one_on_its_grid(shape, teacher, tmp_path, storage):
    # GIVEN
    learned = everything(shape, teacher, storage)
    # WHEN
    apply(teacher, learned, tmp_path / "base.gguf")
    # THEN
    merged = Merge(GgufModel(teacher), learned)
    tensors = {t.name: t for t in gguf.GGUFReader(tmp_path / "base.gguf").tensors}
    assert set(tensors) == {*random_weights(shape, 7), "output.weight"}  # the head, too, where it is tied
    for name, tensor in tensors.items():
        grid, expected = grid_of(name, storage), merged.tensor(name)
        if grid is not None:
            per_row = storage.per_row and grid is Grid.Q4_0
            rows = learned.get(f"{name}.rows")
            expected = quantize(
                expected, grid, ranges=storage.ranges, row_factors=rows, per_row=per_row
            ).dequantized()
        assert tensor.tensor_type.name == ("F32" if grid is None else grid.name)
        got = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert got.tobytes() == np.ascontiguousarray(expected).tobytes(), name


TIED = StorageConfig(head=Grid.Q8_0, tied=True)


def test_a_tied_base_holds_one_matrix_the_one_that_its_teacher_rounded_less(tmp_path):
    # GIVEN a teacher whose embedding is its head, rounded coarser
    weights = random_weights(QWEN2, 7)
    noise = np.random.default_rng(0).standard_normal(weights["output.weight"].shape).astype(np.float32)
    for spread, name in ((0.05, "rounded.gguf"), (0.15, "own.gguf")):
        weights["token_embd.weight"] = weights["output.weight"] * (1 + spread * noise)
        write_gguf(tmp_path / name, QWEN2, weights)
    learned = learned_for(tmp_path / "rounded.gguf", random_transforms(QWEN2, 1, ["values", "up"]), TIED)
    # WHEN
    apply(tmp_path / "rounded.gguf", learned, tmp_path / "base.gguf")
    # THEN
    base = GgufModel(tmp_path / "base.gguf")
    assert base.dims.tied
    expected = quantize(weights["output.weight"], Grid.Q8_0, ranges=Ranges.L2).dequantized()
    assert np.array_equal(base.weights("token_embd.weight"), expected)
    # AND one that differs by more than rounding is refused
    with pytest.raises(BundleError, match=r"own\.gguf has a head of its own \(it is 1\d%"):
        apply(tmp_path / "own.gguf", learned_for(tmp_path / "own.gguf", {}, TIED), tmp_path / "no.gguf")


def test_a_tied_base_has_no_rotation_and_no_corrections_of_a_head(teachers, tmp_path):
    refused = {
        "T_r": random_transforms(LLAMA, 1, ["rotation"]),
        "means nothing": {"output.weight.rows": np.ones(LLAMA.vocab, np.float16)},
    }
    for reason, tensors in refused.items():
        with pytest.raises(BundleError, match=reason):
            apply(teachers["llama"], learned_for(teachers["llama"], tensors, TIED), tmp_path / "base.gguf")
    with pytest.raises(ConfigError, match="one type"):
        StorageConfig(tied=True)


def test_gains_and_biases_that_were_learned_stand_in_the_base(teachers, tmp_path):
    learned = everything(QWEN2, teachers["qwen2"])
    apply(teachers["qwen2"], learned, tmp_path / "base.gguf")
    base = GgufModel(tmp_path / "base.gguf")
    for name in ("output_norm.weight", "blk.0.attn_k.bias"):
        assert np.array_equal(base.weights(name), learned.tensors[name])
    assert np.array_equal(
        base.weights("blk.1.attn_norm.weight"), np.ones(64)
    )  # folded into what is behind it


def test_a_product_is_added_to_what_the_merge_gives(shape, teacher):
    tensors = random_transforms(shape, 3, kinds_for(shape))
    added = {}
    for name, size in (("blk.0.attn_q.weight", (shape.width, 64)), ("blk.0.ffn_down.weight", (64, shape.ff))):
        added |= product(name, *size)
    plain, more = (Merge(GgufModel(teacher), learned_for(teacher, t)) for t in (tensors, tensors | added))
    for name in ("blk.0.attn_q.weight", "blk.0.ffn_down.weight", "blk.0.ffn_up.weight"):
        expected = plain.tensor(name).astype(np.float64)
        if f"{name}.left" in added:
            left, right = (added[f"{name}.{side}"].astype(np.float64) for side in ("left", "right"))
            expected += left @ right
            assert np.abs(left @ right).max() > 0.1
        assert np.abs(more.tensor(name) - expected).max() < 1e-6 * np.abs(expected).max()


def test_where_a_matrix_is_cut_changes_no_bit(shape, teacher, tmp_path, monkeypatch):
    learned = everything(shape, teacher)
    whole = Merge(GgufModel(teacher), learned)
    apply(teacher, learned, tmp_path / "whole.gguf")
    monkeypatch.setattr(merge, "_CHUNK", 7 * shape.hidden)
    for name in ("token_embd.weight", "output.weight"):
        starts = [(rows.start, rows.stop) for rows in whole.runs(name)]
        assert starts == [(n, min(n + 7, 40)) for n in range(0, 40, 7)]
    apply(teacher, learned, tmp_path / "cut.gguf")
    assert (tmp_path / "cut.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


@pytest.mark.parametrize("rotates", [True, False])
def test_matrices_whose_rows_are_mixed_are_merged_whole(teachers, monkeypatch, rotates):
    monkeypatch.setattr(merge, "_CHUNK", QWEN2.hidden)  # a row at a time
    tensors = random_transforms(
        QWEN2, 3, KINDS if rotates else [kind for kind in KINDS if kind != "rotation"]
    )
    merged = Merge(GgufModel(teachers["qwen2"]), learned_for(teachers["qwen2"], tensors))
    whole = {part for part in MATRICES if len(merged.runs(f"blk.0.{part}.weight")) == 1}
    assert whole == {"attn_q", "attn_k", "attn_v"} | ({"attn_output", "ffn_down"} if rotates else set())


def test_rules_alone_leave_gains_and_biases_as_they_are_and_weights_within_half_a_step(teachers, tmp_path):
    apply(teachers["qwen2"], learned_for(teachers["qwen2"], {}, STORAGES[1]), tmp_path / "base.gguf")
    base = GgufModel(tmp_path / "base.gguf")
    for name, values in random_weights(QWEN2, 7).items():
        if values.ndim == 1:
            assert np.array_equal(base.weights(name), values)
        else:  # half of |w|max / 127, and fp16's half ulp of it times 127 codes
            step = np.abs(values.reshape(-1, 32)).max(1) / 127
            error = np.abs(base.weights(name) - values).reshape(-1, 32).max(1)
            assert np.all(error <= step * (0.5 + 127 * 2.0**-11))


def test_the_same_two_files_give_the_same_bytes(shape, teacher, tmp_path):
    learned = everything(shape, teacher)
    learned.write(tmp_path / "learned.gguf")
    apply(teacher, learned, tmp_path / "once.gguf")
    apply(teacher, Learned.read(tmp_path / "learned.gguf"), tmp_path / "twice.gguf")
    assert (tmp_path / "once.gguf").read_bytes() == (tmp_path / "twice.gguf").read_bytes()


def test_metadata_and_vocabulary_are_carried(shape, teacher, tmp_path):
    apply(teacher, everything(shape, teacher), tmp_path / "base.gguf")
    old, new = (gguf.GGUFReader(path).fields for path in (teacher, tmp_path / "base.gguf"))
    new = {name: field for name, field in new.items() if not name.startswith("GGUF.")}
    own = {"general.name", "general.file_type"}
    for name, field in old.items():
        if not name.startswith("GGUF.") and name not in own:
            assert new[name].contents() == field.contents(), name
            assert new[name].types == field.types
    assert new["tokenizer.ggml.tokens"].contents() == TOKENS
    added = {name: field.contents() for name, field in new.items() if name not in old or name in own}
    assert added == {
        "general.name": "Tiny-W4",
        "general.file_type": gguf.LlamaFileType.MOSTLY_Q4_0,
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
        "edgereason.teacher.sha256": everything(shape, teacher).teacher_sha256,
        "edgereason.teacher.name": teacher.name,
    }


def test_a_teacher_with_an_alignment_of_its_own_gives_a_base_that_can_be_read(tmp_path, monkeypatch):
    # GIVEN tensors at multiples of 64 bytes, and norms that end between them
    weights = random_weights(QWEN2, 7)
    add_name = gguf.GGUFWriter.add_name
    monkeypatch.setattr(
        gguf.GGUFWriter, "add_name", lambda w, n: (w.add_custom_alignment(64), add_name(w, n))
    )
    teacher = write_gguf(tmp_path / "aligned.gguf", QWEN2, weights)
    monkeypatch.undo()
    assert gguf.GGUFReader(teacher).fields["general.alignment"].contents() == 64
    # WHEN
    apply(teacher, learned_for(teacher, {}), tmp_path / "base.gguf")
    # THEN
    base = GgufModel(tmp_path / "base.gguf")
    assert np.array_equal(base.weights("output_norm.weight"), weights["output_norm.weight"])


def test_progress_counts_weights_up_to_all_of_them(teachers, tmp_path):
    told = []
    learned = learned_for(teachers["llama"], {})
    apply(teachers["llama"], learned, tmp_path / "base.gguf", progress=lambda *figures: told.append(figures))
    weights = random_weights(LLAMA, 7)
    total = sum(values.size for values in weights.values()) + weights["token_embd.weight"].size  # the head
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert len(told) == len(weights) + 1


def test_another_teacher_is_refused_with_both_hashes(teachers, tmp_path):
    learned = learned_for(teachers["llama"], {})
    got = learned_for(teachers["qwen2"], {}).teacher_sha256
    with pytest.raises(BundleError, match=f"(?=.*{got})(?=.*{learned.teacher_sha256})"):
        apply(teachers["qwen2"], learned, tmp_path / "base.gguf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "size"),
    [({"hidden": 48}, 48), ({"head_dim": 12}, 48), ({"ff": 100}, 100)],
    ids=["hidden", "heads", "feed-forward"],
)
def test_shapes_that_can_not_be_cut_into_blocks_are_refused_with_the_size(tmp_path, change, size):
    shape = replace(QWEN2, **change)
    teacher = write_gguf(tmp_path / "odd.gguf", shape, random_weights(shape, 0))
    with pytest.raises(ModelFileError, match=rf"is {size}\b.*32"):
        apply(teacher, learned_for(teacher, {}), tmp_path / "base.gguf")


@pytest.mark.parametrize(
    "name",
    ["rotation", "blk.0.keys.cos", "blk.1.keys.sin", "blk.0.values", "blk.1.values_inverse", "blk.0.up"],
)
def test_a_transform_of_the_wrong_shape_is_refused_with_both_shapes(teachers, tmp_path, name):
    tensors = random_transforms(QWEN2, 1)
    right = tensors[name].shape
    tensors[name] = tensors[name][..., :-1]
    with pytest.raises(BundleError) as refused:
        apply(teachers["qwen2"], learned_for(teachers["qwen2"], tensors), tmp_path / "base.gguf")
    assert all(part in str(refused.value) for part in (name, str(right), str(tensors[name].shape)))


def test_a_transform_of_keys_is_refused_where_keys_are_normalised(teachers, tmp_path):
    tensors = random_transforms(QWEN3, 1, ["keys"])
    with pytest.raises(BundleError, match=r"qwen3 normalises.*T_k"):
        apply(teachers["qwen3"], learned_for(teachers["qwen3"], tensors), tmp_path / "base.gguf")


def test_nothing_is_left_behind_when_a_tensor_is_unknown(tmp_path):
    # The last tensor: everything before it has been written by then.
    weights = random_weights(QWEN2, 7) | {"cls.weight": np.ones((2, 64), np.float32)}
    teacher = write_gguf(tmp_path / "strange.gguf", QWEN2, weights)
    (tmp_path / "base.gguf").write_text("an older base")
    told = []
    with pytest.raises(BundleError, match=r"'cls\.weight'"):
        apply(teacher, learned_for(teacher, {}), tmp_path / "base.gguf", progress=lambda *n: told.append(n))
    assert len(told) == len(weights) - 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.gguf", "strange.gguf"]
    assert (tmp_path / "base.gguf").read_text() == "an older base"


def test_a_base_is_made_where_torch_can_not_be_imported(teachers, tmp_path):
    everything(QWEN2, teachers["qwen2"]).write(tmp_path / "learned.gguf")
    code = """
import sys
from pathlib import Path
sys.modules.update(torch=None, transformers=None)
from edgereason.quant import merge
from edgereason.quant.apply import apply
from edgereason.quant.learned import Learned
teacher, learned, base = map(Path, sys.argv[1:])
apply(teacher, Learned.read(learned), base)
"""
    paths = (teachers["qwen2"], tmp_path / "learned.gguf", tmp_path / "base.gguf")
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    apply(paths[0], Learned.read(paths[1]), tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == paths[2].read_bytes()


def refused(path, tensors, target):
    with pytest.raises(BundleError):
        apply(path, learned_for(path, tensors), target)


@pytest.mark.parametrize("half", ["keys.cos", "keys.sin", "values", "values_inverse"])
def test_half_a_transform_is_refused(teachers, tmp_path, half):
    tensors = random_transforms(QWEN2, 1)
    refused(teachers["qwen2"], {f"blk.0.{half}": tensors[f"blk.0.{half}"]}, tmp_path / "base.gguf")


@pytest.mark.parametrize("side", ["left", "right"])
def test_half_a_product_is_refused(teachers, tmp_path, side):
    name = f"blk.0.attn_q.weight.{side}"
    refused(teachers["qwen2"], {name: product("blk.0.attn_q.weight", 64, 64)[name]}, tmp_path / "base.gguf")


@pytest.mark.parametrize("name", ["blk.0.valuse", "blk.2.up", "blk.0.attn_qq.weight.rows", "rotations"])
def test_a_tensor_that_means_nothing_to_the_model_is_refused(teachers, tmp_path, name):
    refused(teachers["qwen2"], {name: np.ones(96, np.float32)}, tmp_path / "base.gguf")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("blk.0.attn_norm.weight", (3,)),
        ("blk.0.attn_q.bias", (1,)),
        ("blk.0.attn_q.weight.rows", (1,)),  # goes through: one factor for all rows
        ("output.weight.rows", (39,)),
    ],
)
def test_a_gain_bias_or_factor_of_the_wrong_shape_is_refused(teachers, tmp_path, name, shape):
    refused(teachers["qwen2"], {name: np.ones(shape, np.float32)}, tmp_path / "base.gguf")


@pytest.mark.parametrize(
    "part", ["attn_output.bias", "ffn_down.bias", "attn_qkv.weight", "ffn_gate_inp.weight"]
)
def test_a_layers_tensor_that_no_transform_is_known_for_is_refused(tmp_path, part):
    weights = random_weights(LLAMA, 7) | {f"blk.0.{part}": np.ones(64, np.float32)}
    teacher = write_gguf(tmp_path / "strange.gguf", LLAMA, weights)
    refused(teacher, random_transforms(LLAMA, 1), tmp_path / "base.gguf")


def test_factors_of_different_ranks_are_refused_with_both(teachers, tmp_path):
    left = product("blk.0.attn_q.weight", 64, 64, rank=3)["blk.0.attn_q.weight.left"]
    right = product("blk.0.attn_q.weight", 64, 64, rank=2)["blk.0.attn_q.weight.right"]
    tensors = {"blk.0.attn_q.weight.left": left, "blk.0.attn_q.weight.right": right}
    with pytest.raises(BundleError, match="rank: 3 and 2"):
        apply(teachers["qwen2"], learned_for(teachers["qwen2"], tensors), tmp_path / "base.gguf")


def test_a_rotation_off_its_grid_is_refused_since_its_products_would_be_rounded(teachers, tmp_path):
    rotation = np.full((64, 64), 1 / 3, np.float32)
    with pytest.raises(BundleError, match="rotation does not stand on a grid"):
        apply(
            teachers["qwen2"], learned_for(teachers["qwen2"], {"rotation": rotation}), tmp_path / "base.gguf"
        )


def test_a_weight_beyond_fp16_scales_is_refused(tmp_path):
    weights = random_weights(QWEN2, 7)
    weights["blk.0.ffn_up.weight"][3, 5] = 1e6  # over 8 is 125,000, and fp16 ends at 65,504
    teacher = write_gguf(tmp_path / "large.gguf", QWEN2, weights)
    with pytest.raises(ConfigError, match=r"1e\+06 is too large for q4_0"):
        apply(teacher, learned_for(teacher, {}), tmp_path / "base.gguf")
