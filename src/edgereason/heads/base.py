"""What a head is to the runtime: arrays in, probabilities out.

A switcher reads the prompt's states as prefill makes them, and says how likely the request needs
thinking. A verifier reads one state a finished trace, and says how likely its answer is right. Heads know
arrays; they don't know engines, texts or votes.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


class PromptReader(Protocol):
    """Takes in one prompt's states; carries what a saved prompt cache must carry with it."""

    def push(self, states: Array) -> None:
        """The next tokens' rows, (T, H), in order."""
        ...

    def p_think(self) -> float:
        """Probability in [0, 1] that the prompt read so far needs thinking."""
        ...


class Switcher(Protocol):
    """Decides between chat and think."""

    @property
    def threshold(self) -> float:
        """Think at or above this probability."""
        ...

    def reader(self) -> PromptReader:
        """A reader for one prompt."""
        ...


class Verifier(Protocol):
    """Scores finished traces."""

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The verification prompt, appended to every trace before its state is taken."""
        ...

    def score(self, states: Array) -> npt.NDArray[np.float32]:
        """Probability in [0, 1] that each trace is right: (N, H) → (N,)."""
        ...
