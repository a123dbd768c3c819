"""Exact products and sums, against Python's integers and fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgereason.quant.dyadic import FACTOR_BITS, exact_product, on_grid, tree_sum

finite = st.floats(-1e6, 1e6, allow_subnormal=False)


def exactly(left, right):
    """The product of two matrices in fractions."""
    a, b = ([[Fraction(v) for v in row] for row in m.tolist()] for m in (left, right))
    return [
        [
            sum((x * y for x, y in zip(row, column, strict=True)), Fraction())
            for column in zip(*b, strict=True)
        ]
        for row in a
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5.0, 0.3, -6.6], [5, 0, -7]),  # < 8, so 3 bits count ones
        ([1.25, 0.3, -0.1], [1.25, 0.25, 0]),  # < 2: 3 bits count quarters, and −0.1 rounds to 0
        (
            [7.6, 5.0],
            [8, 4],
        ),  # 7.6 would round to 8 ones, which are 4 bits: count twos; 2.5 twos → 2, the even one
        ([-48.0, 5.0], [-48, 8]),  # < 64: eights; 0.625 of an eight → 1
    ],
)
def test_three_bits_count_the_finest_power_of_two_that_fits(values, expected):
    assert on_grid(values, 3).tolist() == expected


@given(st.lists(finite, min_size=1, max_size=20), st.integers(2, 30))
def test_on_grid_is_the_nearest_multiple_of_one_unit_in_at_most_so_many_bits(values, bits):
    got = on_grid(values, bits)
    counts = [Fraction(v) for v in got.tolist()]
    unit = Fraction(2) ** (math.frexp(max(map(abs, got.tolist())))[1] - bits)  # largest < 2^bits units
    assert all((count / unit).denominator == 1 for count in counts)
    assert all(abs(count - Fraction(v)) <= unit / 2 for count, v in zip(counts, values, strict=True))


@given(st.lists(finite, min_size=1, max_size=20), st.integers(2, 30))
def test_what_stands_on_its_grid_stays(values, bits):
    once = on_grid(values, bits)
    assert np.array_equal(on_grid(once, bits), once)


def test_a_largest_value_that_rounds_up_to_a_power_of_two_stays_on_the_grid():
    # 1 − 2⁻³⁰ rounds to 1, which would be 2²⁰ units of 2⁻²⁰: one bit too many, so the unit is 2⁻¹⁹.
    once = on_grid([1 - 2.0**-30, 3 * 2.0**-20])
    assert once.tolist() == [1.0, 2 * 2.0**-19]  # 1.5 units → 2
    assert np.array_equal(on_grid(once), once)


def test_along_an_axis_each_line_has_a_unit_of_its_own():
    # 3 bits: beside 5 < 8 count ones; beside 0.3 < 1/2 count sixteenths, of which 0.05 is 0.8 and 0.3 is 4.8.
    values = np.array([[5.0, 0.3], [0.05, 0.3], [0.0, 0.0]])
    assert on_grid(values, 3, axis=-1).tolist() == [[5, 0], [1 / 16, 5 / 16], [0, 0]]
    assert np.array_equal(on_grid(values.T, 3, axis=0), on_grid(values, 3, axis=1).T)
    assert on_grid(values, 3).tolist() == [[5, 0], [0, 0], [0, 0]]


@pytest.mark.parametrize("shape", [(3,), (2, 2), (0,)])
def test_zeros_are_on_every_grid(shape):
    assert np.array_equal(on_grid(np.zeros(shape)), np.zeros(shape))


@settings(max_examples=30)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 33), st.integers(1, 5), st.integers(-20, 20)
)
def test_a_product_of_what_is_on_grids_is_that_of_fractions(seed, m, n, k, exponent):
    # GIVEN 20 bits on one side, and 27 ≤ 53 − 20 − ⌈log2 33⌉ on the other, at any power of two
    rng = np.random.default_rng(seed)
    weight = np.ldexp(rng.integers(-(2**27) + 1, 2**27, (m, n)).astype(np.float64), exponent)
    factor = on_grid(rng.standard_normal((n, k)))
    # THEN nothing is rounded, whichever side is the factor
    got = exact_product(weight, factor, factor=factor)
    assert [[Fraction(v) for v in row] for row in got.tolist()] == exactly(weight, factor)
    factor_t, weight_t = np.ascontiguousarray(factor.T), np.ascontiguousarray(weight.T)
    assert np.array_equal(exact_product(factor_t, weight_t, factor=factor_t), got.T)


@pytest.mark.parametrize("stacked", [False, True])
def test_the_order_of_a_sum_changes_no_bit(stacked):
    rng = np.random.default_rng(3)
    front = (4,) if stacked else ()
    weight, factor = rng.standard_normal((*front, 6, 896)), on_grid(rng.standard_normal((*front, 896, 7)))
    order = rng.permutation(896)
    there, back = weight[..., order], factor[..., order, :]
    assert np.array_equal(
        exact_product(weight, factor, factor=factor), exact_product(there, back, factor=back)
    )
    assert not np.array_equal(weight @ factor, there @ back)  # as it is without a grid


@pytest.mark.parametrize("large", [1.0, 1e6])
def test_what_is_made_of_a_row_does_not_depend_on_the_others(large):
    rng = np.random.default_rng(8)
    factor, weight = on_grid(rng.standard_normal((40, 40))), rng.standard_normal((9, 40))
    weight[0] *= large
    whole = exact_product(weight, factor, factor=factor)
    for start in range(0, 9, 4):
        part = weight[start : start + 4]
        assert np.array_equal(exact_product(part, factor, factor=factor), whole[start : start + 4])
    # and the same of columns, where the factor is on the left
    turned = np.ascontiguousarray(weight.T)
    whole = exact_product(factor, turned, factor=factor)
    assert np.array_equal(exact_product(factor, turned[:, 3:5], factor=factor), whole[:, 3:5])


@pytest.mark.parametrize("n", [1, 2, 3, 896, 4864])
def test_a_product_is_off_by_no_more_than_the_weights_were_moved(n):
    # n ≤ 2^13 terms leave 20 bits for the weights: each moves by at most 2⁻²¹ of the largest's power of two.
    rng = np.random.default_rng(n)
    weight, factor = rng.uniform(-1, 1, (4, n)), on_grid(rng.standard_normal((n, 3)))
    bound = 2.0**-21 * np.abs(factor).sum(axis=0)
    assert np.all(np.abs(exact_product(weight, factor, factor=factor) - weight @ factor) <= bound)


def test_a_factor_off_its_grid_is_refused():
    weight, factor = np.ones((2, 2)), np.array([[1.0, 2.0**-21], [0.0, 1.0]])
    with pytest.raises(ValueError, match=f"grid of {FACTOR_BITS} bits"):
        exact_product(weight, factor, factor=factor)


@given(st.lists(st.integers(-(2**10), 2**10), min_size=1, max_size=100))
def test_tree_sum_of_integers_is_their_sum(values):
    # 100 · 2^10 < 2^24: float32 holds every partial sum.
    assert tree_sum(np.array(values, np.float32)) == math.fsum(values)


def test_tree_sum_folds_the_second_half_onto_the_first_along_the_first_axis():
    # (1 + 1) + 2^24 is exact in float32; from the left, 2^24 + 1 would lose its one twice.
    values = np.array([[1.0, 1.0], [2.0**24, 2.0], [1.0, 3.0]], np.float32)
    assert tree_sum(values).tolist() == [2.0**24 + 2, 6.0]
