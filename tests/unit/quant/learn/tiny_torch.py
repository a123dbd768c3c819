"""Tiny GGUF weights in transformers' models, by a table and row numbers of its own, and students of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tiny_gguf import Shape, Weights
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config, Qwen3Config

from edgereason.quant.gguf_file import Dims, GgufModel
from edgereason.quant.learned import StorageConfig
from edgereason.train.quant.load import load_torch
from edgereason.train.quant.student import CorrectionConfig, Student
from edgereason.train.quant.transforms import TransformConfig

PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
NO_TRANSFORMS = TransformConfig(residual=False, keys=False, values=False, up=False)
NO_CORRECTIONS = CorrectionConfig(rows=False, norms=False, biases=False)


def hf_name(name: str) -> str:
    """A tensor's name in transformers, by the GGUF's."""
    *front, part, kind = name.split(".")
    return f"{TOP[part]}.{kind}" if not front else f"model.layers.{front[1]}.{PARTS[part]}.{kind}"


def hf_rows(shape: Shape, name: str, num_rows: int) -> list[int]:
    """Which of the GGUF's rows is each of transformers'.

    llama's GGUF has the two rows that RoPE turns together beside each other, transformers d/2 apart.
    """
    rows = list(range(num_rows))
    if shape.arch != "llama" or (".attn_q." not in name and ".attn_k." not in name):
        return rows
    d = shape.head_dim
    return [d * (row // d) + (2 * i if (i := row % d) < d // 2 else 2 * (i - d // 2) + 1) for row in rows]


def hf_state(shape: Shape, weights: Weights) -> dict[str, Tensor]:
    """A GGUF's weights as transformers has them."""
    return {hf_name(n): torch.from_numpy(w[hf_rows(shape, n, len(w))].copy()) for n, w in weights.items()}


def hf_model(shape: Shape, weights: Weights) -> PreTrainedModel:
    """transformers' model with these weights; tied where they have no head."""
    config: dict[str, Any] = {
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ff,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv,
        "head_dim": shape.head_dim,
        "max_position_embeddings": 128,
        "rms_norm_eps": shape.eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_base},
        "tie_word_embeddings": "output.weight" not in weights,
    }
    kind = {"qwen2": Qwen2Config, "llama": LlamaConfig, "qwen3": Qwen3Config}[shape.arch]
    model: PreTrainedModel = AutoModelForCausalLM.from_config(kind(**config))
    state = hf_state(shape, weights)
    if model.config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True)
    return model.eval()


def random_ids(num_rows: int, num_tokens: int, seed: int = 0, vocab: int = 40) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, vocab, (num_rows, num_tokens)))


@torch.no_grad()
def logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    found: Tensor = model(input_ids=ids, use_cache=False).logits
    return found


@torch.no_grad()
def student_logits(student: Student, ids: Tensor) -> Tensor:
    student.refresh()
    return student.hidden(ids) @ student.head().T


def distance(got: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest magnitude."""
    return float((got - expected).abs().max() / expected.abs().max())


def noise(got: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference over that of what is expected."""
    return float((got - expected).square().mean().sqrt() / expected.square().mean().sqrt())


class Teacher(NamedTuple):
    path: Path
    file: GgufModel
    dims: Dims
    model: PreTrainedModel


def load(path: Path, cache: Path) -> Teacher:
    file = GgufModel(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Teacher(path, file, file.dims, load_torch(file, sha256, cache))


def make_student(
    teacher: Teacher,
    storage: StorageConfig | None = None,
    transforms: TransformConfig = NO_TRANSFORMS,
    corrections: CorrectionConfig = NO_CORRECTIONS,
    *,
    kv8: bool = False,
) -> Student:
    return Student(teacher.model, teacher.dims, storage or StorageConfig(), transforms, corrections, kv8=kv8)


@torch.no_grad()
def stir(module: torch.nn.Module, seed: int = 0, spread: float = 0.1) -> None:
    """Moves every parameter at random."""
    random = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter += spread * torch.randn(parameter.shape, generator=random)
