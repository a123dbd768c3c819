"""`heads.safetensors`: both heads in one file, and what they fit.

::

    metadata   edgereason-heads   (JSON, one key: safetensors writes several in any order)
                 version, base_sha256, hidden_size
                 switcher   {"storage": "f32", "features": {…}, "threshold": 0.5}
                 verifier   {"storage": …, "features": {…}, "adapter_sha256": …, "buckets": [128, …],
                             "prompt": …, "prompt_ids": […]}
    tensors    switcher.mean, .std  (F,)      .hidden_weight (U, F)   .hidden_bias (U,)
                                              .output_weight (1, U)   .output_bias (1,)
               verifier.mean, .std  (V,)      .weight (1, V)          .bias (1,)

Either head may be absent, and each is stored in its own way (`weights.py`); where one is replaced, the other
stays bit by bit. H is the size of a state, F of the switcher's features, V of the verifier's, U hidden units.

A head is of use with the very weights and features that it was trained on. Whatever else a file holds is
refused: another version, base, adapter or definition, other sizes, non-finite values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from edgereason.config import load_json, read_value
from edgereason.core.bundle import temporary_beside
from edgereason.errors import BundleError
from edgereason.heads.base import Array
from edgereason.heads.features import Features
from edgereason.heads.switcher import MlpSwitcher
from edgereason.heads.verifier import LinearVerifier, TraceFeatures

T = TypeVar("T")
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
        BundleError: a value is not finite.
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
        BundleError: a value is not finite.
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
            f"{name} holds {'a value that is not above 0' if is_scale else 'a non-finite value'}"
            ": train the head again"
        )


_UNREADABLE: Final = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What a damaged or hostile file meets where it says what can't be."""

FORMAT: Final = "edgereason-heads"
VERSION: Final = 2

