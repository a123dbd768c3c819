"""GGUF files as torch models: against transformers' models filled from the same weights by another table."""

from __future__ import annotations

import hashlib

import gguf
import numpy as np
import pytest
import torch
from tiny_gguf import LLAMA, QWEN2, random_weights, write_gguf
from tiny_torch import hf_model, hf_name, hf_rows, logits, random_ids

from edgereason.errors import ModelFileError
from edgereason.quant.gguf_file import GgufModel, from_gguf_order, hf_names, to_gguf_order
from edgereason.train.quant import load
from edgereason.train.quant.load import convert, load_torch

SHA256 = hashlib.sha256(b"tiny").hexdigest()


def test_every_tensor_of_a_file_has_transformers_name(shape, teacher):
    names = hf_names(GgufModel(teacher).dims)
    for name in (*random_weights(shape, 7), "output.weight"):
        assert names[name] == hf_name(name)


def test_every_weight_of_the_model_is_filled(shape, teacher):
    expected = dict(hf_model(shape, random_weights(shape, 7)).state_dict())
    converted = convert(GgufModel(teacher))
    assert converted.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(converted[name], values), name


def test_llamas_rows_are_put_back_and_forth(teachers):
    dims = GgufModel(teachers["llama"]).dims
    rng = np.random.default_rng(0)
    for name, size in (
        ("blk.0.attn_q.weight", (64, 5)),
        ("blk.1.attn_k.weight", (32, 5)),
        ("blk.0.attn_q.bias", (64,)),
    ):
        values = rng.standard_normal(size)
        there = from_gguf_order(dims, name, values)
        assert np.array_equal(there, values[hf_rows(LLAMA, name, len(values))])
        assert not np.array_equal(there, values)
        assert np.array_equal(to_gguf_order(dims, name, there), values)


def test_rows_that_rope_does_not_turn_stay(teachers):
    values = np.random.default_rng(0).standard_normal((64, 5))
    for arch, part in (("llama", "attn_v"), ("llama", "attn_output"), ("qwen2", "attn_q")):
        dims, name = GgufModel(teachers[arch]).dims, f"blk.0.{part}.weight"
        assert np.array_equal(from_gguf_order(dims, name, values), values)
        assert np.array_equal(to_gguf_order(dims, name, values), values)


def test_logits_are_those_of_the_model_that_was_written(shape, teacher, tmp_path):
    ids = random_ids(3, 30)
    model = load_torch(GgufModel(teacher), SHA256, tmp_path / "cache")
    expected = logits(hf_model(shape, random_weights(shape, 7)), ids)
    assert torch.allclose(logits(model, ids), expected, rtol=1e-5, atol=1e-5)


def test_embedding_and_head_are_two_matrices_even_where_the_file_ties_them(teachers, tmp_path):
    model = load_torch(GgufModel(teachers["llama"]), SHA256, tmp_path)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert torch.equal(embedding, head)
    assert embedding.data_ptr() != head.data_ptr()
    assert not model.config.tie_word_embeddings


def test_it_is_frozen_in_float32_and_in_evaluation_mode(teachers, tmp_path):
    model = load_torch(GgufModel(teachers["qwen2"]), SHA256, tmp_path)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_second_load_comes_from_the_cache(teachers, tmp_path, monkeypatch):
    model, ids = GgufModel(teachers["llama"]), random_ids(1, 10)
    first = logits(load_torch(model, SHA256, tmp_path), ids)

    def convert_again(model):
        raise AssertionError("converted twice")

    monkeypatch.setattr(load, "convert", convert_again)
    assert torch.equal(logits(load_torch(model, SHA256, tmp_path), ids), first)
    with pytest.raises(AssertionError, match="converted twice"):  # another file is another conversion
        load_torch(model, hashlib.sha256(b"other").hexdigest(), tmp_path)


def test_a_conversion_that_was_killed_is_made_again(teachers, tmp_path, monkeypatch):
    def killed(model):
        raise KeyboardInterrupt

    model = GgufModel(teachers["qwen2"])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(load, "convert", killed)
        load_torch(model, SHA256, tmp_path)
    assert load_torch(model, SHA256, tmp_path).get_output_embeddings().weight.shape == (40, 64)


def test_a_quantized_file_is_loaded_as_llama_cpp_dequantizes_it(tmp_path):
    # GIVEN a Q8_0 file: its matrices stand for the nearest 8-bit values
    weights = random_weights(QWEN2, 9)
    kind = gguf.GGMLQuantizationType.Q8_0
    rounded = {
        name: gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind) if values.ndim == 2 else values
        for name, values in weights.items()
    }
    # WHEN the rounded weights are written in 8 bits
    add_tensor = gguf.GGUFWriter.add_tensor

    def add_packed(writer, name, values):
        packed = gguf.quants.quantize(values, kind) if values.ndim == 2 else values
        add_tensor(writer, name, packed, raw_dtype=kind if values.ndim == 2 else None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "add_tensor", add_packed)
        path = write_gguf(tmp_path / "q8.gguf", QWEN2, weights)
    # THEN
    ids = random_ids(1, 20)
    got = logits(load_torch(GgufModel(path), SHA256, tmp_path), ids)
    assert torch.allclose(got, logits(hf_model(QWEN2, rounded), ids), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(got, logits(hf_model(QWEN2, weights), ids), rtol=1e-5, atol=1e-5)


def test_a_model_with_weights_that_transformers_has_no_place_for_is_refused(tmp_path):
    weights = random_weights(LLAMA, 7) | {"blk.0.attn_q.bias": np.ones(64, np.float32)}
    path = write_gguf(tmp_path / "biased.gguf", LLAMA, weights)
    with pytest.raises(ModelFileError, match=r"differ in model\.layers\.0\.self_attn\.q_proj\.bias"):
        load_torch(GgufModel(path), "ab" * 32, tmp_path / "cache")
