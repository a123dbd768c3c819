"""The switcher: a small MLP over a prompt's features that says how likely the request needs thinking.

::

    x = (features − mean) / std        (H,)
    h = max(0, W₁ x + b₁)              (8,)
    P(think) = σ(w₂ · h + b₂)          think at or above the threshold

Source: paper section 4 (one hidden layer of 8 units, ReLU). Deviation: features are normalised, by statistics
that are stored with the head.

Knows features and weights; does not know files, training or what is done with the probability.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgereason.heads.base import Array
from edgereason.heads.features import PromptFeatures


def sigmoid(logits: Array) -> Array:
    """1 / (1 + e^−x), of whatever size, without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(logits / 2)), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MlpSwitcher:
    """A `Switcher`.

    Attributes:
        mean: (H,), taken off the features.
        std: (H,), above 0, which they are then divided by.
        hidden_weight: (8, H).
        hidden_bias: (8,).
        output_weight: (1, 8).
        output_bias: (1,).
        threshold: think at or above this probability.
    """

    mean: Array
    std: Array
    hidden_weight: Array
    hidden_bias: Array
    output_weight: Array
    output_bias: Array
    threshold: float = 0.5

    @property
    def hidden_size(self) -> int:
        """Size of the states that it reads."""
        return len(self.mean)

    def reader(self, state: Mapping[str, Array] | None = None) -> SwitcherReader:
        size = self.hidden_size
        return SwitcherReader(
            self, PromptFeatures(size) if state is None else PromptFeatures.restored(size, state)
        )

    def logits(self, features: Array) -> Array:
        """Log-odds of thinking: (N, H) → (N,)."""
        normalised = (features - self.mean) / self.std
        hidden = np.maximum(normalised @ self.hidden_weight.T + self.hidden_bias, 0)
        return np.asarray((hidden @ self.output_weight.T + self.output_bias)[:, 0], np.float32)

    def p_think(self, features: Array) -> Array:
        """Probability of thinking: (N, H) → (N,)."""
        return sigmoid(self.logits(features))


class SwitcherReader:
    """A `PromptReader`: features of one prompt, and the head that reads them."""

    def __init__(self, switcher: MlpSwitcher, features: PromptFeatures) -> None:
        self._switcher = switcher
        self._features = features

    def push(self, states: Array) -> None:
        self._features.push(states)

    def p_think(self) -> float:
        return float(self._switcher.p_think(self._features.value()[None])[0])

    def state(self) -> dict[str, Array]:
        return self._features.state()
