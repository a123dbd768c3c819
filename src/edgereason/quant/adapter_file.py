"""A LoRA adapter as llama.cpp reads it: two thin matrices beside each linear that they add to.

::

    y = W x + (alpha / r) · B (A x)        NAME.lora_a  A (r, inputs)      NAME.lora_b  B (outputs, r)

Metadata names the base by SHA-256 and, where the adapter is off on prompts, the ids that turn it on: the
key by which llama.cpp's server knows an activated LoRA. Q8_0 stores rows in blocks of 32, so it needs ranks
that are multiples of 32; it runs quicker than F16, which any rank can have.

Source: llama.cpp's `src/llama-adapter.cpp` and `convert_lora_to_gguf.py`, for keys and names.

Knows the file; does not know how an adapter comes about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

import gguf
import numpy as np
import numpy.typing as npt

from edgereason.core.bundle import temporary_beside
from edgereason.errors import BundleError, ConfigError
from edgereason.quant.blocks import BLOCK
from edgereason.quant.gguf_file import GgufModel

BASE_SHA256: Final = "edgereason.base.sha256"
_TYPE: Final = "adapter"


class AdapterGrid(StrEnum):
    """What an adapter's matrices are stored as."""

    F16 = "f16"
    Q8_0 = "q8_0"


_TYPES: Final = {
    AdapterGrid.F16: gguf.GGMLQuantizationType.F16,
    AdapterGrid.Q8_0: gguf.GGMLQuantizationType.Q8_0,
}


class Product(NamedTuple):
    """What is added to one linear: `a` (r, inputs) and `b` (outputs, r), float32."""

    a: npt.NDArray[np.float32]
    b: npt.NDArray[np.float32]


def write_adapter(
    target: Path,
    base: GgufModel,
    products: Mapping[str, Product],
    *,
    alpha: float,
    grid: AdapterGrid,
    base_sha256: str | None = None,
    invocation: Sequence[int] = (),
) -> None:
    """Writes an adapter, whole or not at all; the same content gives the same bytes.

    Args:
        target: the file.
        base: the model that it belongs to; family and shapes are read.
        products: by the names of the base's tensors, such as "blk.0.attn_q.weight".
        alpha: the sum is scaled by alpha / r.
        grid: of all matrices.
        base_sha256: of the base's file.
        invocation: ids that turn the adapter on; none for an adapter that is on everywhere.

    Raises:
        BundleError: a product doesn't fit the base.
        ConfigError: the rank can't be stored so.
    """
    kind = _TYPES[grid]
    with temporary_beside(target) as partial:
        writer = gguf.GGUFWriter(partial, base.text("general.architecture"))
        try:
            writer.add_type(_TYPE)
            writer.add_string("adapter.type", "lora")
            writer.add_float32("adapter.lora.alpha", alpha)
            if invocation:  # its type must be uint32, or loading fails
                writer.add_key_value(
                    "adapter.alora.invocation_tokens",
                    list(invocation),
                    gguf.GGUFValueType.ARRAY,
                    sub_type=gguf.GGUFValueType.UINT32,
                )
            if base_sha256 is not None:
                writer.add_string(BASE_SHA256, base_sha256)
            for name, product in products.items():
                _require_fit(base, name, product, grid)
                for suffix, matrix in zip(("lora_a", "lora_b"), product, strict=True):
                    packed = gguf.quants.quantize(np.ascontiguousarray(matrix, np.float32), kind)
                    writer.add_tensor(f"{name}.{suffix}", packed, raw_dtype=kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()


def _require_fit(base: GgufModel, name: str, product: Product, grid: AdapterGrid) -> None:
    rank = len(product.a)
    if name not in base.names:
        raise BundleError(f"the adapter has {name}, which {base.path.name} has not: it is for another model")
    outputs, inputs = base.shape(name)
    if product.a.shape != (rank, inputs) or product.b.shape != (outputs, rank):
        raise BundleError(
            f"the adapter's {name} has the shapes {product.a.shape} and {product.b.shape}, the base needs "
            f"{(rank, inputs)} and {(outputs, rank)}: it is for another model"
        )
    if grid is AdapterGrid.Q8_0 and rank % BLOCK:
        raise ConfigError(
            f"an adapter of rank {rank} can't be stored as Q8_0, which has blocks of {BLOCK}: "
            "take a rank that is a multiple, or F16"
        )


def base_of(path: Path) -> str | None:
    """SHA-256 of the base that an adapter was made for, if its file says so.

    Raises:
        BundleError: it can't be read, or is no adapter.
    """
    reader = _open(path)
    return str(reader.fields[BASE_SHA256].contents()) if BASE_SHA256 in reader.fields else None


def read_adapter(path: Path) -> tuple[dict[str, Product], float]:
    """What an adapter's file adds, as it is stored, and its alpha.

    Raises:
        BundleError: it can't be read, or is no adapter.
    """
    reader = _open(path)
    tensors = {one.name: gguf.quants.dequantize(one.data, one.tensor_type) for one in reader.tensors}
    names = [name.removesuffix(".lora_a") for name in tensors if name.endswith(".lora_a")]
    products = {name: Product(tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]) for name in names}
    return products, float(reader.fields["adapter.lora.alpha"].contents())


def _open(path: Path) -> gguf.GGUFReader:
    try:
        reader = gguf.GGUFReader(path)
    except (OSError, ValueError, IndexError) as error:
        raise BundleError(f"{path} can't be read as GGUF: {error}") from error
    if "general.type" not in reader.fields or reader.fields["general.type"].contents() != _TYPE:
        raise BundleError(f"{path} is no adapter")
    return reader
