"""The switcher: a small MLP over a prompt's features that says how likely the request needs thinking.

::

    x = (features − mean) / std        (F,)
    h = max(0, W₁ x + b₁)              (U,)
    P(think) = σ(w₂ · h + b₂)          think at or above the threshold

Source: paper section 4 (one hidden layer of 8 units, ReLU). Deviations: features are normalised, by
statistics that are stored with the head; several such networks may be averaged in their logits, which is one
of as many more units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from edgereason.errors import BundleError
from edgereason.heads.base import NEVER_THINK, Array, sigmoid
from edgereason.heads.features import Features, PromptFeatures

_FEATURES: Final = Features()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MlpSwitcher:
    """A `Switcher`.

    Attributes:
        mean: (F,), taken off the features.
        std: (F,), above 0, which they are then divided by.
        hidden_weight: (U, F).
        hidden_bias: (U,).
        output_weight: (1, U).
        output_bias: (1,).
        features: that it reads.
        threshold: think at or above this probability.

    Raises:
        BundleError: the threshold is out of range.
    """

    mean: Array
    std: Array
    hidden_weight: Array
    hidden_bias: Array
    output_weight: Array
    output_bias: Array
    features: Features = _FEATURES
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= NEVER_THINK:  # as no comparison with NaN is
            raise BundleError(
                f"a switcher's threshold lies between 0 (always think) and {NEVER_THINK} (never), got "
                f"{self.threshold}: calibrate it again"
            )

    @property
    def hidden_size(self) -> int:
        """Size of the states that it reads."""
        return len(self.mean) // len(self.features.parts)

    @property
    def layer(self) -> int:
        return self.features.layer

    def reader(self, state: Mapping[str, Array] | None = None) -> SwitcherReader:
        size, features = self.hidden_size, self.features
        if state is None:
            return SwitcherReader(self, PromptFeatures(size, features))
        return SwitcherReader(self, PromptFeatures.restored(size, state, features))

    def logits(self, features: Array) -> Array:
        """Log-odds of thinking: (N, F) → (N,)."""
        normalised = (features - self.mean) / self.std
        hidden = np.maximum(normalised @ self.hidden_weight.T + self.hidden_bias, 0)
        return np.asarray((hidden @ self.output_weight.T + self.output_bias)[:, 0], np.float32)

    def p_think(self, features: Array) -> Array:
        """Probability of thinking: (N, F) → (N,)."""
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
