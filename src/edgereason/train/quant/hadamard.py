"""Hadamard matrices: ±1, orthogonal rows; where a learned rotation starts.

Order 2^k · m for m = 1 or m = 12, 20, 28, 36: a small one by Paley's constructions over the integers mod a
prime, doubled by Sylvester's. That covers hidden sizes of 576, 896, 1536, 2048, 3584 and 5120.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgereason.errors import ConfigError

_PALEY = {12: 11, 20: 19, 28: 13, 36: 17}
"""Order: the prime that it is made from; order = q + 1 for q ≡ 3 mod 4, 2(q + 1) for q ≡ 1."""

Signs = npt.NDArray[np.float64]


def hadamard(order: int) -> Signs:
    """H with H Hᵀ = order · 1.

    Raises:
        ConfigError: none is known here for this order.
    """
    odd = next((m for m in (36, 28, 20, 12, 1) if order % m == 0 and _is_power_of_two(order // m)), None)
    if odd is None:
        raise ConfigError(
            f"no Hadamard matrix of order {order} is known here (2^k times 1, 12, 20, 28 or 36): "
            "start the rotation at the identity"
        )
    matrix = np.ones((1, 1)) if odd == 1 else _paley(_PALEY[odd])
    while len(matrix) < order:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def _paley(q: int) -> Signs:
    squares = {x * x % q for x in range(1, q)}
    legendre = np.array([0] + [1 if x in squares else -1 for x in range(1, q)], np.float64)
    jacobsthal = legendre[(np.arange(q)[:, None] - np.arange(q)[None, :]) % q]
    border = np.ones((1, q))
    if q % 4 == 3:
        skew = np.block([[np.zeros((1, 1)), border], [-border.T, jacobsthal]])
        return skew + np.eye(q + 1)
    core = np.block([[np.zeros((1, 1)), border], [border.T, jacobsthal]])
    return np.kron(core, np.array([[1, 1], [1, -1]])) + np.kron(np.eye(q + 1), np.array([[1, -1], [-1, -1]]))


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0
