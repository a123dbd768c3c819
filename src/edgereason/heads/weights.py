"""Weights of heads as a file has them: float32, or int8 with one float32 scale a row beside them.

::

    weight (rows, columns)  ─→  weight int8, weight_scale (rows,)      w ≈ scale · code, code in −127 … 127

Vectors are float32 always, and so is what is read. Knows tensors; does not know which heads there are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import numpy as np

from edgereason.errors import BundleError
from edgereason.heads.base import Array

Axes = tuple[str, ...]
"""Of an array, by name, such as H for the size of a state; "1" for one."""

_LARGEST_CODE: Final = 127


class Storage(StrEnum):
    """What weights are stored as."""

    F32 = "f32"
    INT8 = "int8"


def to_int8(weight: Array) -> tuple[np.ndarray[Any, np.dtype[np.int8]], Array]:
    """Codes (rows, columns) in −127 … 127, and the scale of each row (rows,); a row of zeros has scale 1."""
    largest = np.abs(weight).max(axis=1)
    scales = np.where(largest == 0, 1, largest / _LARGEST_CODE).astype(np.float32)
    codes = np.clip(np.rint(weight / scales[:, None]), -_LARGEST_CODE, _LARGEST_CODE)
    return codes.astype(np.int8), scales


def pack(arrays: Mapping[str, Array], storage: Storage) -> dict[str, Any]:
    """Tensors to be stored, of arrays in float32.

    Raises:
        BundleError: a number is none.
    """
    stored: dict[str, Any] = {}
    for name, array in arrays.items():
        _require_numbers(name, array)
        if storage is Storage.INT8 and name.endswith("weight"):
            stored[name], stored[f"{name}_scale"] = to_int8(array)
        else:
            stored[name] = np.ascontiguousarray(array, np.float32)
    return stored


def unpack(name: str, tensors: Mapping[str, Any], axes: Axes, sizes: dict[str, int]) -> Array:
    """A stored tensor in float32, its shape and numbers checked; an axis seen first here gets its size.

    Raises:
        BundleError: a number is none.
        KeyError, TypeError, ValueError: it is not there, or of another type or shape.
    """
    tensor = tensors[name]
    if tensor.dtype == np.int8:
        scales = tensors[f"{name}_scale"]
        _require_numbers(f"{name}_scale", scales)
        tensor = tensor.astype(np.float32) * scales[:, None]
    if tensor.dtype != np.float32:
        raise TypeError(f"{name} is of type {tensor.dtype}, expected float32 or int8")
    if len(axes) == tensor.ndim:
        expected = tuple(sizes.setdefault(axis, got) for axis, got in zip(axes, tensor.shape, strict=True))
    if len(axes) != tensor.ndim or tensor.shape != expected:
        raise ValueError(f"{name} has shape {tensor.shape}, expected ({', '.join(axes)}) with {sizes}")
    _require_numbers(name, tensor)
    return np.asarray(tensor)


def _require_numbers(name: str, tensor: Array) -> None:
    is_scale = re.search(r"(\.std|_scale)$", name)
    if not np.isfinite(tensor).all() or (is_scale and not (tensor > 0).all()):
        raise BundleError(
            f"{name} holds {'a number that is not above 0' if is_scale else 'no finite number'}"
            ": train the head again"
        )
