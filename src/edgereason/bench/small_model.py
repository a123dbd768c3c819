"""A model of random weights to measure a machine with, where no real one is: a sixth of the default base.

Layers have the base's widths and its storage (Q4_0), the head is Q8_0. There are a sixth as many layers, and
a sixth as many entries in the vocabulary, so that each part of a step costs about a sixth: reading weights,
attention, head, sampling. What it says is noise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import numpy.typing as npt

SHARE: Final = 6
"""The base has so many times the layers and the vocabulary."""
_HIDDEN, _FF, _HEADS, _KV_HEADS, _HEAD_DIM = 896, 4864, 14, 2, 64
_LAYERS: Final = 24 // SHARE
_VOCAB: Final = 151_936 // SHARE
_CONTEXT: Final = 4096
_LINEARS: Final = {
    "attn_q": (_HIDDEN, _HIDDEN),
    "attn_k": (_KV_HEADS * _HEAD_DIM, _HIDDEN),
    "attn_v": (_KV_HEADS * _HEAD_DIM, _HIDDEN),
    "attn_output": (_HIDDEN, _HIDDEN),
    "ffn_gate": (_FF, _HIDDEN),
    "ffn_up": (_FF, _HIDDEN),
    "ffn_down": (_HIDDEN, _FF),
}
_TEMPLATE: Final = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Bytes = npt.NDArray[np.uint8]


def write_small_model(target: Path, *, seed: int = 0) -> None:
    """Writes the model, about 60 MB; the same seed gives the same bytes.

    Raises:
        OSError: it can't be written.
    """
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(target, "qwen2")
    _add_metadata(writer)
    # Codes of 4 bits have a standard deviation of 4.6, those of 8 bits one of 74.
    head = _blocks(random, (_VOCAB, _HIDDEN), code_bytes=32, scale=1 / (74 * _HIDDEN**0.5))
    writer.add_tensor("token_embd.weight", head, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for layer in range(_LAYERS):
        for name, (num_out, num_in) in _LINEARS.items():
            blocks = _blocks(random, (num_out, num_in), code_bytes=16, scale=1 / (4.6 * num_in**0.5))
            writer.add_tensor(f"blk.{layer}.{name}.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
        for name in ("attn_q", "attn_k", "attn_v"):
            writer.add_tensor(f"blk.{layer}.{name}.bias", np.zeros(_LINEARS[name][0], np.float32))
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(_HIDDEN, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(_HIDDEN, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_metadata(writer: Any) -> None:
    writer.add_name("small model of random weights")
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_HIDDEN)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FF)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    tokens = _byte_tokens()
    tokens += [f"ŧ{number}" for number in range(_VOCAB - len(tokens) - 2)] + ["<|im_end|>", "<|im_start|>"]
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * (_VOCAB - 2) + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(_VOCAB - 2)
    writer.add_eos_token_id(_VOCAB - 2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(_TEMPLATE)


def _blocks(random: np.random.Generator, shape: tuple[int, int], *, code_bytes: int, scale: float) -> Bytes:
    """Rows of blocks of 32 weights, of random codes under one scale: a half float, then the codes."""
    blocks = random.integers(0, 256, (shape[0], shape[1] // 32, 2 + code_bytes), np.uint8)
    blocks[..., :2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
    return blocks.reshape(shape[0], -1)


def _byte_tokens() -> list[str]:
    """The 256 bytes as GPT-2's vocabularies write them: visible characters first, the others from 256 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = (byte for byte in range(256) if byte not in visible)
    return [*map(chr, visible), *(chr(256 + number) for number, _ in enumerate(moved))]
