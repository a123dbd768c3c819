"""Tiny random models of other families by transformers, written as GGUF by names of llama.cpp's converter."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tiny_gguf import write_out
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

VOCAB, CONTEXT = 259, 256
FACTORS = [1.0, 1.0, 1.25, 2.0, 4.0, 8.0, 8.0, 8.0]
WINDOW = 24
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_ROPE = {"rope_type": "default", "rope_theta": 5000.0}
_LINEARS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
_QK_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_GEMMA_NORMS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_FUSED = {
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def _gemma(writer: gguf.GGUFWriter) -> None:
    writer.add_sliding_window(WINDOW)


def _scaled_gemma(writer: gguf.GGUFWriter) -> None:
    _gemma(writer)
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(8.0)


def _factors(writer: gguf.GGUFWriter) -> None:
    writer.add_tensor("rope_freqs.weight", np.array(FACTORS, np.float32))


@dataclass(frozen=True)
class Kind:
    """A family: its configuration in transformers, and how its GGUF is written."""

    name: str
    arch: str
    config: type[PretrainedConfig]
    parts: dict[str, str]
    more: dict[str, Any] = field(default_factory=dict)
    extras: Callable[[gguf.GGUFWriter], None] = lambda writer: None
    permutes: bool = False
    norm_offset: float = 0.0
    layers: int = 2

    def __str__(self) -> str:
        return self.name


PLAIN = _LINEARS | _NORMS
_GEMMA = _LINEARS | _GEMMA_NORMS | _QK_NORMS
_WINDOWS = {
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"],
}
_WINDOW_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_GEMMA_ROPES = {"full_attention": _ROPE, "sliding_attention": _WINDOW_ROPE}
_SCALED_ROPES = {
    "full_attention": _ROPE | {"rope_type": "linear", "factor": 8.0},
    "sliding_attention": _WINDOW_ROPE,
}
KINDS = (
    Kind("qwen2", "qwen2", Qwen2Config, PLAIN),
    Kind("qwen3", "qwen3", Qwen3Config, PLAIN | _QK_NORMS, {"head_dim": 16}),
    Kind("llama", "llama", LlamaConfig, PLAIN, permutes=True),
    Kind(
        "llama-3.1",
        "llama",
        LlamaConfig,
        PLAIN,
        {
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 5000.0,
                "short_factor": FACTORS,
                "long_factor": FACTORS,
                "attention_factor": 1.0,
                "factor": 1.0,
                "original_max_position_embeddings": CONTEXT,
            }
        },
        _factors,
        permutes=True,
    ),
    Kind("mistral", "llama", MistralConfig, PLAIN, {"sliding_window": None}, permutes=True),
    Kind("smollm3", "smollm3", SmolLM3Config, PLAIN, permutes=True, layers=5),
    Kind(
        "gemma3",
        "gemma3",
        Gemma3TextConfig,
        _GEMMA,
        {**_WINDOWS, "rope_parameters": _GEMMA_ROPES},
        _gemma,
        norm_offset=1.0,
        layers=7,
    ),
    Kind(
        "gemma3-4b",
        "gemma3",
        Gemma3TextConfig,
        _GEMMA,
        {**_WINDOWS, "rope_parameters": _SCALED_ROPES},
        _scaled_gemma,
        norm_offset=1.0,
        layers=7,
    ),
    Kind("phi3", "phi3", Phi3Config, _FUSED | _NORMS),
)


def random_model(kind: Kind, seed: int = 0) -> PreTrainedModel:
    """A model whose every weight matters; tied where the family ties."""
    torch.manual_seed(seed)
    config = kind.config(
        **{
            "vocab_size": VOCAB,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": kind.layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": CONTEXT,
            "rms_norm_eps": 1e-6,
            "rope_parameters": _ROPE,
            "pad_token_id": None,
            "attn_implementation": "eager",
        }
        | kind.more
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                spread = 0.5 if "embed" in name else 1.5 * parameter.shape[1] ** -0.5
                parameter.normal_(std=spread)
            elif "norm" in name:
                parameter.normal_(1.0 - kind.norm_offset, 0.3)
            else:
                parameter.normal_(std=0.3)
    return model.eval()


def write_model(path: Path, kind: Kind, model: PreTrainedModel) -> Path:
    """The model as llama.cpp's converter would write it, with a vocabulary of bytes."""
    writer = gguf.GGUFWriter(path, kind.arch)
    config = model.config
    writer.add_name("Tiny")  # llama.cpp looks for tokens of Phi-3 where a name has that
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(64)
    writer.add_block_count(kind.layers)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(16)
    writer.add_value_length(16)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(5000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(VOCAB)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*_byte_tokens(), "ab", "<|im_end|>", "<|im_start|>"])
    writer.add_token_types([gguf.TokenType.NORMAL] * 257 + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(257)
    writer.add_add_bos_token(False)
    writer.add_chat_template(_TEMPLATE)
    kind.extras(writer)
    return write_out(writer, path, _tensors(kind, model))


def _tensors(kind: Kind, model: PreTrainedModel) -> dict[str, np.ndarray]:
    top = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if not model.config.tie_word_embeddings:
        top["lm_head.weight"] = "output.weight"
    state, tensors = dict(model.named_parameters()), {}
    for n in range(kind.layers):
        top |= {
            f"model.layers.{n}.{part}.{end}": f"blk.{n}.{name}.{end}"
            for part, name in kind.parts.items()
            for end in ("weight", "bias")
        }
    for hf_name, name in top.items():
        if hf_name not in state:
            continue
        values = state.pop(hf_name).detach().numpy()
        if kind.permutes and any(part in name for part in ("attn_q.", "attn_k.")):
            heads = values.reshape(-1, 2, 8, *values.shape[1:])
            values = heads.swapaxes(1, 2).reshape(values.shape)
        if "norm" in name:
            values = values + np.float32(kind.norm_offset)
        tensors[name] = np.ascontiguousarray(values)
    state.pop("lm_head.weight", None)
    assert not state, f"not written: {sorted(state)}"
    return tensors


def _byte_tokens() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| "
    r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""As Qwen publishes it."""


def write_checkpoint(folder: Path, model: PreTrainedModel, *, shard_size: str = "1GB") -> Path:
    """The model as transformers saves it, with the vocabulary of `write_model` as tokenizers saves it."""
    model.save_pretrained(folder, max_shard_size=shard_size)
    vocab = {token: n for n, token in enumerate([*_byte_tokens(), "ab"])}
    tokenizer = Tokenizer(models.BPE(vocab, [("a", "b")]))
    words = pre_tokenizers.Split(Regex(QWEN2_WORDS), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.add_special_tokens(["<|im_end|>", "<|im_start|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|im_end|>", "bos_token": None, "chat_template": _TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
