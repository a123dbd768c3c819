"""How likely given tokens were: which of them share a native batch, and the arithmetic.

::

    feed 0   t0 t1 … t31 │ t32 t33                the logits after a token score the one behind it:
    feed 1               │         u0 u1 u2       t0 and u0 by those that their sequences came with

Every token of a scored batch is an output, a row as wide as the vocabulary. The engine decodes the batches
and hands in the logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgereason.engine.base import Scored, Sequence
from edgereason.errors import EngineError

SCORE_TOKENS: Final = 32
"""Most tokens of a scored batch, whose rows the context keeps room for from then on: 19 MB at 151k entries.

Below 64 tokens llama.cpp's attention on a CPU computes a row as if it were alone, so that a score depends
neither on what shares its batch nor on where its text was cut. From there on another kernel rounds otherwise,
and activations of 8 bits make ±0.06 a token of it (SmolLM2 Q4_1; both are as far from attention in f32)."""


class Piece(NamedTuple):
    """Tokens `start` to `stop` of feed number `feed`."""

    feed: int
    start: int
    stop: int


def score_batches(feeds: Tokens[tuple[Sequence, Tokens[int]]]) -> Iterator[list[Piece]]:
    """Cuts feeds into batches, each of one adapter and `SCORE_TOKENS` at most; no feed is twice in one."""
    for encoder in dict.fromkeys(sequence.encoder for sequence, _ in feeds):
        batch: list[Piece] = []
        room = SCORE_TOKENS
        for i, (sequence, tokens) in enumerate(feeds):
            if sequence.encoder is not encoder:
                continue
            start = 0
            while start < len(tokens):
                stop = min(start + room, len(tokens))
                batch.append(Piece(i, start, stop))
                room -= stop - start
                start = stop
                if not room:
                    yield batch
                    batch, room = [], SCORE_TOKENS
        if batch:
            yield batch


@dataclass(slots=True)
class ScoreTable:
    """The scores of one feed, noted one by one as logits come.

    Raises:
        EngineError: there are no tokens.
    """

    tokens: Tokens[int]
    _logprobs: npt.NDArray[np.float64] = field(init=False)
    _is_top: npt.NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        if not self.tokens:
            raise EngineError("nothing to score: got no tokens")
        self._logprobs = np.full(len(self.tokens), np.nan)
        self._is_top = np.zeros(len(self.tokens), np.bool_)

    def note(self, position: int, logits: npt.NDArray[np.float32]) -> None:
        """Scores the token at `position` by the logits before it, (V,) float32; behind the last, nothing."""
        if position < len(self.tokens):
            token = self.tokens[position]
            self._logprobs[position] = exact_log_probability(logits, token)
            self._is_top[position] = int(logits.argmax()) == token

    def scored(self) -> Scored:
        """What was noted."""
        return Scored(self._logprobs, self._is_top)


def exact_log_probability(logits: npt.NDArray[np.float32], token: int) -> float:
    """Natural logarithm of softmax(logits)[token], in float64 throughout.

    `sampling.log_probability` is of a draw: in float32, and at its sampler's temperature.
    """
    shifted = logits.astype(np.float64)
    shifted -= shifted.max()  # the largest becomes 0, so that no exp overflows
    chosen = float(shifted[token])
    return chosen - float(np.log(np.exp(shifted, out=shifted).sum()))
