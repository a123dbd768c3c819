"""The verifier: one linear layer that says how likely a finished trace's answer is right.

::

    prompt │ opening thinking closing answer │ end of turn, "Is this solution correct? …", generation prompt
                                                                                                          ↑
    P(right) = σ(w · (state − mean) / std + b)                   state: the final norm's output here, (H,)

Source: paper section 6. Deviation: states are normalised, by statistics that are stored with the head.

Knows states and weights; does not know traces, adapters or votes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from edgereason.heads.base import Array, sigmoid

DEFINITION: Final[Mapping[str, Any]] = {"states": "final norm", "token": "last of the verification prompt"}
"""What a file of heads says its verifier was trained on."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearVerifier:
    """A `Verifier`.

    Attributes:
        mean: (H,), taken off the states.
        std: (H,), above 0, which they are then divided by.
        weight: (1, H).
        bias: (1,).
        prompt: what is asked about a trace, for people; `prompt_ids` is what is encoded.
        prompt_ids: the verification prompt with the template's words around it.
    """

    mean: Array
    std: Array
    weight: Array
    bias: Array
    prompt: str
    prompt_ids: tuple[int, ...]

    @property
    def hidden_size(self) -> int:
        """Size of the states that it reads."""
        return len(self.mean)

    def logits(self, states: Array) -> Array:
        """Log-odds of being right: (N, H) → (N,)."""
        normalised = (states - self.mean) / self.std
        return np.asarray((normalised @ self.weight.T + self.bias)[:, 0], np.float32)

    def score(self, states: Array) -> Array:
        return sigmoid(self.logits(states))
