"""What a head is to the runtime: arrays in, probabilities out.

A switcher reads the prompt's states as prefill makes them, and says how likely the request needs
thinking. A verifier reads a few states of a finished trace, and says how likely its answer is right. Heads
know arrays; they don't know engines, texts or votes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

NEVER_THINK: Final = 1.01
"""A threshold that no probability reaches; 0 is one that all reach."""


def sigmoid(logits: Array) -> Array:
    """1 / (1 + e^−x), of whatever size, without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(logits / 2)), np.float32)


class PromptReader(Protocol):
    """Takes in one prompt's states; carries what a saved prompt cache must carry with it."""

    def push(self, states: Array) -> None:
        """The next tokens' rows, (T, H), in order."""
        ...

    def p_think(self) -> float:
        """Probability in [0, 1] that the prompt read so far needs thinking."""
        ...

    def state(self) -> dict[str, Array]:
        """All that it has taken in, in a few small arrays, for `Switcher.reader`."""
        ...


class Switcher(Protocol):
    """Decides between chat and think."""

    @property
    def threshold(self) -> float:
        """Think at or above this probability."""
        ...

    @property
    def layer(self) -> int:
        """Whose output its readers take: −2 is the last layer but one, and none above it has all rows."""
        ...

    def reader(self, state: Mapping[str, Array] | None = None) -> PromptReader:
        """A reader for one prompt, from its start or from where a reader with this state was.

        A reader that goes on from a state gives the very results that the first one would have given.

        Raises:
            BundleError: the state is not one of this switcher's readers.
        """
        ...


class Verifier(Protocol):
    """Scores finished traces."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Whose outputs it reads, averaged over a trace's tokens; () for none."""
        ...

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The verification prompt, behind which the final norm's output is read, too; () for none."""
        ...

    def score(self, features: Array) -> npt.NDArray[np.float32]:
        """Probability in [0, 1] that each trace is right: (N, F) → (N,).

        F is H for each layer, in the order of `layers`, and then H for what is behind the prompt.
        """
        ...
