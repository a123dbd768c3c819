"""What a switcher sees of a prompt: one vector out of all its tokens' states, however they arrive.

::

    last       the last token's state, behind the generation prompt
    average    h_1 = m_1        h_k = α·w_k·m_k + (1 − α·w_k)·h_{k−1}        m_k = mean of chunk k

A chunk has 128 tokens and α = 0.5; the last one may have fewer, and w_k is its share of 128.

Source: paper section 4 (chunked prefill, exponential moving average over chunk means). Deviations: states are
of a layer below the last (`engine.tap` says why); each row is scaled to length 1 before it is averaged; a
chunk that is not full weighs by its tokens (the paper's single token would weigh as much as 128); the first
tokens are left out, an attention sink whose norm is several times the others', and with it what a chat
template begins every prompt with; and the last token's state may stand beside the average or in its place.

Prefill hands over its own chunks, and a conversation goes on later: `state` is all that must be kept, and
where the pushes are cut does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self

import numpy as np

from edgereason.config import read_value
from edgereason.errors import BundleError
from edgereason.heads.base import Array

CHUNK_TOKENS: Final = 128
ALPHA: Final = 0.5
PENULTIMATE: Final = -2

_RULE: Final[Mapping[str, Any]] = {
    "rows": "length 1",
    "chunk_tokens": CHUNK_TOKENS,
    "alpha": ALPHA,
    "open_chunk": "by tokens",
}


class FeaturePart(StrEnum):
    """A vector of the size of a state."""

    AVERAGE = "average"
    LAST = "last"


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Which features a switcher reads; stands in its file.

    Attributes:
        layer: whose output is read, from the end: −2 is the last but one.
        parts: in the order in which they stand in the vector, each once.
        skipped_tokens: at a prompt's beginning, that no part has.

    Raises:
        BundleError: there is no such layer, part or number of tokens.
    """

    layer: int = PENULTIMATE
    parts: tuple[FeaturePart, ...] = (FeaturePart.AVERAGE,)
    skipped_tokens: int = 1

    def __post_init__(self) -> None:
        if self.layer > PENULTIMATE or not self.parts or len(set(self.parts)) < len(self.parts):
            raise BundleError(
                f"features of layer {self.layer} and parts {', '.join(self.parts) or 'none'}: expected a "
                f"layer of {PENULTIMATE} or below, and parts of {', '.join(FeaturePart)}, each once"
            )
        if self.skipped_tokens < 0:
            raise BundleError(f"features can't leave out {self.skipped_tokens} tokens: expected 0 or more")

    def size(self, hidden_size: int) -> int:
        """Length of the vector."""
        return hidden_size * len(self.parts)

    def to_json(self) -> dict[str, Any]:
        """All that decides what the vector is, as plain values."""
        own = {"layer": self.layer, "parts": [str(part) for part in self.parts]}
        return {**own, "skipped_tokens": self.skipped_tokens, **_RULE}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The features that were written, if this edgereason computes them.

        Raises:
            BundleError: it does not.
        """
        try:
            features = cls(
                layer=read_value(int, values["layer"], "layer", BundleError),
                parts=tuple(map(FeaturePart, values["parts"])),
                skipped_tokens=read_value(int, values["skipped_tokens"], "skipped_tokens", BundleError),
            )
            if features.to_json() == values:
                return features
        except (KeyError, TypeError, ValueError):
            pass
        raise BundleError(
            f"the switcher reads features {values}, this edgereason computes such as {cls().to_json()}: "
            "train it again"
        )


class PromptFeatures:
    """One prompt's features, so far; see the module."""

    def __init__(self, hidden_size: int, features: Features | None = None) -> None:
        self._features = features or Features()
        self._average: Array | None = None
        self._chunk_sum = np.zeros(hidden_size, np.float32)
        self._last = np.zeros(hidden_size, np.float32)
        self._chunk_tokens = 0
        self._skipped_tokens = 0

    @classmethod
    def restored(cls, hidden_size: int, state: Mapping[str, Array], features: Features | None = None) -> Self:
        """Goes on where other features were: what is pushed now gives the very same bits.

        Raises:
            BundleError: that is not a state of such features.
        """
        restored = cls(hidden_size, features)
        shapes = {name: array.shape for name, array in state.items()}
        expected: dict[str, tuple[int, ...]] = {name: array.shape for name, array in restored.state().items()}
        if shapes not in (expected, {**expected, "average": (hidden_size,)}):
            raise BundleError(
                f"a saved switcher state has arrays {shapes}, expected {expected} and perhaps an average: "
                "encode the prompt again"
            )
        if not all(np.isfinite(array).all() for array in state.values()):
            raise BundleError("a saved switcher state holds a non-finite value: encode the prompt again")
        restored._chunk_tokens, restored._skipped_tokens = (int(count) for count in state["tokens"])
        restored._chunk_sum = np.array(state.get("chunk_sum", restored._chunk_sum), np.float32)
        restored._last = np.array(state.get("last", restored._last), np.float32)
        if "average" in state:
            restored._average = np.array(state["average"], np.float32)
        return restored

    def state(self) -> dict[str, Array]:
        """All that was taken in: ``tokens`` (2,), and of the parts ``last`` (H,) and ``chunk_sum`` (H,).

        The latter with ``average`` (H,) after the first chunk.
        """
        counts = np.array([self._chunk_tokens, self._skipped_tokens], np.float32)  # both small, so exact
        state: dict[str, Array] = {"tokens": counts}
        if FeaturePart.LAST in self._features.parts:
            state["last"] = self._last.copy()
        if FeaturePart.AVERAGE in self._features.parts:
            state["chunk_sum"] = self._chunk_sum.copy()
            if self._average is not None:
                state["average"] = self._average.copy()
        return state

    def push(self, states: Array) -> None:
        """The next tokens' rows, (T, H) float32, in order."""
        rows = states[self._features.skipped_tokens - self._skipped_tokens :]
        self._skipped_tokens += len(states) - len(rows)
        if not len(rows):
            return
        if FeaturePart.AVERAGE not in self._features.parts:
            rows = rows[-1:]
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        self._last = rows[-1].copy()
        while len(rows) and FeaturePart.AVERAGE in self._features.parts:
            taken = rows[: CHUNK_TOKENS - self._chunk_tokens]
            self._chunk_sum = self._chunk_sum + taken.sum(axis=0)
            self._chunk_tokens += len(taken)
            rows = rows[len(taken) :]
            if self._chunk_tokens == CHUNK_TOKENS:
                self._average = self._averaged()
                self._chunk_sum, self._chunk_tokens = np.zeros_like(self._chunk_sum), 0

    def value(self) -> Array:
        """The features so far, (F,) float32; zeros before any token counts."""
        found = {FeaturePart.AVERAGE: self._averaged(), FeaturePart.LAST: self._last}
        return np.concatenate([found[part] for part in self._features.parts])

    def _averaged(self) -> Array:
        if self._chunk_tokens == 0:
            return self._chunk_sum if self._average is None else self._average
        mean = self._chunk_sum / np.float32(self._chunk_tokens)
        if self._average is None:
            return mean
        weight = np.float32(ALPHA * self._chunk_tokens / CHUNK_TOKENS)
        return weight * mean + (1 - weight) * self._average
