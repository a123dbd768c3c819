"""Hadamard matrices, by their definition."""

from __future__ import annotations

import numpy as np
import pytest

from edgereason.errors import ConfigError
from edgereason.train.quant.fake_quant import hadamard


@pytest.mark.parametrize("order", [1, 2, 4, 8, 12, 20, 24, 28, 36, 40, 64, 72])
def test_rows_are_signs_and_orthogonal(order):
    h = hadamard(order)
    assert np.array_equal(np.abs(h), np.ones((order, order)))
    assert np.array_equal(h @ h.T, order * np.eye(order))


@pytest.mark.parametrize("order", [576, 896, 1536, 2048, 3584])
def test_hidden_sizes_of_real_models_are_covered(order):
    # H Hᵀ x = order · x for random x of ±1, exact in integers below 2^53. A matrix other than order · 1
    # passes one such x with probability ≤ 1/2 and all 48 with ≤ 2⁻⁴⁸.
    h = hadamard(order)
    assert h.shape == (order, order)
    assert np.array_equal(np.abs(h), np.ones_like(h))
    x = np.random.default_rng(order).choice([-1.0, 1.0], (order, 48))
    assert np.array_equal(h @ (h.T @ x), order * x)


@pytest.mark.parametrize("order", [0, 3, 6, 10, 18, 44, 52, 60, 100])
def test_an_order_that_is_not_covered_is_refused(order):
    with pytest.raises(ConfigError, match=rf"\b{order}\b"):
        hadamard(order)
