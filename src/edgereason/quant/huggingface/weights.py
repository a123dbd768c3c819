"""The weights of a checkpoint, mapped: `model.safetensors`, or the files that an index names.

Only safetensors are read. The library checks a file's header; numpy has no bfloat16, so values are taken
from the mapped file as bits. Pickled weights (`.bin`, `.pth`) can run code when they are loaded, so they
never are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from edgereason.config import load_json, read_bounded
from edgereason.errors import ModelFileError

WHOLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
_PICKLED: Final = ("*.bin", "*.pth", "*.pt")
_TYPES: Final[Mapping[str, Any]] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


class Stored(NamedTuple):
    """A tensor where it lies: bits of bfloat16 are uint16."""

    kind: str
    values: npt.NDArray[Any]


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files that hold a checkpoint's weights.

    Raises:
        ModelFileError: there is none, or one that the index names is missing.
    """
    if (folder / WHOLE).is_file():
        return (folder / WHOLE,)
    index = folder / INDEX
    if not index.is_file():
        others = sorted(path.name for path in folder.glob("*.safetensors"))
        pickled = [path.name for pattern in _PICKLED for path in sorted(folder.glob(pattern))]
        if pickled:
            raise ModelFileError(
                f"{folder} has its weights as {pickled[0]}, which can run code when it is loaded: "
                "get the checkpoint as safetensors"
            )
        beside = f" ({others[0]} is named by none)" if others else ""
        raise ModelFileError(f"{folder} has neither {WHOLE} nor {INDEX}{beside}: get the whole checkpoint")
    try:
        names = sorted(set(load_json(read_bounded(index))["weight_map"].values()))
        if not names or any(Path(name).name != name for name in names):
            raise ValueError("its files must be names in the same folder")
    except OSError as error:
        raise ModelFileError(f"{index} can't be read: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise ModelFileError(f"{index} can't be right ({error}): get it again") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelFileError(
            f"{folder} lacks {missing[0]}, which {INDEX} names ({len(missing)} of {len(names)} files are "
            "missing): "
            "get the whole checkpoint"
        )
    return tuple(folder / name for name in names)


class Weights:
    """All tensors of a checkpoint by name; none is read before it is asked for.

    Args:
        files: as `weight_files` finds them.

    Raises:
        ModelFileError: a file can't be read as safetensors, or two have the same tensor.
    """

    def __init__(self, files: tuple[Path, ...]) -> None:
        self._places: dict[str, tuple[Path, str, tuple[int, ...], int]] = {}
        for path in files:
            for name, kind, shape, start in _read_header(path):
                if name in self._places:
                    raise ModelFileError(f"{name} stands in {self._places[name][0].name} and in {path.name}")
                self._places[name] = (path, kind, shape, start)
        self._mapped: dict[Path, npt.NDArray[np.uint8]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def about(self, name: str) -> tuple[str, tuple[int, ...]]:
        """Type and shape of a tensor.

        Raises:
            ModelFileError: it is not stored in 16 or 32 bits of floating point.
        """
        path, kind, shape, _ = self._places[name]
        if kind not in _TYPES:
            raise ModelFileError(
                f"{path.name} stores {name} as {kind}; expected {', '.join(_TYPES)}: the checkpoint is "
                "quantized, "
                "give the one in 16 or 32 bits, or a GGUF"
            )
        return kind, shape

    def take(self, name: str) -> Stored:
        """A tensor, mapped."""
        kind, shape = self.about(name)
        path, _, _, start = self._places[name]
        if path not in self._mapped:
            self._mapped[path] = np.memmap(path, np.uint8, "r")
        dtype = np.dtype(_TYPES[kind])
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        bits = np.asarray(self._mapped[path][start : start + size])
        return Stored(kind, bits.view(dtype.newbyteorder("<")).reshape(shape))


def _read_header(path: Path) -> Iterator[tuple[str, str, tuple[int, ...], int]]:
    """Name, type, shape and first byte of each tensor of a file."""
    try:
        with safe_open(path, "np"):  # refuses headers that don't fit the file
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = load_json(file.read(length))
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelFileError(f"{path} can't be read as safetensors ({error}): get it again") from error
    for name, about in header.items():
        if name != "__metadata__":
            yield name, str(about["dtype"]), tuple(about["shape"]), 8 + length + about["data_offsets"][0]
