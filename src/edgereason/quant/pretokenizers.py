"""How byte-pair vocabularies cut a text into words: llama.cpp's names, and what `tokenizer.json` says.

A test compares the ids that both give.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple


class Cut(NamedTuple):
    """One way of cutting.

    Attributes:
        steps: before bytes become letters, as `tokenizer.json` lists them.
        uses_gpt2_words: whether GPT-2's pattern cuts, too (`use_regex` of ByteLevel).
        ignores_merges: whether a word that is a token is taken whole.
    """

    steps: tuple[Mapping[str, Any], ...]
    uses_gpt2_words: bool = False
    ignores_merges: bool = False


def _split(pattern: str) -> Mapping[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


_CONTRACTIONS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS: Final = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BY_CASE: Final = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CUTS: Final[Mapping[str, Cut]] = {
    "qwen2": Cut((_split(_WORDS % r"\p{N}"),)),
    "llama-bpe": Cut((_split(_WORDS % r"\p{N}{1,3}"),), ignores_merges=True),
    "dbrx": Cut((_split(_WORDS % r"\p{N}{1,3}"),)),  # Phi-4
    "smollm": Cut(({"type": "Digits", "individual_digits": True},), uses_gpt2_words=True),
    "gpt-2": Cut((), uses_gpt2_words=True),
    "tekken": Cut((_split(_BY_CASE % ("", "", r"\p{N}")),), ignores_merges=True),  # Mistral Nemo
    "gpt-4o": Cut(  # Phi-4-mini
        (_split(_BY_CASE % (_CONTRACTIONS + "?", _CONTRACTIONS + "?", r"\p{N}{1,3}")),)
    ),
}
"""By `tokenizer.ggml.pre`."""


def cut_named(
    steps: tuple[Mapping[str, Any], ...], *, uses_gpt2_words: bool, ignores_merges: bool
) -> str | None:
    """The name of a way of cutting; None if llama.cpp has none that is known here."""
    asked = Cut(steps, uses_gpt2_words, ignores_merges)
    for name, cut in CUTS.items():
        # Tekken's published files don't say that words are taken whole, and llama.cpp takes them so.
        if cut == asked or (name == "tekken" and cut.steps == steps):
            return name
    return None
