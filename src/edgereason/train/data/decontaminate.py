"""Training questions that an evaluation asks too, found by what they share word for word.

::

    words, lower case, no punctuation:  … and then she sold half as many clips in may how many …
                                            └────────── any 13 in a row ──────────┘

A question that shares 13 words in a row with a question of an evaluation is left out of training, and so is
one that contains a shorter one whole, behind or before instructions::

    5 to 12 words   anywhere
    3 or 4 words    beside the end of a sentence, a line or the text, at either side
    1 or 2 words    the last sentence

Source: GPT-3 (Brown et al. 2020), appendix C: overlaps of 13 words. Of 15,966 training questions of GSM8K,
MATH and s1K, the rules for shorter questions leave out two that ask none of five evaluations' questions.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Self

from edgereason.data.questions import question_of
from edgereason.data.rows import read_file
from edgereason.records.folder import source_entry

NGRAM_WORDS: Final = 13
_ANYWHERE_WORDS: Final = 5
_BESIDE_WORDS: Final = 3
_WORD: Final = re.compile(r"[^\W_]+")
_SENTENCE_END: Final = re.compile(r"[?!:\n。]|[.;]\W*\s")


def words(text: str) -> list[str]:
    """Runs of letters and digits, in lower case and in one spelling of each character."""
    return _WORD.findall(_one_spelling(text))


def _one_spelling(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


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
        short_words: how many words these have.
    """

    files: tuple[dict[str, Any], ...]
    ngrams: frozenset[str]
    short: frozenset[str]
    short_words: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        num_words = {question.count(" ") + 1 for question in self.short if question}
        object.__setattr__(self, "short_words", frozenset(num_words))

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
        """Whether an evaluation asks this, or it contains 13 words of one in a row or a short one whole."""
        said = words(question)
        return any(ngram in self.ngrams for ngram in ngrams_of(said)) or self._know_a_part(question, said)

    def _know_a_part(self, question: str, said: Sequence[str]) -> bool:
        runs = [
            (start, start + length)
            for length in self.short_words
            for start in range(len(said) - length + 1)
            if " ".join(said[start : start + length]) in self.short
        ]
        if not runs:
            return False
        ends = sentence_ends(question)
        return any(_asks(start, end, ends) for start, end in runs)


def _asks(start: int, end: int, ends: Sequence[bool]) -> bool:
    """Whether the words from `start` to `end` are more than a part of a sentence by chance."""
    if end - start >= _ANYWHERE_WORDS:
        return True
    if end - start >= _BESIDE_WORDS:
        return ends[start] or ends[end]
    return ends[start] and end == len(ends) - 1


def sentence_ends(text: str) -> list[bool]:
    """Before each word of a text, and behind the last: whether a sentence or a line ends there."""
    text = _one_spelling(text)
    found = list(_WORD.finditer(text))
    between = [
        _SENTENCE_END.search(text, one.end(), other.start()) is not None for one, other in pairwise(found)
    ]
    return [True, *between, True]


def ngrams_of(said: Sequence[str]) -> Iterator[str]:
    """Every 13 words in a row."""
    for start in range(len(said) - NGRAM_WORDS + 1):
        yield " ".join(said[start : start + NGRAM_WORDS])
