"""The verifier by hand."""

from __future__ import annotations

import math

import numpy as np
from some_heads import random_verifier

from edgereason.heads.base import Verifier
from edgereason.heads.verifier import LinearVerifier


def test_the_equation_by_hand() -> None:
    verifier: Verifier = LinearVerifier(
        mean=np.array([1, 0], np.float32),
        std=np.array([2, 4], np.float32),
        weight=np.array([[1, -2]], np.float32),
        bias=np.array([0.5], np.float32),
        prompt="Is it right?",
        prompt_ids=(1, 2),
    )
    # (3, 4): (1, 1) → 1 − 2 + 0.5 = −0.5; (1, −4): (0, −1) → 2.5
    p = verifier.score(np.array([[3, 4], [1, -4]], np.float32))
    np.testing.assert_allclose(p, [1 / (1 + math.exp(0.5)), 1 / (1 + math.exp(-2.5))], rtol=1e-6)
    assert verifier.prompt_ids == (1, 2)


def test_each_trace_is_scored_by_itself() -> None:
    verifier = random_verifier()
    states = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    alone = np.concatenate([verifier.score(row[None]) for row in states])
    np.testing.assert_allclose(verifier.score(states), alone, rtol=1e-5)
    assert verifier.score(states[:0]).shape == (0,)
