"""Shapes and weights read from tiny files; what can't be used is refused."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from tiny_gguf import LLAMA, QWEN2, QWEN3, random_weights, write_gguf, write_out

from edgereason.errors import ModelFileError
from edgereason.quant.apply import require_blocks
from edgereason.quant.gguf_file import Dims, GgufModel, Reader, Slot, write_model


def write_fields(path, arch, *, left_out=(), tensors=(), more=None):
    """A GGUF with an embedding, `tensors`, and a decoder's metadata but what is `left_out`, and `more`."""
    writer = gguf.GGUFWriter(path, arch)
    kinds = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}
    for key, value in (more or {}).items():
        kinds[type(value)](f"{arch}.{key}", value)
    numbers = {
        "embedding_length": 96,
        "block_count": 3,
        "feed_forward_length": 160,
        "attention.head_count": 6,
        "context_length": 1024,
    }
    for key, number in numbers.items():
        if key not in left_out:
            writer.add_uint32(f"{arch}.{key}", number)
    if "attention.layer_norm_rms_epsilon" not in left_out:
        writer.add_layer_norm_rms_eps(2.0**-20)
    for name in ("token_embd.weight", *tensors):
        writer.add_tensor(name, np.zeros((8, 96), np.float32))
    return write_out(writer, path)


def test_a_family_has_its_shapes_in_its_metadata(shape, teacher):
    dims = GgufModel(teacher).dims
    assert dims == Dims(
        arch=shape.arch,
        num_layers=shape.layers,
        hidden_size=64,
        num_heads=4,
        num_kv_heads=2,
        head_dim=shape.head_dim,
        ff_size=96,
        vocab_size=40,
        context_length=128,
        rope_base=5000.0,
        norm_eps=float(np.float32(1e-5)),
        interleaved=shape is LLAMA,
        normalises_keys=shape is QWEN3,
        tied=shape is LLAMA,
    )


