"""The grids that weights are stored on: which scale a block gets, which code a weight, which bytes they are.

::

    Q4_0   32 weights along the input axis: fp16 d, 32 × 4 bits       ŵ = d · code, code in −8 … 7
    Q8_0                                    fp16 d, 32 × 8 bits                     code in −127 … 127

The scale of a 4-bit block follows from its weights by rule, so nobody has to ship it. `d` may be negative;
what is fixed is which code t the block's extreme (its largest weight by magnitude, signed) would get::

    min-max   d = extreme / −8
    l2        d = extreme / t, of all t in `TARGETS` the one with the least squared error of the block;
              then the d that is best for the codes it gave, Σ w·code / Σ code², where that is better still

A row's factor, learned, multiplies its scales after the rule. Then d is rounded to fp16, before any code is
computed with it. One scale for a whole row (`per_row`) is the same with the row as its block.

Everything is float32, one operation at a time, sums by `tree_sum`: equal bit for bit on every machine.
Source: paper section 5 and FPTQuant's L2 ranges; the block layout is llama.cpp's `block_q4_0`, `block_q8_0`.
Deviation: blocks of 32 instead of output channels by default, which cost the same bits in a GGUF.

The torch half of these grids is `train/quant/fake_quant.py`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgereason.errors import ConfigError
from edgereason.quant.dyadic import tree_sum

Float32 = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8]
Bytes = npt.NDArray[np.uint8]

BLOCK: Final = 32
_LARGEST: Final = 300_000
"""What a 4-bit block can hold with a scale below fp16's end at 65,504, and some room for its factor."""
_CHUNK: Final = 1 << 17
"""Weights worked on at a time: the arrays in between stay in the cache."""


class Grid(StrEnum):
    """A storage type, called as GGUF calls it."""

    Q4_0 = "q4_0"
    Q8_0 = "q8_0"


class Ranges(StrEnum):
    """The rule by which a 4-bit block gets its scale."""

    MIN_MAX = "min-max"
    L2 = "l2"


TARGETS: Final = tuple(np.float32(t) for t in (-8, -9, -8.5, -7.5, -7, 7, 7.5, 8, 8.5))
"""What code the extreme of a block may get, before rounding and clipping; the first of equals wins."""

_ENDS: Final = {Grid.Q4_0: (-8, 7), Grid.Q8_0: (-127, 127)}


class Quantized(NamedTuple):
    """A matrix on its grid.

    Attributes:
        codes: (rows, columns).
        scales: (rows, columns / 32), fp16 values.
    """

    codes: Codes
    scales: npt.NDArray[np.float16]

    def dequantized(self) -> Float32:
        """(rows, columns): what the codes stand for; every product is exact in float32."""
        return self.codes.astype(np.float32) * np.repeat(self.scales.astype(np.float32), BLOCK, axis=1)


