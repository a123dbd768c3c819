"""Training questions that an evaluation asks too, found by what they share word for word.

::

    words, lower case, no punctuation:  … and then she sold half as many clips in may how many …
                                            └────────── any 13 in a row ──────────┘

A question that shares 13 words in a row with a question of an evaluation is left out of training, and so is
one that is the same as a shorter one.

Source: GPT-3 (Brown et al. 2020), appendix C: overlaps of 13 words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from edgereason.data.questions import question_of
from edgereason.data.rows import read_file
from edgereason.records.folder import source_entry

NGRAM_WORDS: Final = 13


def words(text: str) -> list[str]:
    """Runs of letters and digits, in lower case and in one spelling of each character."""
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold())


def normalised(text: str) -> str:
    """What two texts have in common if they differ in case, blanks and punctuation only."""
    return " ".join(words(text))


@dataclass(frozen=True, slots=True)
class Evaluations:
    """The questions that training must not see.

    Attributes:
        files: what the record says of them.
        ngrams: every 13 words in a row.
        short: questions of fewer words, whole.
    """

    files: tuple[dict[str, Any], ...]
    ngrams: frozenset[str]
    short: frozenset[str]

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Self:
        """The questions of these files; of none, nothing is contaminated.

        Raises:
            ConfigError: a file can't be read, or a row has no question.
        """
        sets = [read_file(path) for path in paths]
        texts = [question_of(row) for rows in sets for row in rows.rows]
        return cls.of(texts, tuple(map(source_entry, sets)))

    @classmethod
    def of(cls, questions: Iterable[str], files: tuple[dict[str, Any], ...] = ()) -> Self:
        """These questions."""
        ngrams: set[str] = set()
        short: set[str] = set()
        for question in questions:
            said = words(question)
            if len(said) < NGRAM_WORDS:
                short.add(" ".join(said))
            ngrams.update(ngrams_of(said))
        return cls(files, frozenset(ngrams), frozenset(short))

    def know(self, question: str) -> bool:
        """Whether an evaluation asks this, or something with 13 of its words in a row."""
        said = words(question)
        if len(said) < NGRAM_WORDS:
            return " ".join(said) in self.short
        return any(ngram in self.ngrams for ngram in ngrams_of(said))


def ngrams_of(said: Sequence[str]) -> Iterator[str]:
    """Every 13 words in a row."""
    for start in range(len(said) - NGRAM_WORDS + 1):
        yield " ".join(said[start : start + NGRAM_WORDS])
