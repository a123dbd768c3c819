"""Tiny random decoders as GGUF files, and random transforms that fit them. Needs no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from edgereason.quant.dyadic import on_grid
from edgereason.quant.learned import Learned, StorageConfig

Weights = dict[str, npt.NDArray[np.float32]]

KINDS = ("rotation", "keys", "values", "up")
TOKENS = ["<s>", "</s>", *(f"ŧ{n}" for n in range(38))]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A decoder's shapes; `width` is that of all query heads together."""

    arch: str
    hidden: int = 64
    heads: int = 4
    kv: int = 2
    head_dim: int = 16
    ff: int = 96
    tied: bool = False
    layers: int = 2
    vocab: int = len(TOKENS)
    rope_base: float = 5000.0
    eps: float = 1e-5

    @property
    def width(self) -> int:
        return self.heads * self.head_dim


QWEN2 = Shape(arch="qwen2")
LLAMA = Shape(arch="llama", tied=True)
QWEN3 = Shape(arch="qwen3", head_dim=32, layers=1)
FAMILIES = (QWEN2, LLAMA, QWEN3)


def random_weights(shape: Shape, seed: int) -> Weights:
    """All tensors by their names in a GGUF, queries and keys in its order of rows."""
    rng = np.random.default_rng(seed)

    def normal(*size: int, spread: float, mean: float = 0.0) -> npt.NDArray[np.float32]:
        return (mean + spread * rng.standard_normal(size)).astype(np.float32)

    h, kv_width, ff = shape.hidden, shape.kv * shape.head_dim, shape.ff
    weights = {"token_embd.weight": normal(shape.vocab, h, spread=1.0)}
    for n in range(shape.layers):
        linears = {
            "attn_q": (shape.width, h),
            "attn_k": (kv_width, h),
            "attn_v": (kv_width, h),
            "attn_output": (h, shape.width),
            "ffn_gate": (ff, h),
            "ffn_up": (ff, h),
            "ffn_down": (h, ff),
        }
        weights |= {f"blk.{n}.{k}.weight": normal(*s, spread=1.5 * s[1] ** -0.5) for k, s in linears.items()}
        weights |= {f"blk.{n}.{k}.weight": normal(h, spread=0.3, mean=1.0) for k in ("attn_norm", "ffn_norm")}
        if shape.arch == "qwen2":
            weights |= {
                f"blk.{n}.{k}.bias": normal(linears[k][0], spread=0.3) for k in ("attn_q", "attn_k", "attn_v")
            }
        if shape.arch == "qwen3":
            norms = ("attn_q_norm", "attn_k_norm")
            weights |= {f"blk.{n}.{k}.weight": normal(shape.head_dim, spread=0.3, mean=1.0) for k in norms}
    weights["output_norm.weight"] = normal(h, spread=0.3, mean=1.0)
    if not shape.tied:
        weights["output.weight"] = normal(shape.vocab, h, spread=1.5 * h**-0.5)
    return weights


def write_gguf(path: Path, shape: Shape, weights: Weights) -> Path:
    """The model as a float32 GGUF with a vocabulary, as a converter would write it."""
    writer = shaped_writer(path, shape, context=128)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([float(-n) for n in range(len(TOKENS))])
    writer.add_token_types([gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * (len(TOKENS) - 2))
    writer.add_token_merges(["a b", "ab c"])
    writer.add_bos_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")
    return write_out(writer, path, weights)


def shaped_writer(path: Path, shape: Shape, *, context: int) -> gguf.GGUFWriter:
    """The writer of a float32 model that has its name and its shapes, but no vocabulary and no weights."""
    writer = gguf.GGUFWriter(path, shape.arch)
    writer.add_name("Tiny")
    writer.add_context_length(context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ff)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv)
    if shape.width != shape.hidden:
        writer.add_key_length(shape.head_dim)
        writer.add_value_length(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.eps)
    writer.add_vocab_size(shape.vocab)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    return writer


def write_out(writer: gguf.GGUFWriter, path: Path, tensors: Weights | None = None) -> Path:
    """Adds `tensors`, writes what the writer holds to its file, at `path`, and closes it."""
    for name, values in (tensors or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random_transforms(
    shape: Shape, seed: int, kinds: Collection[str] = KINDS
) -> dict[str, npt.NDArray[np.float32]]:
    """Transforms of some kinds as `Learned` holds them, far from identity."""
    rng = np.random.default_rng(seed)
    found = {}
    if "rotation" in kinds:
        q, _ = np.linalg.qr(rng.standard_normal((shape.hidden, shape.hidden)))
        found["rotation"] = on_grid(q)
    for n in range(shape.layers):
        if "keys" in kinds:
            pairs = (shape.kv, shape.head_dim // 2)
            size, angle = np.exp(0.3 * rng.standard_normal(pairs)), rng.uniform(-np.pi, np.pi, pairs)
            found |= {f"blk.{n}.keys.cos": size * np.cos(angle), f"blk.{n}.keys.sin": size * np.sin(angle)}
        if "values" in kinds:
            size = (shape.kv, shape.head_dim, shape.head_dim)
            left, right = (np.linalg.qr(rng.standard_normal(size))[0] for _ in range(2))
            mix = on_grid(left * np.exp(0.3 * rng.standard_normal((shape.kv, 1, size[1]))) @ right)
            found |= {f"blk.{n}.values": mix, f"blk.{n}.values_inverse": on_grid(np.linalg.inv(mix))}
        if "up" in kinds:
            found[f"blk.{n}.up"] = np.exp(0.5 * rng.standard_normal(shape.ff))
    return {name: values.astype(np.float32) for name, values in found.items()}


def learned_for(
    path: Path, tensors: dict[str, npt.NDArray[np.float32]], storage: StorageConfig | None = None
) -> Learned:
    """What was learned for the file at `path`."""
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Learned(name="Tiny-W4", teacher_sha256=sha256, storage=storage or StorageConfig(), tensors=tensors)
