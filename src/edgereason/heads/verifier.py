"""The verifier: one linear layer that says how likely a finished trace's answer is right.

::

    prompt │ opening │ thinking closing answer │ end of turn, "Is this solution correct? …", generation prompt
                       └─ mean of a layer's outputs                                                          ↑
                          over these tokens: needs no second look      or the final norm's output here, ─────┘
                                                                       for which 20 tokens more are encoded
    P(right) = σ(w · (features − mean) / std + b)

Source: paper section 6, which reads the final layer behind the verification prompt. Deviations: means of a
trace's own states may stand in its place, or before it; features are normalised, by statistics that are
stored with the head. On the 0.5B a mean at two thirds of the depth tells right from wrong far better, also
among traces of one question, and is there as soon as the trace ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from edgereason.config import read_value
from edgereason.errors import BundleError
from edgereason.heads.base import Array, sigmoid


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFeatures:
    """Which features of a trace a verifier reads; stands in its file.

    Attributes:
        layers: whose outputs are averaged over the trace's tokens; −2 is the last but one.
        behind_prompt: whether the final norm's output behind the verification prompt comes after them.

    Raises:
        BundleError: there would be none.
    """

    layers: tuple[int, ...] = ()
    behind_prompt: bool = False

    def __post_init__(self) -> None:
        if not self.layers and not self.behind_prompt:
            raise BundleError("a verifier must read something: name layers, or the verification prompt")

    @property
    def num_states(self) -> int:
        """How many vectors of the size of a state they are."""
        return len(self.layers) + self.behind_prompt

    def to_json(self) -> dict[str, Any]:
        """As it stands in a file or record."""
        return {"mean_of_layers": list(self.layers), "behind_prompt": self.behind_prompt}

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> TraceFeatures:
        """What `to_json` made.

        Raises:
            BundleError: it is not of this version.
        """
        try:
            found = cls(
                layers=read_value(tuple[int, ...], described["mean_of_layers"], "layers", BundleError),
                behind_prompt=read_value(bool, described["behind_prompt"], "behind_prompt", BundleError),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"the verifier reads features {dict(described)}: train it again") from error
        if found.to_json() != dict(described):
            raise BundleError(f"the verifier reads features {dict(described)}: train it again")
        return found


class TraceMean:
    """Means of one trace, of some layers' states, taken while it is decoded.

    Where a trace is cut, its last token may never be encoded: it is not in the mean.

    Args:
        layers: each once; `value` has them in this order.
        hidden_size: of a state.
    """

    def __init__(self, layers: Sequence[int], hidden_size: int) -> None:
        self._sums = {layer: np.zeros(hidden_size, np.float64) for layer in layers}
        self._num_rows = dict.fromkeys(layers, 0)
        self.takers: Mapping[int, Callable[[Array], None]] = {
            layer: partial(self._push, layer) for layer in layers
        }
        """By layer, what takes the next tokens' rows, (T, H)."""

    def _push(self, layer: int, states: Array) -> None:
        self._sums[layer] += states.sum(axis=0, dtype=np.float64)
        self._num_rows[layer] += len(states)

    def value(self) -> Array:
        """Means of the layers, one behind the other, (L · H,); 0 before the first token."""
        means = [total / max(1, self._num_rows[layer]) for layer, total in self._sums.items()]
        return np.concatenate(means).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearVerifier:
    """A `Verifier`.

    Attributes:
        mean: (F,), taken off the features.
        std: (F,), above 0, which they are then divided by.
        weight: (1, F).
        bias: (1,).
        features: what it reads.
        prompt: what is asked about a trace, for people, if it is; `prompt_ids` is what is encoded.
        prompt_ids: the verification prompt with the template's words around it.
    """

    mean: Array
    std: Array
    weight: Array
    bias: Array
    features: TraceFeatures
    prompt: str = ""
    prompt_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.features.behind_prompt != bool(self.prompt_ids):
            does = "reads" if self.features.behind_prompt else "does not read"
            raise BundleError(
                f"a verifier that {does} behind a prompt has {len(self.prompt_ids)} tokens of one: "
                "train it again"
            )

    @property
    def layers(self) -> tuple[int, ...]:
        return self.features.layers

    @property
    def hidden_size(self) -> int:
        """Size of the states that it reads."""
        return len(self.mean) // self.features.num_states

    def logits(self, features: Array) -> Array:
        """Log-odds of being right: (N, F) → (N,)."""
        normalised = (features - self.mean) / self.std
        return np.asarray((normalised @ self.weight.T + self.bias)[:, 0], np.float32)

    def score(self, features: Array) -> Array:
        return sigmoid(self.logits(features))
