"""An adapter's file, read back: what it says of itself, and whether it fits a base.

Counterpart of `adapter_file.py`. Reads metadata and shapes, no weights. Does not know bundles or engines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from edgereason.errors import BundleError
from edgereason.quant.adapter_file import BASE_SHA256
from edgereason.quant.gguf_file import GgufModel

Shape = tuple[int, ...]


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


def read_adapter_info(path: Path) -> AdapterInfo:
    """Reads an adapter's metadata and shapes.

    Raises:
        BundleError: it can't be read, is no adapter, or lacks half of a product.
    """
    try:
        reader = gguf.GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        shapes: dict[str, Shape] = {
            tensor.name: tuple(int(n) for n in reversed(tensor.shape)) for tensor in reader.tensors
        }
        types = [tensor.tensor_type.name for tensor in reader.tensors]
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise BundleError(f"{path.name} can't be read as GGUF: {error}") from error
    if fields.get("general.type") != "adapter" or fields.get("adapter.type") != "lora":
        raise BundleError(f"{path.name} is no LoRA adapter")
    names = sorted({name.rpartition(".")[0] for name in shapes})
    halves = {f"{name}.{side}" for name in names for side in ("lora_a", "lora_b")}
    if not shapes or halves != shapes.keys():
        raise BundleError(f"{path.name} lacks matrices or has some that are no part of a LoRA: get it again")
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
        if name not in base.names:
            raise BundleError(
                f"the adapter has {name}, which {base.path.name} has not: it is for another model"
            )
        outputs, inputs = base.shape(name)
        if a[1:] != (inputs,) or b != (outputs, a[0]):
            raise BundleError(
                f"the adapter's {name} has the shapes {a} and {b}, the base needs (r, {inputs}) and "
                f"({outputs}, r): it is for another model"
            )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
