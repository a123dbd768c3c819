"""A LoRA adapter of random numbers, to measure what an adapter costs before one has been trained.

A keeps the size of its input and B is so small that the sum stays within a few per cent of W x's: outputs
stay sane, and no product is zero.

The same base, rank and seed give the same bytes. Knows tensors' names and shapes; nothing of training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from edgereason.quant.adapter_file import AdapterGrid, Product, write_adapter
from edgereason.quant.gguf_file import GgufModel
from edgereason.quant.merge import is_linear

RANK: Final = 32
_B_SCALE: Final = 0.005


def write_random_adapter(base: Path, target: Path, *, rank: int = RANK, seed: int = 0) -> None:
    """Writes a Q8_0 adapter on all linears of `base`; `target` appears whole or not at all.

    Args:
        base: a GGUF model; its tensors' shapes and architecture are read, not its weights.
        target: the adapter's file.
        rank: a multiple of 32; alpha equals it, so that the scale is 1.
        seed: of the random numbers.

    Raises:
        ConfigError: the rank can't be stored as Q8_0.
    """
    model, random = GgufModel(base), np.random.default_rng(seed)
    products = {}
    for name in filter(is_linear, model.names):
        num_out, num_in = model.shape(name)
        a = random.standard_normal((rank, num_in), np.float32) / np.float32(np.sqrt(num_in))
        b = random.standard_normal((num_out, rank), np.float32) * np.float32(_B_SCALE)
        products[name] = Product(a, b)
    write_adapter(target, model, products, alpha=float(rank), grid=AdapterGrid.Q8_0)
