"""Which rows a head learns from, and which only judge it.

::

    stratified   the rows of each source, shuffled, cut by share          prompts of the switcher
    grouped      whole groups, shuffled and dealt out in turn             a question's traces stay together

Knows names and numbers; does not know rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def stratified(strata: Sequence[Hashable], shares: Sequence[float], seed: int) -> list[Indices]:
    """Cuts rows into parts that hold the same share of every stratum.

    Args:
        strata: of each row.
        shares: of each part but the first, which takes the rest; rounded down in every stratum.
        seed: of the shuffle.

    Returns:
        Row numbers of each part, in ascending order.
    """
    rng = np.random.default_rng(seed)
    parts: list[list[int]] = [[] for _ in range(len(shares) + 1)]
    for rows in _members(strata).values():
        shuffled = [rows[i] for i in rng.permutation(len(rows))]
        for number, share in enumerate(shares, 1):
            num = int(share * len(rows))
            parts[number] += shuffled[:num]
            shuffled = shuffled[num:]
        parts[0] += shuffled
    return [np.sort(np.array(part, np.int64)) for part in parts]


def grouped(groups: Sequence[Hashable], num_parts: int, seed: int) -> Indices:
    """The part of each row, 0 … num_parts − 1; rows of a group share theirs, parts get groups in turn."""
    members = _members(groups)
    order = np.random.default_rng(seed).permutation(len(members))
    parts = np.empty(len(groups), np.int64)
    for rows, place in zip(members.values(), order, strict=True):
        parts[rows] = place % num_parts
    return parts


def _members(keys: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    members: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        members.setdefault(key, []).append(row)
    return members
