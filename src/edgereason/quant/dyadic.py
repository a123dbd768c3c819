"""Matrix products that no machine rounds differently, because no machine rounds them at all.

A float64 holds every integer up to 2⁵³. Where both factors are integers times a power of two, small enough
that no partial sum passes 2⁵³, each product and sum of a matrix product is exact, in whatever order, with
fused operations or without. So a merge that is made of such products gives the same bytes under every BLAS::

    W  →  integers below 2^a · 2^i ┐
                                   ├  W @ Q exact while a + b + log2 n ≤ 53     n: terms of a sum
    Q  →  integers below 2^b · 2^j ┘

Factors that are shipped stand on their grid already (`on_grid`); weights are put on theirs here, which moves
them by at most 2⁻²⁰ or so of their row's largest: a hundred-thousandth of a 4-bit step.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

FACTOR_BITS: Final = 20
"""Bits of a shipped factor, sign aside."""
_EXACT_BITS: Final = 53


def on_grid(values: npt.ArrayLike, bits: int = FACTOR_BITS, *, axis: int | None = None) -> Float64:
    """`values` rounded to integers of at most `bits` bits times a power of two, the finest that does.

    Args:
        values: any shape.
        bits: of the largest integer, sign aside.
        axis: each line along it has a power of its own; by default there is one for all values.
    """
    array = np.asarray(values, np.float64)
    largest = np.max(np.abs(array), axis=axis, keepdims=True, initial=0.0)
    exponent = np.frexp(largest)[1]  # largest < 2^exponent
    # Where rounding carries into one bit more, the next power is the finest that does.
    exponent = exponent + (np.rint(np.ldexp(largest, bits - exponent)) >= 2.0**bits)
    rounded: Float64 = np.ldexp(np.rint(np.ldexp(array, bits - exponent)), exponent - bits)
    return rounded


def exact_product(left: Float64, right: Float64, *, factor: Float64) -> Float64:
    """`left @ right`, exactly, once what is not `factor` has been put on a grid.

    Each row of a left, each column of a right gets its own: what is made of it does not depend on the others.

    Args:
        left: (m, n), or a stack of them.
        right: (n, k), or a stack of them.
        factor: which of the two is a shipped factor, so already on its grid: `left` or `right` itself.

    Returns:
        (m, k). Equal bit for bit on every machine.

    Raises:
        ValueError: the factor is not on a grid of `FACTOR_BITS`.
    """
    if not np.array_equal(on_grid(factor), factor):
        raise ValueError(f"a factor must stand on a grid of {FACTOR_BITS} bits")
    num_terms = left.shape[-1]
    bits = _EXACT_BITS - FACTOR_BITS - (num_terms - 1).bit_length()
    pair = (left, on_grid(right, bits, axis=-2)) if factor is left else (on_grid(left, bits, axis=-1), right)
    product: Float64 = np.matmul(*pair)
    return product


def tree_sum(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Sums over the first axis, halves onto halves, so that the order is the same everywhere.

    Returns:
        A view of `values`, whose numbers are lost: the sums are made where they stand.
    """
    length = len(values)
    while length > 1:
        half = (length + 1) // 2
        values[: length - half] += values[half:length]
        length = half
    total: npt.NDArray[np.float32] = values[0]
    return total
