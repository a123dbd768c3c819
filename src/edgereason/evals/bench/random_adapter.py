"""A LoRA adapter of random numbers, to measure what an adapter costs before one has been trained.

For every linear W of every layer, written as llama.cpp reads it (`src/llama-adapter.cpp`):

    y = W x + (alpha / r) · B (A x)        A: (r, in) "….lora_a"    B: (out, r) "….lora_b"

GGUF lists a shape's fastest axis first, so A reads back as [in, r] and B as [r, out]. Both are Q8_0: rows of
32-element blocks, which is why r is a multiple of 32. A keeps the size of its input and B is so small that
the sum stays within a few per cent of W x's: outputs stay sane, and no product is zero.

The same base, rank and seed give the same bytes. Knows tensors' names and shapes; nothing of training.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgereason.errors import ConfigError

RANK: Final = 32
_LINEARS: Final = re.compile(r"blk\.\d+\.(attn_q|attn_k|attn_v|attn_output|ffn_gate|ffn_up|ffn_down)\.weight")
_B_SCALE: Final = 0.005


def import_gguf() -> Any:
    """The gguf package, which only writing an adapter needs.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise ConfigError(
            "the bench writes a random adapter with the package gguf, which is not installed: "
            "pip install 'edgereason[eval]'"
        ) from error
    return gguf


def write_random_adapter(base: Path, target: Path, *, rank: int = RANK, seed: int = 0) -> None:
    """Writes a Q8_0 adapter on all linears of `base`; `target` appears whole or not at all.

    Args:
        base: a GGUF model; its tensors' shapes and architecture are read, not its weights.
        target: the adapter's file.
        rank: a multiple of 32; alpha equals it, so that the scale is 1.
        seed: of the random numbers.

    Raises:
        ConfigError: gguf is missing, or the rank can't be stored as Q8_0.
    """
    if rank <= 0 or rank % 32:
        raise ConfigError(f"the rank of a Q8_0 adapter must be a multiple of 32, got {rank}")
    gguf = import_gguf()
    reader = gguf.GGUFReader(base)
    arch = reader.fields["general.architecture"].contents()
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    random = np.random.default_rng(seed)

    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        writer = gguf.GGUFWriter(partial, arch)
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", float(rank))
        for name, num_in, num_out in _linears(reader):
            a = random.standard_normal((rank, num_in), np.float32) / np.float32(np.sqrt(num_in))
            b = random.standard_normal((num_out, rank), np.float32) * np.float32(_B_SCALE)
            writer.add_tensor(f"{name}.lora_a", gguf.quants.quantize(a, q8_0), raw_dtype=q8_0)
            writer.add_tensor(f"{name}.lora_b", gguf.quants.quantize(b, q8_0), raw_dtype=q8_0)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _linears(reader: Any) -> list[tuple[str, int, int]]:
    """(name, in, out) of every layer's linears, in the order of the file."""
    return [
        (tensor.name, int(tensor.shape[0]), int(tensor.shape[1]))
        for tensor in reader.tensors
        if _LINEARS.fullmatch(tensor.name)
    ]
