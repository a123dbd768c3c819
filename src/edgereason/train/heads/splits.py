"""Which rows a head learns from, and which only judge it.

::

    stratified   the rows of each source, shuffled, cut by share          prompts of the switcher
    grouped      whole groups, shuffled and dealt out in turn             a question's traces stay together
    passages     rows of a source that have 13 words in a row in common   questions about one paragraph

Knows names, words and numbers; does not know what rows are for.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from edgereason.train.data.decontaminate import ngrams_of, words

Indices = npt.NDArray[np.int64]

_FORMAT_ROWS: Final = 20
_FORMAT_SHARE: Final = 0.1


def stratified(
    strata: Sequence[Hashable],
    shares: Sequence[float],
    seed: int,
    groups: Sequence[Hashable] | None = None,
) -> list[Indices]:
    """Cuts rows into parts that hold the same share of every stratum.

    Args:
        strata: of each row.
        shares: of each part but the first, which takes the rest; what rounding leaves over goes to the next
            stratum, so that many small ones give a part its share, too.
        seed: of the shuffle.
        groups: of each row; rows of one stratum and group stay together.

    Returns:
        Row numbers of each part, in ascending order.
    """
    rng = np.random.default_rng(seed)
    parts: list[list[int]] = [[] for _ in range(len(shares) + 1)]
    owed = [0.0] * len(shares)
    for rows in _members(strata).values():
        together = list(_members([row if groups is None else groups[row] for row in rows]).values())
        shuffled = [[rows[i] for i in together[number]] for number in rng.permutation(len(together))]
        owed = [left + share * len(rows) for left, share in zip(owed, shares, strict=True)]
        for group in shuffled:
            number = next((n for n, left in enumerate(owed) if left > len(group) - 1e-6), None)
            if number is None:
                parts[0] += group
            else:
                parts[number + 1] += group
                owed[number] -= len(group)
    return [np.sort(np.array(part, np.int64)) for part in parts]


def grouped(groups: Sequence[Hashable], num_parts: int, seed: int) -> Indices:
    """The part of each row, 0 … num_parts − 1; rows of a group share theirs, parts get groups in turn."""
    members = _members(groups)
    order = np.random.default_rng(seed).permutation(len(members))
    parts = np.empty(len(groups), np.int64)
    for rows, place in zip(members.values(), order, strict=True):
        parts[rows] = place % num_parts
    return parts


def passages(texts: Sequence[str], strata: Sequence[Hashable]) -> list[int]:
    """A number for each text: the same for texts of one stratum that are connected by common 13 words.

    Words that more than a tenth of a stratum has in common (and more than 20 texts) are its format, and
    connect nothing.
    """
    root = list(range(len(texts)))

    def find(row: int) -> int:
        while root[row] != row:
            root[row] = row = root[root[row]]
        return row

    for rows in _members(strata).values():
        sharing: dict[str, list[int]] = {}
        for row in rows:
            for ngram in set(ngrams_of(words(texts[row]))):
                sharing.setdefault(ngram, []).append(row)
        most = max(_FORMAT_ROWS, _FORMAT_SHARE * len(rows))
        for first, *others in (found for found in sharing.values() if len(found) <= most):
            for other in others:
                root[find(other)] = find(first)
    return [find(row) for row in range(len(texts))]


def _members(keys: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    members: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        members.setdefault(key, []).append(row)
    return members
