"""What a switcher sees of a prompt: one vector out of all its tokens' states, however they arrive.

Source: paper section 4 (chunked prefill, chunks of 128 tokens, exponential moving average over chunk means,
alpha 0.5)::

    h_1 = m_1        h_k = α·m_k + (1 − α)·h_{k−1}        m_k = mean of chunk k

Deviations: the states are the penultimate layer's (`engine.tap` says why); each row is scaled to length 1
before it is averaged, and position 0 is left out, an attention sink whose norm is several times the others'.

Prefill hands over its own chunks, and a conversation goes on later: `state` is all that must be kept, and
where the pushes are cut does not matter. Knows arrays; does not know engines or what is decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Self

import numpy as np

from edgereason.errors import BundleError
from edgereason.heads.base import Array

CHUNK_TOKENS: Final = 128
ALPHA: Final = 0.5
SKIPPED_TOKENS: Final = 1

DEFINITION: Final[Mapping[str, Any]] = {
    "layer": -2,
    "rows": "length 1",
    "skipped_tokens": SKIPPED_TOKENS,
    "chunk_tokens": CHUNK_TOKENS,
    "alpha": ALPHA,
}
"""What a file of heads says its switcher was trained on; `layer` counts from the end, −1 is the last."""


class PromptFeatures:
    """A running chunk average over one prompt's states; see the module."""

    def __init__(self, hidden_size: int) -> None:
        self._average: Array | None = None
        self._chunk_sum = np.zeros(hidden_size, np.float32)
        self._chunk_tokens = 0
        self._skipped_tokens = 0

    @classmethod
    def restored(cls, hidden_size: int, state: Mapping[str, Array]) -> Self:
        """Goes on where other features were: what is pushed now gives the very same bits.

        Raises:
            BundleError: that is no state of features of this size.
        """
        features = cls(hidden_size)
        shapes = {name: array.shape for name, array in state.items()}
        expected: dict[str, tuple[int, ...]] = {"chunk_sum": (hidden_size,), "tokens": (2,)}
        if shapes not in (expected, {**expected, "average": (hidden_size,)}):
            raise BundleError(
                f"a saved switcher state has arrays {shapes}, expected {expected} and perhaps an average: "
                "encode the prompt again"
            )
        features._chunk_sum = np.array(state["chunk_sum"], np.float32)
        features._chunk_tokens, features._skipped_tokens = (int(count) for count in state["tokens"])
        if "average" in state:
            features._average = np.array(state["average"], np.float32)
        return features

    def state(self) -> dict[str, Array]:
        """All that was taken in: ``chunk_sum`` (H,), ``tokens`` (2,), and ``average`` (H,) after a chunk."""
        counts = np.array([self._chunk_tokens, self._skipped_tokens], np.float32)  # both small, so exact
        state: dict[str, Array] = {"chunk_sum": self._chunk_sum.copy(), "tokens": counts}
        return state if self._average is None else state | {"average": self._average.copy()}

    def push(self, states: Array) -> None:
        """The next tokens' rows, (T, H) float32, in order."""
        rows = states[SKIPPED_TOKENS - self._skipped_tokens :]
        self._skipped_tokens += len(states) - len(rows)
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        while len(rows):
            taken = rows[: CHUNK_TOKENS - self._chunk_tokens]
            self._chunk_sum = self._chunk_sum + taken.sum(axis=0)
            self._chunk_tokens += len(taken)
            rows = rows[len(taken) :]
            if self._chunk_tokens == CHUNK_TOKENS:
                self._average = self.value()
                self._chunk_sum, self._chunk_tokens = np.zeros_like(self._chunk_sum), 0

    def value(self) -> Array:
        """The features so far, (H,) float32: a chunk that is not full counts as it is; zeros before any."""
        if self._chunk_tokens == 0:
            return self._chunk_sum if self._average is None else self._average
        mean = self._chunk_sum / np.float32(self._chunk_tokens)
        if self._average is None:
            return mean
        return np.float32(ALPHA) * mean + np.float32(1 - ALPHA) * self._average
