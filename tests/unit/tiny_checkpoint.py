"""A tiny checkpoint in Hugging Face's format. Needs no torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

HIDDEN, FF, VOCAB = 32, 64, 259
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "intermediate_size": FF,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "vocab_size": VOCAB,
    "tie_word_embeddings": True,
}
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
SPECIAL = ("<|im_end|>", "<|im_start|>")


def write_tiny_checkpoint(folder: Path, *, architecture: str = "LlamaForCausalLM") -> Path:
    """A Llama or Qwen3 with one layer and a vocabulary of bytes; the folder is made."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | {"architectures": [architecture]}))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()))
    config = {"eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(0)
    shapes = {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (HIDDEN // 2, HIDDEN),
        "self_attn.v_proj": (HIDDEN // 2, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (FF, HIDDEN),
        "mlp.up_proj": (FF, HIDDEN),
        "mlp.down_proj": (HIDDEN, FF),
        "input_layernorm": (HIDDEN,),
        "post_attention_layernorm": (HIDDEN,),
    }
    if architecture == "Qwen3ForCausalLM":
        shapes |= {"self_attn.q_norm": (16,), "self_attn.k_norm": (16,)}
    tensors = {f"model.layers.0.{name}.weight": shape for name, shape in shapes.items()}
    tensors |= {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    weights = {name: (rng.standard_normal(shape) / 4).astype(np.float16) for name, shape in tensors.items()}
    save_file(weights, folder / "model.safetensors")
    return folder


def _tokenizer() -> dict[str, object]:
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    letters = [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
    split = {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "added_tokens": [{"id": 257 + n, "content": text, "special": True} for n, text in enumerate(SPECIAL)],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "model": {
            "type": "BPE",
            "vocab": {letter: n for n, letter in enumerate([*letters, "ab"])},
            "merges": [["a", "b"]],
        },
    }
