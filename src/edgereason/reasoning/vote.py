"""From candidates to one answer, and the earliest moment at which that answer is certain.

Candidates with the same answer form a class (`core.answers.classes`). *majority* counts a class's
members, *weighted* adds up their verifier scores, *best* takes the highest score alone. Ties are broken
uniformly by the seed. Candidates without an answer have no vote.

Source: paper section 6 (weighted majority vote = sum of verifier scores per distinct answer).

Stopping early is exact: `decided` is true only when no answer that a running stream may still give changes
the winner. Answers with the same canonical form always stay together; call such a group an atom. A late
answer strengthens one atom, and it may regroup expressions, which only math-verify can compare, around
itself; numbers, choices, words and prose never share a class. So the strongest rival of an atom that could
still form is

    max(the other firm atoms) + Σ(the other expression atoms) + running streams

(a score is at most 1, so a running stream counts 1 under *weighted* too), and an atom stronger than that
has won, with whatever joins it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from edgereason.core.answers import Answer, Kind, MayCompare, classes
from edgereason.core.types import Vote


@dataclass(frozen=True, slots=True)
class Ballot:
    """One candidate's vote: its answer, if it has one, and its score, if a verifier gave one."""

    answer: Answer | None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class ClassTally:
    """A class of equal answers: who is in it (indices into the ballots) and how strong it is."""

    answer: Answer
    members: tuple[int, ...]
    strength: float


def tally(ballots: Sequence[Ballot], vote: Vote, may_compare: MayCompare | None = None) -> list[ClassTally]:
    """Classes, strongest first; equal ones in order of first appearance. For `may_compare` see `classes`."""
    numbers = classes([ballot.answer for ballot in ballots], may_compare)
    members: dict[int, list[int]] = {}
    for index, number in enumerate(numbers):
        if number is not None:
            members.setdefault(number, []).append(index)
    found = []
    for indices in members.values():
        answer = ballots[indices[0]].answer
        assert answer is not None
        found.append(
            ClassTally(answer, tuple(indices), math.fsum(_weight(ballots[i], vote) for i in indices))
        )
    return sorted(found, key=lambda c: -c.strength)


def winner(
    ballots: Sequence[Ballot], vote: Vote, seed: int, may_compare: MayCompare | None = None
) -> int | None:
    """Index of the winning ballot, None if nobody has an answer.

    The winner is the member of the winning class with the highest score, the earliest among equals. With
    *best*, the ballot with the highest score wins. A tie between classes (or between best scores) is broken
    by drawing uniformly from `seed`. For `may_compare` see `classes`.
    """
    if vote is Vote.BEST:
        scored = [(ballot.score or 0.0, i) for i, ballot in enumerate(ballots) if ballot.answer is not None]
        if all(ballot.score is None for ballot in ballots):
            return scored[0][1] if scored else None
        top = [i for score, i in scored if score == max(score for score, _ in scored)]
        return random.Random(seed).choice(top) if top else None
    ranked = tally(ballots, vote, may_compare)
    if not ranked:
        return None
    tied = [c for c in ranked if c.strength == ranked[0].strength]
    chosen = random.Random(seed).choice(tied)
    return max(chosen.members, key=lambda i: (ballots[i].score or 0.0, -i))


def decided(ballots: Sequence[Ballot], num_running: int, vote: Vote) -> bool:
    """Whether the winning class is certain although `num_running` streams still run."""
    if num_running == 0:
        return True
    if vote is Vote.BEST:
        return False
    weights: dict[tuple[Kind, str], list[float]] = {}
    for ballot in ballots:
        if ballot.answer is not None:
            weights.setdefault((ballot.answer.kind, ballot.answer.key), []).append(_weight(ballot, vote))
    atoms = sorted(((math.fsum(ws), kind) for (kind, _), ws in weights.items()), key=lambda atom: -atom[0])
    if not atoms:
        return False
    leader, rivals = atoms[0][0], atoms[1:]
    firm = max((strength for strength, kind in rivals if kind is not Kind.EXPRESSION), default=0.0)
    loose = math.fsum(strength for strength, kind in rivals if kind is Kind.EXPRESSION)
    return leader > firm + loose + num_running


def _weight(ballot: Ballot, vote: Vote) -> float:
    return 1.0 if vote is Vote.MAJORITY else ballot.score or 0.0
