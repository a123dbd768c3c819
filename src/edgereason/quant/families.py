"""Model families by the architecture that their GGUF names: how their tensors differ from a plain decoder's.

A plain decoder is Qwen2's: RMS norms before attention and feed-forward, RoPE on pairs i and i + d/2 of a
head, grouped heads, a gated feed-forward of SiLU, each linear a matrix of its own. `train/quant/load.py`
makes transformers' model of a family by this table. Mistral's files name "llama".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from edgereason.errors import ModelFileError


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How a family's tensors differ.

    Attributes:
        interleaved: whether RoPE pairs rows 2i and 2i + 1 of a head in the GGUF.
        fused: whether queries, keys and values are one matrix, and gate and up another.
        offset_norms: whether transformers stores the norms' gains less 1.
        post_norms: whether attention's and feed-forward's outputs are normalised, too.
        window_every: every so many layers one sees all tokens, the others a window; 0 where all see all.
        window_rope_base: of the layers with a window.
        quantize_refused: why `quantize` can't be used on it.
    """

    interleaved: bool = False
    fused: bool = False
    offset_norms: bool = False
    post_norms: bool = False
    window_every: int = 0
    window_rope_base: float = 10_000.0
    quantize_refused: str | None = None


FAMILIES: Final[Mapping[str, Family]] = {
    "qwen2": Family(),
    "qwen3": Family(),
    "llama": Family(interleaved=True),
    "smollm3": Family(interleaved=True),
    "gemma3": Family(
        offset_norms=True,
        post_norms=True,
        window_every=6,
        quantize_refused="it normalises the outputs of attention and feed-forward and scales its embeddings, "
        "so a rotation of the residual stream (T_r) can't be merged",
    ),
    "phi3": Family(
        fused=True,
        quantize_refused="its queries, keys and values are one matrix, as are gate and up, and the merge of "
        "transforms does not take them apart",
    ),
}


FUSED: Final[Mapping[str, tuple[str, ...]]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
"""Of families that have several linears in one matrix: its name in transformers, and theirs elsewhere."""


def family_of(arch: str, file_name: str) -> Family:
    """The family of an architecture.

    Raises:
        ModelFileError: it is not among those that can be trained against.
    """
    if arch not in FAMILIES:
        raise ModelFileError(f"{file_name} is of the family {arch!r}; known here are {', '.join(FAMILIES)}")
    return FAMILIES[arch]


def require_quantizable(arch: str) -> None:
    """Refuses to quantize a family whose weights transforms can't be merged into.

    Raises:
        ModelFileError: with the reason.
    """
    if (why := FAMILIES[arch].quantize_refused) is not None:
        raise ModelFileError(
            f"a model of the family {arch!r} can't be quantized: {why}. It can be asked and trained against"
        )
