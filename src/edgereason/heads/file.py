"""`heads.safetensors`: both heads in one file, and what they fit.

::

    metadata   edgereason-heads   (JSON, one key: safetensors writes several in any order)
                 version, storage, base_sha256, hidden_size
                 switcher   {"features": {…}, "threshold": 0.5}
                 verifier   {"features": {…}, "adapter_sha256": …, "prompt": …, "prompt_ids": […]}
    tensors    switcher.mean, .std  (H,)      .hidden_weight (8, H)   .hidden_bias (8,)
                                              .output_weight (1, 8)   .output_bias (1,)
               verifier.mean, .std  (H,)      .weight (1, H)          .bias (1,)

Either head may be absent. Weights are float32, or int8 with one float32 scale a row beside them
(``weight_scale``): w ≈ scale · code, code in −127 … 127. Vectors are float32 always; reading gives float32.

A head is of use with the very weights and features that it was trained on. Whatever else a file holds is
refused: another version, base, adapter or definition, other sizes, numbers that are none.

Knows files and heads; does not know bundles, engines or how heads are trained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from edgereason.core.bundle import temporary_beside
from edgereason.errors import BundleError
from edgereason.heads import features, verifier
from edgereason.heads.base import Array
from edgereason.heads.switcher import MlpSwitcher
from edgereason.heads.verifier import LinearVerifier

FORMAT: Final = "edgereason-heads"
VERSION: Final = 1

Axes = tuple[str, ...]
"""Of an array: H, the size of a state; U, hidden units; 1."""

_SWITCHER: Final[Mapping[str, Axes]] = {
    "mean": ("H",), "std": ("H",), "hidden_weight": ("U", "H"), "hidden_bias": ("U",),
    "output_weight": ("1", "U"), "output_bias": ("1",),
}  # fmt: skip
_VERIFIER: Final[Mapping[str, Axes]] = {"mean": ("H",), "std": ("H",), "weight": ("1", "H"), "bias": ("1",)}
_LARGEST_CODE: Final = 127


class Storage(StrEnum):
    """What weights are stored as."""

    F32 = "f32"
    INT8 = "int8"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Heads:
    """What a file holds.

    Attributes:
        base_sha256: of the base whose states the heads read.
        adapter_sha256: of the adapter that was on for the verifier; None if it was trained without one, or
            there is no verifier.
        storage: of the weights in the file.
    """

    base_sha256: str
    switcher: MlpSwitcher | None = None
    verifier: LinearVerifier | None = None
    adapter_sha256: str | None = None
    storage: Storage = Storage.F32

    def check(self, *, base_sha256: str, hidden_size: int, adapter_sha256: str | None) -> None:
        """Refuses to be used with another base or adapter.

        Args:
            adapter_sha256: of the adapter that will think; None for a base that thinks by itself.

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

    def merged(self, other: Heads) -> Heads:
        """These heads, and those of the other file that are not here.

        Raises:
            BundleError: the others are for another base.
        """
        if self.base_sha256 != other.base_sha256:
            raise BundleError(
                f"heads of two bases can't be in one file: got {self.base_sha256} and {other.base_sha256}"
            )
        if self.verifier is None:
            return replace(
                self,
                switcher=self.switcher or other.switcher,
                verifier=other.verifier,
                adapter_sha256=other.adapter_sha256,
            )
        return replace(self, switcher=self.switcher or other.switcher)


def write_heads(path: Path, heads: Heads) -> None:
    """Writes a file of heads, whole or not at all.

    Raises:
        BundleError: a number is none, there is no head, or the file can't be written.
    """
    described: dict[str, Any] = {
        "version": VERSION,
        "storage": str(heads.storage),
        "base_sha256": heads.base_sha256,
    }
    tensors: dict[str, Array] = {}
    if heads.switcher is not None:
        switcher = heads.switcher
        described["hidden_size"] = switcher.hidden_size
        described["switcher"] = {"features": features.DEFINITION, "threshold": switcher.threshold}
        tensors |= {f"switcher.{name}": getattr(switcher, name) for name in _SWITCHER}
    if heads.verifier is not None:
        judge = heads.verifier
        described["hidden_size"] = judge.hidden_size
        described["verifier"] = {
            "features": verifier.DEFINITION,
            "adapter_sha256": heads.adapter_sha256,
            "prompt": judge.prompt,
            "prompt_ids": judge.prompt_ids,
        }
        tensors |= {f"verifier.{name}": getattr(judge, name) for name in _VERIFIER}
    if not tensors:
        raise BundleError(f"{path.name} would hold no head: train a switcher or a verifier first")
    stored: dict[str, Any] = {}
    for name, tensor in tensors.items():
        _require_numbers(path, name, tensor)
        if heads.storage is Storage.INT8 and name.endswith("weight"):
            stored[name], stored[f"{name}_scale"] = to_int8(tensor)
        else:
            stored[name] = np.ascontiguousarray(tensor, np.float32)
    try:
        with temporary_beside(path) as temporary:
            temporary.write_bytes(save(stored, {FORMAT: json.dumps(described)}))
    except OSError as error:
        raise BundleError(f"{path} can't be written: {error.strerror}") from error


