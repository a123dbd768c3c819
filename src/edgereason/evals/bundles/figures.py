"""A result's figures as text, and with what they were measured.

Knows figures' names; does not know records or where the text stands.
"""

from __future__ import annotations

from typing import Final

from edgereason.core.bundle import Bundle
from edgereason.core.result import Result
from edgereason.evals.report.markdown import interval_text, percent

_WORDS: Final = {
    "num_questions": "questions",
    "mean_all_streams_tokens": "tokens of all streams",
    "share_think": "thinking",
    "share_cut": "cut",
    "share_in_time": "in time",
    "max_overshoot_s": "worst overshoot in s",
    "latency_s": "median s",
    "acc": "likeliest",
    "acc_norm": "likeliest by length",
    "ppl": "perplexity",
    "auroc": "AUROC",
    "auroc_within_questions": "AUROC within a question",
    "ece": "ECE",
}
_SHARES: Final = ("accuracy", "acc", "acc_norm")
_SHARE_BEGINS: Final = ("share_", "majority ", "weighted ", "best ")


def figures_text(result: Result) -> str:
    """All figures in a line, with their intervals."""
    return "; ".join(_figure(result, name) for name in result.figures)


def measured_with(result: Result, bundle: Bundle) -> str:
    """Which parts took part, beside the base."""
    names = []
    if bundle.adapter and bundle.adapter.sha256 in result.parts:
        names.append("adapter")
    if bundle.heads and bundle.heads.sha256 in result.parts:
        names.append("heads")
    elif set(result.parts) & set(bundle.earlier_heads):
        names.append("heads with another threshold")
    return " + ".join(["base", *names]) if names else "base alone"


def _figure(result: Result, name: str) -> str:
    value, ends, words = result.figures[name], result.intervals.get(name), _WORDS.get(name, name)
    words = words.replace("_", " ")
    if name in _SHARES or name.startswith(_SHARE_BEGINS):
        return f"{words} {percent(value, 1)}{interval_text(ends)}"
    interval = "" if ends is None else f" ({_number(ends[0])}–{_number(ends[1])})"
    return f"{words} {_number(value)}{interval}"


def _number(value: float) -> str:
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
