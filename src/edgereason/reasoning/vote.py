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
has won, with whatever joins it. A stream that waits for its stage counts as one that runs, and `needed` tells
how many must end before there can be such an atom.
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


def decided(ballots: Sequence[Ballot], num_open: int, vote: Vote) -> bool:
    """Whether the winning class is certain although `num_open` streams still run or wait."""
    if num_open == 0:
        return True
    if vote is Vote.BEST:
        return False
    return any(strength > rival + num_open for strength, rival in _leaders(ballots, vote))


def needed(ballots: Sequence[Ballot], num_open: int, vote: Vote) -> int:
    """Fewest of `num_open` streams that must end before the winning class can be certain; 0 once it is.

    At best all x of them give the leader's answer, with a score of 1, so that what is still open is
    outweighed from strength + x > rival + (num_open − x) on.
    """
    if decided(ballots, num_open, vote):
        return 0
    if vote is Vote.BEST:
        return num_open
    lead = max((strength - rival for strength, rival in _leaders(ballots, vote)), default=0.0)
    return min(num_open, math.floor((num_open - lead) / 2) + 1)


def _leaders(ballots: Sequence[Ballot], vote: Vote) -> list[tuple[float, float]]:
    """Strength of the strongest firm atom and of the strongest expression, each with its rival's.

    Of either sort no other atom leads its rival by more.
    """
    weights: dict[tuple[Kind, str], list[float]] = {}
    for ballot in ballots:
        if ballot.answer is not None:
            weights.setdefault((ballot.answer.kind, ballot.answer.key), []).append(_weight(ballot, vote))
    atoms = sorted(((math.fsum(ws), kind) for (kind, _), ws in weights.items()), key=lambda atom: -atom[0])
    firm = [strength for strength, kind in atoms if kind is not Kind.EXPRESSION]
    loose = [strength for strength, kind in atoms if kind is Kind.EXPRESSION]
    leaders = []
    if firm:
        leaders.append((firm[0], sum(firm[1:2]) + math.fsum(loose)))
    if loose:
        leaders.append((loose[0], sum(firm[:1]) + math.fsum(loose[1:])))
    return leaders


def _weight(ballot: Ballot, vote: Vote) -> float:
    return 1.0 if vote is Vote.MAJORITY else ballot.score or 0.0