def quantize(
    weight: Float32,
    grid: Grid,
    *,
    ranges: Ranges = Ranges.L2,
    row_factors: Float32 | None = None,
    per_row: bool = False,
) -> Quantized:
    """Puts a matrix on a grid.

    Args:
        weight: (rows, columns); columns a multiple of 32.
        grid: Q8_0 has one rule for its scales, the largest magnitude over 127.
        ranges: rule for the scales of Q4_0.
        row_factors: (rows,) multiplies the scales; None for ones.
        per_row: one scale for a row, repeated, instead of one for each block.

    Raises:
        ConfigError: the columns can't be cut into blocks, or a weight is too large.
    """
    rows, columns = weight.shape
    if columns % BLOCK:
        raise ConfigError(f"{columns} columns are not a multiple of {BLOCK}, the block that {grid} stores")
    factors = np.ones(rows, np.float32) if row_factors is None else row_factors.astype(np.float32)
    codes = np.empty((rows, columns), np.int8)
    scales = np.empty((rows, columns // BLOCK), np.float16)
    block = columns if per_row else BLOCK
    step = max(1, _CHUNK // columns)
    for start in range(0, rows, step):
        chunk = slice(start, start + step)
        blocks = np.ascontiguousarray(weight[chunk].reshape(-1, block).T)
        extreme = _extreme(blocks)
        if (largest := np.max(np.abs(extreme), initial=0)) > _LARGEST:
            raise ConfigError(f"a weight of {largest:.3g} is too large for {grid}, whose scales are fp16")
        rule = _Rule(blocks, grid)
        found = rule.scales(extreme, ranges) * np.repeat(factors[chunk], columns // block)
        stored = found.astype(np.float16)
        codes[chunk] = rule.codes(_fp16(found)).astype(np.int8).T.reshape(-1, columns)
        scales[chunk] = stored.reshape(-1, columns // block)
    return Quantized(codes, scales)


def pack(quantized: Quantized, grid: Grid) -> Bytes:
    """(rows, bytes of a row): the matrix as llama.cpp reads it."""
    rows = len(quantized.codes)
    scales = quantized.scales.reshape(-1, 1).view(np.uint8)
    if grid is Grid.Q8_0:
        codes = quantized.codes.reshape(-1, BLOCK).view(np.uint8)
    else:  # the low half-byte j is weight j, the high one weight j + 16
        unsigned = (quantized.codes + np.int8(8)).view(np.uint8).reshape(-1, 2, BLOCK // 2)
        codes = unsigned[:, 0] | (unsigned[:, 1] << np.uint8(4))
    return np.concatenate([scales, codes], axis=1).reshape(rows, -1)


def unpack(packed: Bytes, grid: Grid) -> Quantized:
    """The inverse of `pack`: scales and codes of (rows, bytes of a row)."""
    rows = len(packed)
    width = 2 + (BLOCK if grid is Grid.Q8_0 else BLOCK // 2)
    stored = np.ascontiguousarray(packed).reshape(-1, width)
    scales = np.ascontiguousarray(stored[:, :2]).view(np.float16).reshape(rows, -1)
    if grid is Grid.Q8_0:
        codes = np.ascontiguousarray(stored[:, 2:]).view(np.int8)
    else:
        halves = np.concatenate([stored[:, 2:] & np.uint8(15), stored[:, 2:] >> np.uint8(4)], axis=1)
        codes = halves.view(np.int8) - np.int8(8)
    return Quantized(codes.reshape(rows, -1), scales)


def _extreme(blocks: Float32) -> Float32:
    """(blocks,): the largest weight of each by magnitude, signed; the first of equals."""
    high, low = blocks.max(axis=0), blocks.min(axis=0)
    extreme: Float32 = np.where(high > -low, high, low)
    if (equal := high == -low).any():
        tied = blocks[:, equal]
        extreme[equal] = np.take_along_axis(tied, np.argmax(np.abs(tied), axis=0)[None], axis=0)[0]
    return extreme


class _Rule:
    """The rule for scales, and the codes that they give.

    Blocks are columns here, so that each operation runs over long rows of memory, and what an operation gives
    takes the place of what it read: new arrays would cost more than the arithmetic.

    Args:
        blocks: (weights of a block, blocks).
        grid: of the codes.
    """

    def __init__(self, blocks: Float32, grid: Grid) -> None:
        self._blocks = blocks
        self._grid = grid
        self._work = np.empty_like(blocks)

    def scales(self, extreme: Float32, ranges: Ranges) -> Float32:
        """(blocks,): scales by rule, not yet rounded to fp16."""
        if self._grid is Grid.Q8_0:
            return np.divide(np.abs(extreme), np.float32(127), dtype=np.float32)
        best = extreme / TARGETS[0]
        if ranges is Ranges.MIN_MAX:
            return best
        least = self._squared_error(best)
        for target in TARGETS[1:]:
            best, least = self._better(best, least, extreme / target)
        return self._better(best, least, self._fitted(best))[0]

    def codes(self, scales: Float32) -> Float32:
        """Codes, still as floats, until the next call; a block whose scale is 0 gets zeros.

        Args:
            scales: fp16 values.
        """
        codes, (low, high) = self._work, _ENDS[self._grid]
        np.divide(self._blocks, np.where(scales == 0, np.float32(np.inf), scales), out=codes)
        np.rint(codes, out=codes)
        return np.clip(codes, np.float32(low), np.float32(high), out=codes)

    def _fitted(self, scales: Float32) -> Float32:
        """The scale that is best for the codes which a block has under another one."""
        codes = self.codes(_fp16(scales))
        products = self._blocks * codes
        np.multiply(codes, codes, out=codes)
        weight = tree_sum(codes)
        return np.where(weight == 0, scales, tree_sum(products) / np.maximum(weight, np.float32(1)))

    def _better(self, best: Float32, least: Float32, scales: Float32) -> tuple[Float32, Float32]:
        """The better scale of two for every block, and its squared error."""
        error = self._squared_error(scales)
        better = error < least
        return np.where(better, scales, best), np.where(better, error, least)

    def _squared_error(self, scales: Float32) -> Float32:
        rounded = _fp16(scales)
        error = self.codes(rounded)
        np.multiply(error, rounded, out=error)
        np.subtract(self._blocks, error, out=error)
        np.multiply(error, error, out=error)
        return tree_sum(error).copy()


def _fp16(values: Float32) -> Float32:
    return values.astype(np.float16).astype(np.float32)