def read_heads(path: Path) -> Heads:
    """Reads a file of heads; whether they fit, `Heads.check` says.

    Raises:
        BundleError: it can't be read, or holds what this version does not know or can't compute.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        why = " ".join(str(error).split())
        raise BundleError(f"{path.name} can't be read as heads ({why}): get or train it again") from error
    if FORMAT not in metadata:
        raise BundleError(f"{path.name} is no file of heads: its metadata has no {FORMAT!r}")
    try:
        described = json.loads(metadata[FORMAT])
        if described["version"] != VERSION:
            raise BundleError(
                f"{path.name} has version {described['version']}, this edgereason reads version {VERSION}: "
                "train the heads again"
            )
        return _heads(path, described, tensors)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BundleError(
            f"{path.name} is no file of heads of this version ({type(error).__name__}: {error}): "
            "get or train it again"
        ) from error


def merge_heads(path: Path, heads: Heads) -> None:
    """Puts heads into a file: in place of its own of the same kind, beside the other; made if not there.

    Raises:
        BundleError: it is no file of heads, or its heads are for another base.
    """
    write_heads(path, heads.merged(read_heads(path)) if path.exists() else heads)


def write_with_threshold(source: Path, target: Path, threshold: float) -> None:
    """Writes the heads of `source` again, their weights bit by bit, with another threshold.

    Raises:
        BundleError: it is no file of heads, has no switcher, or `target` can't be written.
    """
    if read_heads(source).switcher is None:
        raise BundleError(f"{source.name} has no switcher, and so no threshold: train one")
    with safe_open(source, framework="numpy") as file:
        described = json.loads(file.metadata()[FORMAT])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    described["switcher"]["threshold"] = threshold
    try:
        with temporary_beside(target) as temporary:
            temporary.write_bytes(save(tensors, {FORMAT: json.dumps(described)}))
    except OSError as error:
        raise BundleError(f"{target} can't be written: {error.strerror}") from error


def to_int8(weight: Array) -> tuple[np.ndarray[Any, np.dtype[np.int8]], Array]:
    """Codes (rows, columns) in −127 … 127, and the scale of each row (rows,); a row of zeros has scale 1."""
    largest = np.abs(weight).max(axis=1)
    scales = np.where(largest == 0, 1, largest / _LARGEST_CODE).astype(np.float32)
    codes = np.clip(np.rint(weight / scales[:, None]), -_LARGEST_CODE, _LARGEST_CODE)
    return codes.astype(np.int8), scales


def _heads(path: Path, described: Mapping[str, Any], tensors: Mapping[str, Any]) -> Heads:
    sizes = {"1": 1, "H": int(described["hidden_size"])}
    heads = Heads(base_sha256=described["base_sha256"], storage=Storage(described["storage"]))

    def arrays(head: str, axes: Mapping[str, Axes]) -> dict[str, Array]:
        return {name: _array(path, f"{head}.{name}", tensors, axes[name], sizes) for name in axes}

    if "switcher" in described:
        of_switcher = described["switcher"]
        _require_definition(path, "switcher", of_switcher["features"], features.DEFINITION)
        threshold = float(of_switcher["threshold"])
        heads = replace(heads, switcher=MlpSwitcher(**arrays("switcher", _SWITCHER), threshold=threshold))
    if "verifier" in described:
        of_verifier = described["verifier"]
        _require_definition(path, "verifier", of_verifier["features"], verifier.DEFINITION)
        judge = LinearVerifier(
            **arrays("verifier", _VERIFIER),
            prompt=of_verifier["prompt"],
            prompt_ids=tuple(int(token) for token in of_verifier["prompt_ids"]),
        )
        heads = replace(heads, verifier=judge, adapter_sha256=of_verifier["adapter_sha256"])
    if heads.switcher is None and heads.verifier is None:
        raise ValueError("it holds neither a switcher nor a verifier")
    return heads


def _array(path: Path, name: str, tensors: Mapping[str, Any], axes: Axes, sizes: dict[str, int]) -> Array:
    """A tensor in float32, its shape and numbers checked; an axis seen first here gets its size."""
    tensor = tensors[name]
    if tensor.dtype == np.int8:
        scales = tensors[f"{name}_scale"]
        _require_numbers(path, f"{name}_scale", scales)
        tensor = tensor.astype(np.float32) * scales[:, None]
    if tensor.dtype != np.float32:
        raise TypeError(f"{name} is of type {tensor.dtype}, expected float32 or int8")
    if len(axes) == tensor.ndim:
        expected = tuple(sizes.setdefault(axis, got) for axis, got in zip(axes, tensor.shape, strict=True))
    if len(axes) != tensor.ndim or tensor.shape != expected:
        raise ValueError(f"{name} has shape {tensor.shape}, expected ({', '.join(axes)}) with {sizes}")
    _require_numbers(path, name, tensor)
    return np.asarray(tensor)


def _require_numbers(path: Path, name: str, tensor: Array) -> None:
    is_scale = re.search(r"(\.std|_scale)$", name)
    if not np.isfinite(tensor).all() or (is_scale and not (tensor > 0).all()):
        raise BundleError(
            f"{path.name}: {name} holds {'a number that is not above 0' if is_scale else 'no finite number'}"
            ": train the head again"
        )


def _require_definition(path: Path, head: str, got: Any, expected: Mapping[str, Any]) -> None:
    if got != expected:
        raise BundleError(
            f"{path.name}: the {head} reads features {got}, this edgereason computes {dict(expected)}: "
            "train it again"
        )


def _adapter(sha256: str | None) -> str:
    return "no adapter" if sha256 is None else f"SHA-256 {sha256}"
