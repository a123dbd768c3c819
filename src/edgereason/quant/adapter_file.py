"""A LoRA adapter as llama.cpp reads it: two thin matrices beside each linear that they add to.

::

    y = W x + (alpha / r) · B (A x)        NAME.lora_a  A (r, inputs)      NAME.lora_b  B (outputs, r)

Metadata names the base by SHA-256, the checkpoint that it was converted from, if it was, and, where the
adapter is off on prompts, the ids that turn it on: the key by which llama.cpp's server knows an activated
LoRA. Q8_0 stores rows in blocks of 32, so it needs ranks that are multiples of 32; it runs quicker than
F16, which any rank can have.

Source: llama.cpp's `src/llama-adapter.cpp` and `convert_lora_to_gguf.py`, for keys and names.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

import gguf
import numpy as np
import numpy.typing as npt

from edgereason.core.bundle import temporary_beside
from edgereason.errors import BundleError, ConfigError
from edgereason.quant.blocks import BLOCK, Grid, Quantized, unpack
from edgereason.quant.gguf_file import CHECKPOINT_SHA256, GgufModel, Reader

BASE_SHA256: Final = "edgereason.base.sha256"
_TYPE: Final = "adapter"

_KEYS: Final = {
    "general.type": (gguf.GGUFValueType.STRING,),
    "general.architecture": (gguf.GGUFValueType.STRING,),
    "adapter.type": (gguf.GGUFValueType.STRING,),
    "adapter.lora.alpha": (gguf.GGUFValueType.FLOAT32,),
    "adapter.alora.invocation_tokens": (gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32),
    BASE_SHA256: (gguf.GGUFValueType.STRING,),
    CHECKPOINT_SHA256: (gguf.GGUFValueType.STRING,),
}
_STORED: Final = {gguf.GGMLQuantizationType[name] for name in ("F32", "F16", "BF16", "Q8_0")}

Shape = tuple[int, ...]


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


class StoredProduct(NamedTuple):
    """The same as its file holds it: codes and scales, or float32."""

    a: npt.NDArray[np.float32] | Quantized
    b: npt.NDArray[np.float32] | Quantized


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterInfo:
    """What an adapter says of itself.

    Attributes:
        arch: family of its base.
        base_sha256: of its base; None if it does not say.
        invocation: ids that turn it on; none for one that is on everywhere.
        products: shapes of A (r, inputs) and B (outputs, r), by the names of the base's tensors.
        storage: type of most of its matrices, such as Q8_0.
    """

    arch: str
    base_sha256: str | None
    invocation: tuple[int, ...]
    products: Mapping[str, tuple[Shape, Shape]]
    storage: str

    @property
    def rank(self) -> int:
        """The largest r."""
        return max(a[0] for a, _ in self.products.values())


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
            for key, value in base.checkpoint.keys().items() if base.checkpoint else ():
                writer.add_string(key, value)
            for name, product in products.items():
                _require_storable(base, name, product, grid)
                for suffix, matrix in zip(("lora_a", "lora_b"), product, strict=True):
                    packed = gguf.quants.quantize(np.ascontiguousarray(matrix, np.float32), kind)
                    writer.add_tensor(f"{name}.{suffix}", packed, raw_dtype=kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()


def base_of(path: Path) -> str | None:
    """SHA-256 of the base that an adapter was made for, if its file says so.

    Raises:
        BundleError: it can't be read, or is not a LoRA adapter.
    """
    return _text(_open(path)[1].get(BASE_SHA256))


def read_adapter(path: Path) -> tuple[dict[str, Product], float]:
    """What an adapter's file adds, as it is stored, and its alpha.

    Raises:
        BundleError: it can't be read, or is not a LoRA adapter.
    """
    reader, fields = _open(path)
    with _mapped(path), np.errstate(all="ignore"):
        tensors = {one.name: gguf.quants.dequantize(one.data, one.tensor_type) for one in reader.tensors}
        if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
            raise BundleError(f"{path.name} holds a non-finite value: get it again")
        names = [name.removesuffix(".lora_a") for name in tensors if name.endswith(".lora_a")]
        products = {name: Product(tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]) for name in names}
        return products, float(fields["adapter.lora.alpha"])


def read_stored_adapter(path: Path) -> tuple[dict[str, StoredProduct], float]:
    """What an adapter's file adds, as codes and scales where it is stored so, and its alpha.

    Raises:
        BundleError: it can't be read, or is not a LoRA adapter.
    """
    products, alpha = read_adapter(path)
    reader, _ = _open(path)
    packed = {one.name: one for one in reader.tensors if one.tensor_type == _TYPES[AdapterGrid.Q8_0]}

    def stored(name: str, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | Quantized:
        if name not in packed:
            return values
        return unpack(np.asarray(packed[name].data).reshape(len(values), -1), Grid.Q8_0)

    return {
        name: StoredProduct(stored(f"{name}.lora_a", product.a), stored(f"{name}.lora_b", product.b))
        for name, product in products.items()
    }, alpha


def read_adapter_info(path: Path) -> AdapterInfo:
    """Reads an adapter's metadata and shapes, no weights.

    Raises:
        BundleError: it can't be read, is not a LoRA adapter, or lacks half of a product.
    """
    reader, fields = _open(path)
    shapes: dict[str, Shape] = {
        tensor.name: tuple(int(n) for n in reversed(tensor.shape)) for tensor in reader.tensors
    }
    types = [tensor.tensor_type.name for tensor in reader.tensors]
    names = sorted({name.rpartition(".")[0] for name in shapes})
    halves = {f"{name}.{side}" for name in names for side in ("lora_a", "lora_b")}
    if not shapes or halves != shapes.keys():
        raise BundleError(f"{path.name} lacks matrices or has some that belong to no LoRA: get it again")
    return AdapterInfo(
        arch=str(fields.get("general.architecture")),
        base_sha256=_text(fields.get(BASE_SHA256)),
        invocation=tuple(fields.get("adapter.alora.invocation_tokens") or ()),
        products={name: (shapes[f"{name}.lora_a"], shapes[f"{name}.lora_b"]) for name in names},
        storage=max(set(types), key=types.count),
    )


def require_fit(adapter: AdapterInfo, base: GgufModel) -> None:
    """Refuses an adapter whose family or shapes are not the base's.

    Raises:
        BundleError: naming the first thing that differs.
    """
    if (arch := base.text("general.architecture")) != adapter.arch:
        raise BundleError(f"the adapter is for the family {adapter.arch}, the base is of {arch}")
    for name, (a, b) in adapter.products.items():
        _require_shapes(base, name, a, b)


def _require_storable(base: GgufModel, name: str, product: Product, grid: AdapterGrid) -> None:
    _require_shapes(base, name, product.a.shape, product.b.shape)
    rank = len(product.a)
    if grid is AdapterGrid.Q8_0 and rank % BLOCK:
        raise ConfigError(
            f"an adapter of rank {rank} can't be stored as Q8_0, which has blocks of {BLOCK}: "
            "take a rank that is a multiple, or F16"
        )


def _require_shapes(base: GgufModel, name: str, a: Shape, b: Shape) -> None:
    if name not in base.names:
        raise BundleError(f"the adapter has {name}, which {base.path.name} has not: it is for another model")
    outputs, inputs = base.shape(name)
    if a[1:] != (inputs,) or b != (outputs, a[0]):
        raise BundleError(
            f"the adapter's {name} has the shapes {a} and {b}, the base needs (r, {inputs}) and "
            f"({outputs}, r): it is for another model"
        )


def _open(path: Path) -> tuple[Reader, dict[str, Any]]:
    """The reader of an adapter's file, and its metadata."""
    with _mapped(path):
        reader = Reader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        kinds = {name: tuple(field.types[:2]) for name, field in reader.fields.items()}
    for key, expected in _KEYS.items():
        if kinds.get(key, expected) != expected:
            raise BundleError(f"{path.name} is not a LoRA adapter: {key} is of another type: get it again")
    if fields.get("general.type") != _TYPE or fields.get("adapter.type") != "lora":
        raise BundleError(f"{path.name} is not a LoRA adapter")
    if unknown := {tensor.tensor_type for tensor in reader.tensors} - _STORED:
        raise BundleError(
            f"{path.name} has a tensor of the type {min(unknown).name}; an adapter has F32, F16, BF16 or Q8_0"
        )
    return reader, fields


@contextmanager
def _mapped(path: Path) -> Iterator[None]:
    """Says what gguf's reader met in a damaged file: it believes every length and offset."""
    try:
        yield
    except (OSError, ValueError, LookupError, ArithmeticError, TypeError, MemoryError, struct.error) as error:
        raise BundleError(f"{path.name} can't be read as GGUF ({error}): get it again") from error


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
