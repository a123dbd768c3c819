"""What a graph is made of: a base's and an adapter's tensors as they are stored, and the file they go to.

::

    GGUF   (outputs, inputs)   Q4_0, Q8_0: codes and fp16 scales by block of 32; all else: float32
    ONNX   (inputs, outputs)   INT4 or INT8 codes and scales, in one file beside the graphs

Nothing is rounded: a graph's weights are the base's, bit by bit. A matrix whose rows have one scale each is
stored by channel. Rows of queries and keys are in transformers' order, so that RoPE turns halves of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import onnx

from edgereason.errors import BundleError
from edgereason.quant.adapter_file import StoredProduct
from edgereason.quant.blocks import Quantized
from edgereason.quant.gguf_file import EMBEDDING, HEAD, GgufModel, from_gguf_order

Float32 = npt.NDArray[np.float32]
Matrix = Float32 | Quantized

_ALIGNMENT: Final = 4096
"""Of large tensors in their file: runtimes map them into memory by page."""
_INLINE_BYTES: Final = 1024
"""Up to this size a tensor stands in the graph itself."""


class StoredModel:
    """A base, and the adapter on it if there is one.

    Args:
        model: the base.
        products: what the adapter adds, by the base's tensors.
        alpha: a product is scaled by this over its rank.
        opening: ids that think begins with.
    """

    def __init__(
        self,
        model: GgufModel,
        products: dict[str, StoredProduct],
        alpha: float = 0.0,
        opening: Sequence[int] = (),
    ) -> None:
        self.model = model
        self._products = products
        self._alpha = alpha
        self.dims = model.dims
        self.opening = tuple(opening)

    @property
    def has_adapter(self) -> bool:
        """Whether there is anything to switch on."""
        return bool(self._products)

    def has(self, name: str) -> bool:
        """Whether the base has this tensor."""
        return name in self.model.names

    def vector(self, name: str) -> Float32:
        """A gain or a bias."""
        values: Float32 = from_gguf_order(self.dims, name, self.model.weights(name))
        return values

    def matrix(self, name: str) -> Matrix:
        """(outputs, inputs); the head of a base without one is its embedding."""
        source = EMBEDDING if name == HEAD and self.dims.tied else name
        stored = self.model.quantized(source)
        if stored is None:
            return self.vector(source)
        return Quantized(*(from_gguf_order(self.dims, name, part) for part in stored))

    def product(self, name: str) -> tuple[Matrix, Matrix, float] | None:
        """A (rank, inputs), B (outputs, rank) and alpha over rank of what is added to a linear, if any is."""
        if name not in self._products:
            return None
        a, b = self._products[name]
        if isinstance(b, Quantized):
            b = Quantized(*(from_gguf_order(self.dims, name, part) for part in b))
        else:
            b = from_gguf_order(self.dims, name, b)
        return a, b, self._alpha / len(a.codes if isinstance(a, Quantized) else a)


def is_by_row(matrix: Quantized) -> bool:
    """Whether each row has one scale, repeated."""
    return bool((matrix.scales == matrix.scales[:, :1]).all())


def is_4_bit(matrix: Quantized) -> bool:
    """Whether all codes fit 4 bits."""
    return bool(matrix.codes.min(initial=0) >= -8 and matrix.codes.max(initial=0) <= 7)


def as_float(matrix: Matrix) -> Float32:
    """What a matrix stands for; every product of code and scale is exact."""
    return matrix.dequantized() if isinstance(matrix, Quantized) else matrix


class TensorFile:
    """The file that holds the tensors of one or more graphs, each once.

    Args:
        path: of the file; written from its beginning.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._known: dict[str, onnx.TensorProto] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def find(self, name: str) -> onnx.TensorProto | None:
        """A tensor that was added before."""
        return self._known.get(name)

    def add(self, name: str, values: npt.NDArray[Any], *, is_4_bit: bool = False) -> onnx.TensorProto:
        """Writes a tensor, unless one of this name is there.

        Args:
            name: of the tensor, the same in every graph.
            values: of any type that ONNX has; int8 for 4 bits.
            is_4_bit: two codes a byte, the first in the low half.

        Returns:
            What a graph says of it.
        """
        if name in self._known:
            return self._known[name]
        tensor = onnx.TensorProto(name=name, dims=values.shape)
        if is_4_bit:
            codes = values.reshape(-1).view(np.uint8) & np.uint8(15)
            if codes.size % 2:
                raise BundleError(f"{name} has {codes.size} weights, which can't be stored two a byte")
            data, tensor.data_type = (
                (codes[::2] | codes[1::2] << np.uint8(4)).tobytes(),
                onnx.TensorProto.INT4,
            )
        else:
            data = np.ascontiguousarray(values).tobytes()
            tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
        if len(data) <= _INLINE_BYTES:
            tensor.raw_data = data
        else:
            self._file.seek(-(-self._file.tell() // _ALIGNMENT) * _ALIGNMENT)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            where = {"location": self._path.name, "offset": self._file.tell(), "length": len(data)}
            for key, value in where.items():
                tensor.external_data.add(key=key, value=str(value))
            self._file.write(data)
        self._known[name] = tensor
        return tensor


def scales_of(matrix: Quantized) -> npt.NDArray[np.float16]:
    """(outputs,) scales by row, or (inputs / 32, outputs) by block: as a graph's linear has them."""
    return matrix.scales[:, 0] if is_by_row(matrix) else np.ascontiguousarray(matrix.scales.T)