_AXES: Final[Mapping[str, Mapping[str, Axes]]] = {
    "switcher": {
        "mean": ("F",), "std": ("F",), "hidden_weight": ("U", "F"), "hidden_bias": ("U",),
        "output_weight": ("1", "U"), "output_bias": ("1",),
    },
    "verifier": {"mean": ("V",), "std": ("V",), "weight": ("1", "V"), "bias": ("1",)},
}  # fmt: skip
"""Tensors of each head."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Heads:
    """What a file holds.

    Attributes:
        base_sha256: of the base whose states the heads read.
        adapter_sha256: of the adapter that was on for the verifier; None if it was trained without one, or
            there is no verifier.
        buckets: budgets of the hints in the traces that the verifier was trained on; None if nobody said, or
            there is no verifier.
        storage: of the weights in the file; None of one whose two heads differ.
    """

    base_sha256: str
    switcher: MlpSwitcher | None = None
    verifier: LinearVerifier | None = None
    adapter_sha256: str | None = None
    buckets: tuple[int, ...] | None = None
    storage: Storage | None = Storage.F32

    def check(
        self,
        *,
        base_sha256: str,
        hidden_size: int,
        adapter_sha256: str | None,
        buckets: Sequence[int] | None = None,
    ) -> None:
        """Refuses to be used with another base or adapter, or under other hints.

        Args:
            adapter_sha256: of the adapter that will think; None for a base that thinks by itself.
            buckets: budgets that hints will name; None if they are not known here.

        Raises:
            BundleError: the heads were trained on something else.
        """
        if self.base_sha256 != base_sha256:
            raise BundleError(
                f"the heads are for another base: they expect SHA-256 {self.base_sha256}, got {base_sha256}: "
                "train them on this one"
            )
        for name, head in (("switcher", self.switcher), ("verifier", self.verifier)):
            if head is not None and head.hidden_size != hidden_size:
                raise BundleError(
                    f"the {name} reads states of size {head.hidden_size}, the base's have {hidden_size}: "
                    "train it on this base"
                )
        if self.verifier is not None and self.adapter_sha256 != adapter_sha256:
            raise BundleError(
                "the verifier is for another adapter: it expects "
                f"{_adapter(self.adapter_sha256)}, got {_adapter(adapter_sha256)}: train it on this one"
            )
        if self.buckets is not None and buckets is not None and set(self.buckets) != set(buckets):
            raise BundleError(
                f"the verifier is for other hints: it expects the buckets {list(self.buckets)}, got "
                f"{list(buckets)}: train it on this bundle"
            )


def write_heads(path: Path, heads: Heads) -> None:
    """Writes a file of heads, whole or not at all.

    Raises:
        BundleError: a value is not finite, there is no head, or the file can't be written.
    """
    _save(path, _packed(path, heads))


def read_heads(path: Path) -> Heads:
    """Reads a file of heads; whether they fit, `Heads.check` says.

    Raises:
        BundleError: it can't be read, or holds what this version does not know or can't compute.
    """
    return _unpacked(path, _load(path))


def merge_heads(path: Path, heads: Heads) -> None:
    """Puts heads into a file: in place of its own of the same kind, beside the other; made if not there.

    Raises:
        BundleError: it is not a file of heads, or its heads are for another base.
    """
    fresh = _packed(path, heads)
    if path.exists():
        require_base(path, heads.base_sha256)
        there = _load(path)
        tensors = {
            name: tensor
            for name, tensor in there.tensors.items()
            if name.partition(".")[0] not in fresh.described
        }
        fresh = _Stored(there.described | fresh.described, tensors | fresh.tensors)
    _save(path, fresh)


def require_base(path: Path, base_sha256: str) -> None:
    """Refuses a file that can't take heads of this base.

    Raises:
        BundleError: it is not a file of heads, or its heads are for another base.
    """
    there = read_heads(path).base_sha256
    if there != base_sha256:
        raise BundleError(f"heads of two bases can't be in one file: got {base_sha256} and {there}")


def write_with_threshold(source: Path, target: Path, threshold: float) -> None:
    """Writes the heads of `source` again, their weights bit by bit, with another threshold.

    Raises:
        BundleError: it is not a file of heads, has no switcher, the threshold is out of range, or `target`
            can't be written.
    """
    switcher = read_heads(source).switcher
    if switcher is None:
        raise BundleError(f"{source.name} has no switcher, and so no threshold: train one")
    stored = _load(source)
    stored.described["switcher"]["threshold"] = replace(switcher, threshold=threshold).threshold
    _save(target, stored)


class _Stored(NamedTuple):
    """What a file says of its heads, and its tensors as they lie there."""

    described: dict[str, Any]
    tensors: dict[str, Any]


def _load(path: Path) -> _Stored:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError, MemoryError, *_UNREADABLE) as error:
        why = " ".join(str(error).split())
        raise BundleError(f"{path.name} can't be read as heads ({why}): get or train it again") from error
    if FORMAT not in metadata:
        raise BundleError(f"{path.name} is not a file of heads: its metadata has no {FORMAT!r}")
    try:
        described = load_json(metadata[FORMAT])
        version = described["version"]
    except _UNREADABLE as error:
        raise _not_ours(path, error) from error
    if version != VERSION:
        raise BundleError(
            f"{path.name} has version {version}, this edgereason reads version {VERSION}: train it again"
        )
    return _Stored(described, tensors)


def _save(path: Path, stored: _Stored) -> None:
    try:
        with temporary_beside(path) as temporary:
            temporary.write_bytes(save(stored.tensors, {FORMAT: json.dumps(stored.described)}))
    except OSError as error:
        raise BundleError(f"{path} can't be written: {error.strerror}") from error


def _packed(path: Path, heads: Heads) -> _Stored:
    if heads.storage is None:
        raise BundleError(f"heads that are stored differently can't be written to {path.name} in one way")
    described: dict[str, Any] = {"version": VERSION, "base_sha256": heads.base_sha256}
    own: dict[str, dict[str, Any]] = {}
    if heads.switcher is not None:
        own["switcher"] = {"threshold": heads.switcher.threshold}
    if heads.verifier is not None:
        asked = {"prompt": heads.verifier.prompt, "prompt_ids": heads.verifier.prompt_ids}
        own["verifier"] = {"adapter_sha256": heads.adapter_sha256, **asked}
        if heads.buckets is not None:
            own["verifier"]["buckets"] = heads.buckets
    tensors: dict[str, Array] = {}
    for name, values in own.items():
        head = getattr(heads, name)
        described["hidden_size"] = head.hidden_size
        described[name] = {"storage": str(heads.storage), "features": head.features.to_json(), **values}
        tensors |= {f"{name}.{tensor}": getattr(head, tensor) for tensor in _AXES[name]}
    if not tensors:
        raise BundleError(f"{path.name} would hold no head: train a switcher or a verifier first")
    try:
        return _Stored(described, pack(tensors, heads.storage))
    except BundleError as error:
        raise BundleError(f"{path.name}: {error}") from error


def _unpacked(path: Path, stored: _Stored) -> Heads:
    described = stored.described

    def arrays(head: str) -> dict[str, Array]:
        return {
            name: unpack(f"{head}.{name}", stored.tensors, axes, sizes) for name, axes in _AXES[head].items()
        }

    try:
        there = [name for name in _AXES if name in described]
        if not there:
            raise ValueError("it holds neither a switcher nor a verifier")
        storages = {Storage(described[name]["storage"]) for name in there}
        sizes = {"1": 1, "H": _value(int, described, "hidden_size")}
        heads = Heads(
            base_sha256=_value(str, described, "base_sha256"),
            storage=storages.pop() if len(storages) == 1 else None,
        )
        if "switcher" in described:
            features = Features.from_json(described["switcher"]["features"])
            sizes["F"], threshold = (
                features.size(sizes["H"]),
                _value(float, described["switcher"], "threshold"),
            )
            switcher = MlpSwitcher(**arrays("switcher"), features=features, threshold=threshold)
            heads = replace(heads, switcher=switcher)
        if "verifier" in described:
            of_verifier = described["verifier"]
            read = TraceFeatures.from_json(of_verifier["features"])
            sizes["V"] = read.num_states * sizes["H"]
            judge = LinearVerifier(
                **arrays("verifier"),
                features=read,
                prompt=_value(str, of_verifier, "prompt"),
                prompt_ids=_value(tuple[int, ...], of_verifier, "prompt_ids"),
            )
            buckets = _value(tuple[int, ...], of_verifier, "buckets") if "buckets" in of_verifier else None
            heads = replace(
                heads, verifier=judge, adapter_sha256=of_verifier["adapter_sha256"], buckets=buckets
            )
    except BundleError as error:
        raise BundleError(f"{path.name}: {error}") from error
    except _UNREADABLE as error:
        raise _not_ours(path, error) from error
    return heads


def _value(hint: type[T], described: Mapping[str, Any], name: str) -> T:
    """A value of the description, which is of this type."""
    found: T = read_value(hint, described[name], name, BundleError)
    return found


def _not_ours(path: Path, error: Exception) -> BundleError:
    return BundleError(
        f"{path.name} is not a file of heads of this version ({type(error).__name__}: {error}): "
        "get or train it again"
    )


def _adapter(sha256: str | None) -> str:
    return "no adapter" if sha256 is None else f"SHA-256 {sha256}"
