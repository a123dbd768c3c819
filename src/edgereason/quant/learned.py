"""What quantizing learned, in a file small enough to ship: with the teacher's file it gives the base.

::

    rotation                   (hidden, hidden)             Q of T_r, on a dyadic grid
    blk.N.keys.cos, .sin       (kv heads, head_dim / 2)     s·cos θ and s·sin θ of T_k
    blk.N.values, .values_inverse   (kv heads, d, d)        A of T_v (fp16) and its inverse, on a dyadic grid
    blk.N.up                   (ff,) fp16                   u of T_u
    NAME.left, NAME.right      (rows, r), (r, columns) fp16 a product added to a linear before it is rounded
    NAME.rows                  (rows,) fp16                 factors of a linear's scales, by row
    NAME                       (n,)                         a gain or a bias, in place of the merged one

A tensor that is absent means identity, ones, or what the merge gives. The file is a GGUF of general.type
"learned"; its metadata names the teacher by SHA-256, the grids and the rule for scales.

Knows the file; the transforms' meaning is `merge.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import numpy.typing as npt

from edgereason.core.bundle import temporary_beside
from edgereason.errors import BundleError, ConfigError
from edgereason.quant.blocks import Grid, Ranges

_TYPE: Final = "learned"
_VERSION: Final = 1
_PREFIX: Final = "edgereason."

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """What each kind of tensor is stored as.

    Attributes:
        linears: the seven linears of each layer.
        ranges: rule for 4-bit scales.
        per_row: one scale for an output channel instead of one for each block of 32.
        tied: the head is the embedding, too: the file is smaller by one of them. For models that were trained
            so; a teacher's file may hold both, rounded apart.

    Raises:
        ConfigError: tied, and of two types.
    """

    linears: Grid = Grid.Q4_0
    head: Grid = Grid.Q4_0
    embedding: Grid = Grid.Q8_0
    ranges: Ranges = Ranges.L2
    per_row: bool = False
    tied: bool = False

    def __post_init__(self) -> None:
        if self.tied and self.head is not self.embedding:
            raise ConfigError(
                "[storage]: an embedding that is the head, too, has one type, "
                f"got {self.embedding} and {self.head}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """Transforms and factors for one teacher.

    Attributes:
        name: what the base is called.
        teacher_sha256: of the GGUF that the weights come from.
        storage: grids and rules.
        tensors: as the module's picture has them.
    """

    name: str
    teacher_sha256: str
    storage: StorageConfig = field(default_factory=StorageConfig)
    tensors: Mapping[str, Array] = field(default_factory=dict)

    def get(self, name: str) -> Array | None:
        """A tensor, if there is one."""
        return self.tensors.get(name)

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all; the same content gives the same bytes."""
        with temporary_beside(path) as partial:
            writer = gguf.GGUFWriter(partial, "edgereason")
            writer.add_type(_TYPE)
            writer.add_name(self.name)
            writer.add_uint32(f"{_PREFIX}version", _VERSION)
            writer.add_string(f"{_PREFIX}teacher.sha256", self.teacher_sha256)
            for key in ("linears", "head", "embedding", "ranges"):
                writer.add_string(f"{_PREFIX}storage.{key}", str(getattr(self.storage, key)))
            for key in ("per_row", "tied"):
                writer.add_bool(f"{_PREFIX}storage.{key}", getattr(self.storage, key))
            for name in sorted(self.tensors):
                writer.add_tensor(name, np.ascontiguousarray(self.tensors[name]))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()

    @classmethod
    def read(cls, path: Path) -> Learned:
        """Reads the file.

        Raises:
            BundleError: it can't be read, is something else, or of another version.
        """
        try:
            reader = gguf.GGUFReader(path)
        except (OSError, ValueError, IndexError) as error:
            raise BundleError(f"{path} can't be read as GGUF: {error}") from error
        values = {name: entry.contents() for name, entry in reader.fields.items()}
        if values.get("general.type") != _TYPE:
            raise BundleError(f"{path} is not what quantizing learned: its general.type is not {_TYPE!r}")
        version = values.get(f"{_PREFIX}version")
        if version != _VERSION:
            raise BundleError(f"{path} has version {version}, this edgereason reads version {_VERSION}")
        try:
            return cls._of(values, reader)
        except (KeyError, ValueError) as error:
            raise BundleError(f"{path} lacks or garbles {error}: get the file again") from error

    @classmethod
    def _of(cls, values: Mapping[str, Any], reader: gguf.GGUFReader) -> Learned:
        said = {key: values[f"{_PREFIX}storage.{key}"] for key in StorageConfig.__dataclass_fields__}
        return cls(
            name=values["general.name"],
            teacher_sha256=values[f"{_PREFIX}teacher.sha256"],
            storage=StorageConfig(
                linears=Grid(said["linears"]),
                head=Grid(said["head"]),
                embedding=Grid(said["embedding"]),
                ranges=Ranges(said["ranges"]),
                per_row=said["per_row"],
                tied=said["tied"],
            ),
            tensors={
                tensor.name: np.array(tensor.data).reshape([int(n) for n in reversed(tensor.shape)])
                for tensor in reader.tensors
            },
        )
