"""The files that a benchmark makes for itself, in the cache beside the models.

::

    <cache>/bench/
      <sha256 of the source, 16 digits>-q4_0.gguf                     a plain Q4_0
      <sha256 of the source, 16 digits>-random-r32-q8_0-seed0.gguf    a random adapter

They are named after their source, so a changed source never meets an old file. The random adapter shows
what an adapter costs before one has been trained.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from edgereason.engine.handles import check_gguf
from edgereason.engine.native import C, complaints, forget_complaints, ggml, gguf_header
from edgereason.errors import ModelFileError
from edgereason.hub.store import cache_folder, file_errors, require_space
from edgereason.quant.adapter_file import AdapterGrid, Product, write_adapter
from edgereason.quant.gguf_file import GgufModel
from edgereason.quant.merge import is_linear

Notice = Callable[[str], None]

RANK: Final = 32
_B_SCALE: Final = 0.005
_FTYPE_MOSTLY_Q4_0: Final = 2


def plain_q4_0(source: Path, sha256: str, notice: Notice) -> Path:
    """A Q4_0 of `source`, embedding and head included, made by llama.cpp's own quantizer.

    Args:
        source: any GGUF; what is quantized already is quantized again.
        sha256: of the source.
        notice: told in a line that this takes about a minute.

    Raises:
        ModelFileError: the source can't be quantized.
        PullError: the cache can't be written, or has no room.
    """
    check_gguf(source, "model")
    target = _folder() / f"{sha256[:16]}-q4_0.gguf"
    if target.is_file():
        return target
    require_space(target.parent, source.stat().st_size)
    notice(f"making a plain Q4_0 of {source.name} with llama.cpp's quantizer; once, about a minute")
    params = C.llama_model_quantize_default_params()
    params.ftype = _FTYPE_MOSTLY_Q4_0
    params.allow_requantize = True
    params.pure = True
    with file_errors(target):
        partial = target.with_name(f"{target.name}.{os.getpid()}.part")
        try:
            forget_complaints()
            code = C.llama_model_quantize(str(source).encode(), str(partial).encode(), ctypes.byref(params))
            if code != 0:
                raise ModelFileError(f"{source} can't be quantized to Q4_0: {complaints()}")
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    return target


def random_adapter(source: Path, sha256: str, notice: Notice, *, seed: int = 0) -> Path:
    """A random adapter for `source` and for everything quantized from it."""
    target = _folder() / f"{sha256[:16]}-random-r{RANK}-q8_0-seed{seed}.gguf"
    if not target.is_file():
        notice(f"writing a random r={RANK} Q8_0 adapter for {source.name}; once, some seconds")
        with file_errors(target):
            write_random_adapter(source, target, seed=seed)
    return target


def write_random_adapter(base: Path, target: Path, *, rank: int = RANK, seed: int = 0) -> None:
    """Writes a Q8_0 adapter of random numbers on all linears of `base`; `target` appears whole or not at all.

    A keeps the size of its input, and B is so small that the sum stays within a few per cent of W x's:
    outputs stay sane, and no product is zero. The same base, rank and seed give the same bytes.

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


def read_per_token_bytes(path: Path) -> int:
    """Bytes of weights that decoding one token must read: all, but of a separate embedding only a row."""
    with gguf_header(path) as file:
        sizes = {
            bytes(ggml.gguf_get_tensor_name(file, i)): int(ggml.gguf_get_tensor_size(file, i))
            for i in range(ggml.gguf_get_n_tensors(file))
        }
    embedding = sizes.get(b"token_embd.weight", 0) if b"output.weight" in sizes else 0
    return sum(sizes.values()) - embedding


def _folder() -> Path:
    folder = cache_folder() / "bench"
    with file_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder
