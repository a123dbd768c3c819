"""Checkpoints that transformers saves, converted: llama.cpp says what it says, and weights are the same."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_models import KINDS, Kind, random_model, write_checkpoint
from safetensors.torch import load_file, save_file
from test_family_models import (
    BOUND,
    HALF_BOUND,
    Tiny,
    exact_context,  # noqa: F401
    in_engine,
    logprobs,
    random_ids,
)
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from edgereason.errors import ModelFileError
from edgereason.quant.gguf_file import CHECKPOINT_SHA256, GgufModel
from edgereason.quant.huggingface.config import read_header
from edgereason.quant.huggingface.convert import Conversion, checkpoint_sha256, source_files
from edgereason.train.quant.load import convert, load_torch

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
PUBLISHED = tuple(
    replace(kind, more={"rope_parameters": LLAMA3_ROPE}) if kind.name == "llama-3.1" else kind
    for kind in KINDS
)


def converted(folder: Path, target: Path) -> Path:
    Conversion(folder).write(target, "ab" * 32)
    return target


@pytest.mark.parametrize("kind", PUBLISHED, ids=str)
def test_llama_cpp_says_of_a_conversion_what_transformers_says(kind: Kind, tmp_path: Path) -> None:
    # GIVEN
    model, ids = random_model(kind), random_ids()
    # WHEN
    path = converted(write_checkpoint(tmp_path / "hf", model), tmp_path / "out.gguf")
    # THEN
    expected = logprobs(model, ids)
    engine = in_engine(Tiny(kind, model, path, ""), ids[:1], ids[1:], None)
    assert np.abs(engine - expected[1:].numpy()).max() < (HALF_BOUND if kind.arch == "gemma3" else BOUND)
    ours = logprobs(load_torch(GgufModel(path), "cd" * 32, tmp_path / "cache"), ids)
    assert (ours - expected).abs().max() < BOUND


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", PUBLISHED, ids=str)
def test_weights_come_back_bit_by_bit(kind: Kind, dtype: torch.dtype, tmp_path: Path) -> None:
    # GIVEN
    model = random_model(kind).to(dtype)
    folder = write_checkpoint(tmp_path / "hf", model, shard_size="60KB")
    assert len([*folder.glob("model-*.safetensors")]) > 2
    # WHEN
    file = GgufModel(converted(folder, tmp_path / "out.gguf"))
    back = convert(file)
    # THEN
    assert file.value("general.file_type") == (32 if dtype == torch.bfloat16 else 1)  # mostly so
    expected = dict(model.named_parameters())
    assert {*back} - {*expected} <= {"lm_head.weight"}
    for name, values in expected.items():
        if kind.norm_offset and "norm" in name:  # the file has 1 more, rounded once
            assert (back[name] - values.float()).abs().max() <= 2**-22
        else:
            assert torch.equal(back[name], values.float()), name
    tied = model.get_output_embeddings().weight.float()
    assert torch.equal(back.get("lm_head.weight", tied), tied)


def test_the_shapes_are_those_that_the_file_says(tmp_path: Path) -> None:
    for kind in PUBLISHED:
        folder = write_checkpoint(tmp_path / kind.name, random_model(kind))
        file = GgufModel(converted(folder, tmp_path / "out.gguf"))
        said = replace(read_header(folder).dims, norm_eps=float(np.float32(1e-6)))
        assert file.dims == said


def test_the_same_files_give_the_same_bytes_wherever_they_are(tmp_path: Path) -> None:
    # GIVEN the same weights in one file in one folder; a file that is not read beside it
    folder = write_checkpoint(tmp_path / "a", random_model(KINDS[0]))
    shutil.copytree(folder, tmp_path / "b" / "other name")
    (tmp_path / "b" / "other name" / "README.md").write_text("# Other")
    # WHEN
    found = []
    for n, place in enumerate((folder, tmp_path / "b" / "other name")):
        hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in source_files(place)}
        sha256 = checkpoint_sha256(hashes)
        Conversion(place).write(tmp_path / f"{n}.gguf", sha256)
        found.append(((tmp_path / f"{n}.gguf").read_bytes(), sha256))
    # THEN
    assert found[0] == found[1]
    assert GgufModel(tmp_path / "0.gguf").text(CHECKPOINT_SHA256) == found[0][1]


def test_the_language_model_of_a_checkpoint_with_vision_is_taken(tmp_path: Path) -> None:
    # GIVEN Gemma 3 with a vision tower, around the same text model
    kind = next(one for one in PUBLISHED if one.name == "gemma3-4b")
    text = random_model(kind)
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision |= {"image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text.config, vision_config=vision)
    whole = Gemma3ForConditionalGeneration(config)
    whole.model.language_model.load_state_dict(text.model.state_dict())
    folder = write_checkpoint(tmp_path / "whole", whole)
    # WHEN
    path = converted(folder, tmp_path / "out.gguf")
    # THEN
    expected = converted(write_checkpoint(tmp_path / "text", text), tmp_path / "text.gguf")
    assert path.read_bytes() == expected.read_bytes()
    assert Conversion(folder).header.is_part


def changed_config(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def changed_tokenizer(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / "tokenizer.json"
        file = json.loads(path.read_text())
        change(file)
        path.write_text(json.dumps(file))

    return write


def changed_weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return write


def sharded(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.rename(folder / "model-00001-of-00002.safetensors")
    files = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.with_name("model.safetensors"))
    index = {"weight_map": {"a": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


NORM = "model.norm.weight"
REFUSED = {
    "architecture": (changed_config(architectures=["MambaForCausalLM"]), "of the architecture MambaFor"),
    "no architecture": (changed_config(architectures=None), "is of the architecture none"),
    "gptq": (changed_config(quantization_config={"quant_method": "gptq"}), r"quantized \(gptq\)"),
    "yarn": (
        changed_config(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}),
        "rope is scaled by 'yarn'",
    ),
    "activation": (changed_config(hidden_act="relu"), "activation 'relu', expected 'silu'"),
    "shape": (changed_config(intermediate_size=97), r"gate_proj.weight of the shape \(96, 64\), "),
    "no hidden size": (changed_config(hidden_size=None), "lacks hidden_size"),
    "heads of text": (changed_config(num_attention_heads="4"), "num_attention_heads must be a whole number"),
    "config is a list": (lambda folder: (folder / "config.json").write_text("[]"), "it is a list"),
    "config is cut": (lambda folder: (folder / "config.json").write_text('{"a'), "can't be right"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "lacks tokenizer.json: save it by"),
    "unigram": (changed_tokenizer(lambda file: file["model"].update(type="Unigram")), "of the kind Unigram"),
    "cut": (
        changed_tokenizer(lambda file: file.update(pre_tokenizer={"type": "Whitespace"})),
        "cuts words in a way that is not known here",
    ),
    "normalizer": (
        changed_tokenizer(lambda file: file.update(normalizer={"type": "Lowercase"})),
        "not known here .*normalizer Lowercase",
    ),
    "more tokens than rows": (
        changed_tokenizer(lambda file: file["model"]["vocab"].update(zzz=259)),
        "has the token 259, and the embedding has 259 rows",
    ),
    "pickled": (pickled, "pytorch_model.bin, which can run code"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has neither model.safetensors"),
    "a file is missing": (sharded, r"lacks model-00002-of-00002.safetensors, .*\(1 of 2 files are missing\)"),
    "a file outside": (outside, "its files must be names in the same folder"),
    "cut short": (cut_short, "can't be read as safetensors"),
    "a tensor is missing": (changed_weights(lambda tensors: tensors.pop(NORM)), f"lacks the tensor {NORM}"),
    "a tensor too many": (
        changed_weights(lambda tensors: tensors.update(x=torch.zeros(3))),
        "has the tensor x, which qwen2 has no place for",
    ),
    "8 bits": (
        changed_weights(lambda tensors: tensors.update({NORM: tensors[NORM].to(torch.float8_e4m3fn)})),
        "stores model.norm.weight as F8_E4M3",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_is_refused_by_name(case: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "hf", random_model(KINDS[0]))
    change, words = REFUSED[case]
    change(folder)
    with pytest.raises(ModelFileError, match=words):
        Conversion(folder)


GEMMA = next(kind for kind in KINDS if kind.name == "gemma3")
REFUSED_GEMMA = {
    "windows": (changed_config(layer_types=["full_attention"] * 7), "other layers than every 6th see all"),
    "scale": (changed_config(query_pre_attn_scalar=20), "scalar is 20, and llama.cpp takes 16"),
    "cap": (changed_config(attn_logit_softcapping=50.0), "caps its attention"),
}


@pytest.mark.parametrize("case", REFUSED_GEMMA)
def test_what_llama_cpp_computes_otherwise_for_gemma_is_refused(case: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "hf", random_model(GEMMA))
    change, words = REFUSED_GEMMA[case]
    change(folder)
    with pytest.raises(ModelFileError, match=words):
        read_header(folder)


def test_a_window_that_llama_cpp_does_not_have_bounds_the_context(tmp_path: Path) -> None:
    mistral = next(kind for kind in KINDS if kind.name == "mistral")
    folder = write_checkpoint(tmp_path / "hf", random_model(replace(mistral, more={"sliding_window": 100})))
    assert read_header(folder).dims.context_length == 100
    changed_config(sliding_window=None)(folder)
    assert read_header(folder).dims.context_length == 256
