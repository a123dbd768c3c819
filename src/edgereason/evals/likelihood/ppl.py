"""Perplexity of a text: how many tokens a model is, on average, undecided between.

::

    window 2048, stride 1024           ▓ scored   ░ context only   · first of its window: nothing precedes it

    window 0   ·▓▓▓▓▓▓▓▓▓▓▓
    window 1         ░░░░░░▓▓▓▓▓▓                   ppl = exp(mean of −log p over all ▓)
    window 2               ░░░░░░▓▓▓▓

No token is scored twice. With stride = window nothing overlaps, and the first token of every window goes
unscored: the figures that quantization papers give (GPTQ's, at 2048), but that those drop a last window which
is not full. A smaller stride gives more context, a lower perplexity, and takes longer. Where the model wants
a beginning-of-text token, one stands before the text, not before each window. llama.cpp's `llama-perplexity`
does otherwise (it scores the second half of each window, which begins with that token), so its figures can't
be compared with these, nor can those of models with another vocabulary.

Source: the sliding window of Hugging Face's guide "Perplexity of fixed-length models". Deviation: every
scored token weighs exactly the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgereason.engine.base import Engine
from edgereason.errors import ConfigError, ContextOverflow
from edgereason.evals.metrics import LEVEL

WINDOW_TOKENS: Final = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class PplResult:
    """Perplexity and what it was measured on.

    Attributes:
        ppl: exp(`nll_mean`).
        nll_mean: mean negative natural log-probability of the scored tokens.
        ppl_ci95: normal interval of `nll_mean`, clustered by window, through exp; None with one window.
        num_tokens: scored ones.
        text_tokens: all of the text's, and the beginning-of-text token if there is one.
    """

    ppl: float
    nll_mean: float
    ppl_ci95: tuple[float, float] | None
    num_tokens: int
    text_tokens: int
    num_windows: int
    window_tokens: int
    stride_tokens: int

    def to_json(self) -> dict[str, Any]:
        """The result as plain values."""
        return asdict(self)


class Window(NamedTuple):
    """Tokens `begin` to `end`, of which those from `start` on are scored."""

    begin: int
    start: int
    end: int


def text_tokens(engine: Engine, text: str) -> list[int]:
    """Ids of a text as `perplexity` wants them, the beginning-of-text token in front where the model does."""
    bos = engine.tokenize(engine.info.bos_text, special=True) if engine.info.add_bos else []
    return bos + engine.tokenize(text)


def windows(num_tokens: int, *, window_tokens: int, stride_tokens: int) -> Iterator[Window]:
    """The windows over so many tokens; none that would score nothing.

    Args:
        num_tokens: of the text.
        window_tokens: length of a window, 2 or more.
        stride_tokens: how far one begins behind the one before, 1 to `window_tokens`.
    """
    scored = 0
    for begin in range(0, num_tokens, stride_tokens):
        end = min(begin + window_tokens, num_tokens)
        start = max(scored, begin + 1)  # nothing precedes a window's first token
        if start < end:
            yield Window(begin, start, end)
        scored = end
        if end == num_tokens:
            return


def perplexity(
    engine: Engine,
    tokens: Sequence[int],
    *,
    window_tokens: int = WINDOW_TOKENS,
    stride_tokens: int | None = None,
    on_progress: Callable[[float], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> PplResult | None:
    """Perplexity of tokens by sliding windows.

    Args:
        engine: with nothing else running.
        tokens: of the text, as `text_tokens` gives them; 2 or more.
        window_tokens: most that a token may have before it, itself counted; a text that is shorter is one
            window.
        stride_tokens: how far windows advance, 1 to `window_tokens`; by default as much.
        on_progress: gets the share of the windows that are done, after each.
        should_stop: asked before each window.

    Returns:
        The result; None if it was stopped.

    Raises:
        ConfigError: window or stride is out of range, or the text has fewer than two tokens.
        ContextOverflow: a window is longer than the context.
    """
    stride_tokens = window_tokens if stride_tokens is None else stride_tokens
    if window_tokens < 2 or not 1 <= stride_tokens <= window_tokens:
        raise ConfigError(
            f"got windows of {window_tokens} tokens, {stride_tokens} apart: expected at least 2 tokens, and "
            "a stride from 1 to as many"
        )
    if len(tokens) < 2:
        raise ConfigError(f"the text has {len(tokens)} tokens: perplexity takes at least 2")
    cells = min(window_tokens, len(tokens))
    if cells > engine.context_tokens:
        raise ContextOverflow(cells, engine.context_tokens, "a window")
    plan = list(windows(len(tokens), window_tokens=window_tokens, stride_tokens=stride_tokens))
    totals, counts = np.zeros(len(plan)), np.zeros(len(plan))
    with engine.reserve(cells=cells, sequences=1):
        for i, (begin, start, end) in enumerate(plan):
            if should_stop():
                return None
            sequence = engine.new_sequence()
            try:
                engine.encode(sequence, tokens[begin:start])
                (scored,) = engine.score([(sequence, tokens[start:end])])
            finally:
                engine.release(sequence)
            totals[i], counts[i] = -scored.logprobs.sum(), end - start
            on_progress((i + 1) / len(plan))
    nll_mean = float(totals.sum() / counts.sum())
    return PplResult(
        ppl=math.exp(nll_mean),
        nll_mean=nll_mean,
        ppl_ci95=_interval(totals, counts),
        num_tokens=int(counts.sum()),
        text_tokens=len(tokens),
        num_windows=len(plan),
        window_tokens=window_tokens,
        stride_tokens=stride_tokens,
    )


def _interval(totals: npt.NDArray[np.float64], counts: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    """95 % interval of the perplexity from each window's summed negative log-probability and token count.

    Tokens of a window share its text and are not independent draws; windows nearly are. With W windows of n_w
    tokens and sums S_w, N = Σ n_w and m = Σ S_w / N::

        SE² = W / (W − 1) · Σ_w (S_w − m n_w)² / N²

    Source: the variance of a ratio estimate, Cochran 1977, chapter 6, without its finite-population factor.
    """
    num_windows = len(totals)
    if num_windows < 2:
        return None
    mean = totals.sum() / counts.sum()
    squares = ((totals - mean * counts) ** 2).sum()
    error = math.sqrt(num_windows / (num_windows - 1) * squares) / counts.sum()
    half = NormalDist().inv_cdf((1 + LEVEL) / 2) * error
    return math.exp(mean - half), math.exp(mean + half)
