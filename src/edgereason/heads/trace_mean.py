"""The mean of a trace's states, taken while it is decoded.

::

    token of the trace ─ encoded in its step ─ output of layer −k, (H,) ─┐
    token of the trace ─ …                                               ├─→ sum ÷ tokens, (H,) a layer
    token of the trace ─ …                                               ─┘

What was said last may never be encoded, where a trace is cut: it is not in the mean. Knows arrays; does not
know streams, or what the mean is for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from edgereason.heads.base import Array


class TraceMean:
    """Means of one trace, of some layers' states.

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