@pytest.mark.parametrize("endian", [gguf.GGUFEndian.LITTLE, gguf.GGUFEndian.BIG])
def test_metadata_are_what_ggufs_own_reader_finds(tmp_path, endian):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", endianess=endian)
    writer.add_array("texts", ["", "ŧ", "a b"])
    writer.add_array("numbers", [3, -1, 2**20])
    writer.add_array("shares", [0.5, -2.0])
    writer.add_array("switches", [True, False])
    writer.add_array("tables", [["a", "bc"], ["d"]])
    writer.add_string("last", "end")
    writer.add_tensor("token_embd.weight", np.arange(12, dtype=np.float32).reshape(3, 4))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found, expected = Reader(tmp_path / "m.gguf"), gguf.GGUFReader(tmp_path / "m.gguf")
    assert found.fields.keys() == expected.fields.keys()
    for name, field in expected.fields.items():
        assert (found.fields[name].types, found.fields[name].contents()) == (field.types, field.contents())
    assert found.fields["texts"].contents() == ["", "ŧ", "a b"]
    assert found.fields["numbers"].contents() == [3, -1, 2**20]
    assert found.tensors[0].data.tobytes() == expected.tensors[0].data.tobytes()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_vocabulary_that_is_cut_off_is_refused(tmp_path, share):
    writer = gguf.GGUFWriter(path := tmp_path / "m.gguf", "llama")
    writer.add_array("texts", ["token"] * 200)
    writer.add_tensor("token_embd.weight", np.zeros((1, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.write_bytes(path.read_bytes()[: int(200 * 13 * share)])
    with pytest.raises(ModelFileError, match="can't be read as GGUF"):
        GgufModel(path)


def test_what_metadata_leaves_out_has_llama_cpps_defaults(tmp_path):
    dims = GgufModel(write_fields(tmp_path / "m.gguf", "llama")).dims
    assert (dims.num_kv_heads, dims.head_dim, dims.rope_base) == (6, 96 // 6, 10000.0)


@pytest.mark.parametrize("left_out", ["block_count", "context_length", "attention.layer_norm_rms_epsilon"])
def test_metadata_that_is_missing_is_named(tmp_path, left_out):
    path = write_fields(tmp_path / "m.gguf", "qwen2", left_out=[left_out])
    with pytest.raises(ModelFileError, match=rf"m\.gguf lacks qwen2\.{left_out}"):
        _ = GgufModel(path).dims


def test_another_family_is_refused_with_those_that_are_known(tmp_path):
    with pytest.raises(ModelFileError, match=r"'bloom'.*qwen2, qwen3, llama, smollm3, gemma3, phi3"):
        _ = GgufModel(write_fields(tmp_path / "m.gguf", "bloom")).dims


@pytest.mark.parametrize(
    ("name", "why"),
    [("rope_factors_long.weight", "how long the context is"), ("blk.0.ffn_gate_exps.weight", "experts")],
)
def test_ropes_by_length_and_experts_are_refused(tmp_path, name, why):
    path = write_fields(tmp_path / "m.gguf", "llama", tensors=[name])
    with pytest.raises(ModelFileError, match=f"{name}.*{why}.*not supported"):
        _ = GgufModel(path).dims


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("rope.scaling.type", "yarn", "scales its rope by 'yarn'"),
        ("rope.dimension_count", 8, "turns 8 of the 16 numbers of a head"),
        ("final_logit_softcapping", 30.0, "caps its logits"),
        ("attn_logit_softcapping", 50.0, "caps its logits"),
        ("attention.sliding_window_pattern", 2, "another order of layers with a window"),
    ],
)
def test_what_torch_would_compute_otherwise_is_refused_by_name(tmp_path, key, value, why):
    path = write_fields(tmp_path / "m.gguf", "gemma3", more={key: value})
    with pytest.raises(ModelFileError, match=why):
        _ = GgufModel(path).dims


@pytest.mark.parametrize(("kind", "scale"), [("linear", 8.0), (None, 8.0), ("none", 1.0)])
def test_positions_are_scaled_as_llama_cpp_scales_them(tmp_path, kind, scale):
    more = {"rope.scaling.factor": 8.0} | ({"rope.scaling.type": kind} if kind else {})
    assert GgufModel(write_fields(tmp_path / "m.gguf", "llama", more=more)).dims.rope_scale == scale


@pytest.mark.parametrize("arch", ["gemma3", "phi3"])
def test_a_family_that_transforms_can_not_be_merged_into_is_not_quantized_and_says_why(tmp_path, arch):
    dims = GgufModel(write_fields(tmp_path / "m.gguf", arch)).dims
    with pytest.raises(ModelFileError, match=f"family '{arch}' can't be quantized: it"):
        require_blocks(dims)


def test_weights_are_what_was_written_rows_first(shape, teacher):
    model, expected = GgufModel(teacher), random_weights(shape, 7)
    assert model.names == tuple(expected)
    for name, values in expected.items():
        assert model.shape(name) == values.shape
        assert np.array_equal(model.weights(name), values)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q6_K"])
def test_quantized_weights_are_read_as_llama_cpp_dequantizes_them(tmp_path, kind):
    kind = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "qwen2")
    expected = np.random.default_rng(0).standard_normal((3, 256)).astype(np.float32)
    if kind.name == "Q6_K":  # gguf-py reads it only: any bytes do, but for d, the last two of a block's 210
        packed = np.random.default_rng(1).integers(0, 256, (3, 210)).astype(np.uint8)
        packed[:, -2:] = np.float16(0.01).reshape(1).view(np.uint8)
    else:
        packed = gguf.quants.quantize(expected, kind)
    raw = {"F16": np.float16}.get(kind.name)
    writer.add_tensor("token_embd.weight", packed if raw is None else packed.view(raw), raw_dtype=kind)
    write_out(writer, tmp_path / "m.gguf")
    got = GgufModel(tmp_path / "m.gguf").weights("token_embd.weight")
    assert got.dtype == np.float32
    assert np.array_equal(got, gguf.quants.dequantize(packed, kind).reshape(3, 256))


def test_what_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"no GGUF at all, " * 8)
    for path in (tmp_path / "m.gguf", tmp_path / "missing.gguf", tmp_path):
        with pytest.raises(ModelFileError, match=f"{path} can't be read as GGUF"):
            GgufModel(path)


def test_a_file_that_is_cut_off_is_refused_wherever_it_ends(tmp_path):
    data = write_gguf(tmp_path / "m.gguf", QWEN2, random_weights(QWEN2, 0)).read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in (*range(0, 4096, 61), *range(4096, len(data), 20_011)):
        cut.write_bytes(data[:length])
        with pytest.raises(ModelFileError, match="can't be read as GGUF"):
            GgufModel(cut)


def test_a_model_that_is_not_finished_leaves_nothing_behind(tmp_path, teachers):
    def tensors():
        yield np.ones(4, np.float32)
        raise RuntimeError("no more")

    like, target = GgufModel(teachers["qwen2"]), tmp_path / "new.gguf"
    target.write_text("what was there")
    slots = [Slot("a", (4,), None), Slot("b", (4,), None)]
    with pytest.raises(RuntimeError, match="no more"):
        write_model(target, like, slots, tensors(), {})
    assert [path.name for path in tmp_path.iterdir()] == ["new.gguf"]
    assert target.read_text() == "what was there"
