"""Votes by hand, and early stopping against every order in which streams can finish."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgereason.core.answers import canonical
from edgereason.core.types import Vote
from edgereason.reasoning.vote import Ballot, decided, needed, tally, winner


def ballots(*answers: str | None, scores: list[float] | None = None) -> list[Ballot]:
    return [
        Ballot(None if a is None else canonical(a), scores[i] if scores else None)
        for i, a in enumerate(answers)
    ]


def winning_class(given: list[Ballot], vote: Vote, seed: int = 0) -> set[int]:
    won = winner(given, vote, seed)
    return next((set(c.members) for c in tally(given, vote) if won in c.members), set())


def test_majority_counts_equal_answers_however_they_are_written() -> None:
    assert winner(ballots("7", "18", "$18.00", "7.5"), Vote.MAJORITY, seed=0) == 1


def test_weighted_adds_scores_so_two_sure_streams_beat_three_doubtful_ones() -> None:
    given = ballots("7", "7", "7", "18", "18", scores=[0.1, 0.2, 0.1, 0.9, 0.8])
    assert winner(given, Vote.WEIGHTED, seed=0) == 3
    assert [c.strength for c in tally(given, Vote.WEIGHTED)] == pytest.approx([1.7, 0.4])


def test_best_takes_the_highest_score_alone() -> None:
    assert winner(ballots("7", "7", "18", scores=[0.6, 0.5, 0.7]), Vote.BEST, seed=0) == 2


def test_best_without_scores_is_the_first_answer() -> None:
    assert winner(ballots(None, "7", "18"), Vote.BEST, seed=5) == 1


def test_streams_without_an_answer_have_no_vote() -> None:
    assert winner(ballots(None, None, "3"), Vote.MAJORITY, seed=0) == 2
    assert winner(ballots(None, None), Vote.MAJORITY, seed=0) is None


def test_a_tie_is_broken_uniformly_by_the_seed() -> None:
    given = ballots("1", "2", "3")
    drawn = Counter(winner(given, Vote.MAJORITY, seed=seed) for seed in range(3000))
    # 1,000 each; three binomial standard deviations are 77, exceeded once in 120 seeds' worth of tables.
    assert all(abs(drawn[i] - 1000) < 100 for i in range(3))


def test_the_winner_of_a_class_is_its_surest_member() -> None:
    assert winner(ballots("18", "18", "18", scores=[0.3, 0.9, 0.5]), Vote.WEIGHTED, seed=0) == 1


def test_a_lead_that_running_streams_could_equal_is_not_decided() -> None:
    assert not decided(ballots("1", "1"), num_open=2, vote=Vote.MAJORITY)
    assert decided(ballots("1", "1", "1"), num_open=2, vote=Vote.MAJORITY)
    assert not decided(ballots("1", "1", "1", "2"), num_open=2, vote=Vote.MAJORITY)


def test_expressions_that_a_late_answer_might_bring_together_count_together() -> None:
    # 3 against two expressions of one vote each: a late answer equal to both would make them 3 with itself.
    given = ballots("5", "5", "5", r"x^2+1", r"y+2")
    assert not decided(given, num_open=1, vote=Vote.MAJORITY)
    assert decided(ballots("5", "5", "5", "7", "8"), num_open=1, vote=Vote.MAJORITY)


def test_best_is_never_decided_early() -> None:
    assert not decided(ballots("1", scores=[1.0]), num_open=1, vote=Vote.BEST)


@pytest.mark.parametrize(
    ("given", "num_open", "fewest"),
    [
        # Nothing is said yet: more than half of 2, 3, 4, 8 and 9.
        ([], 2, 2),
        ([], 3, 2),
        ([], 4, 3),
        ([], 8, 5),
        ([], 9, 5),
        (["1"], 7, 4),  # 5 of 8 in all
        (["1", "2"], 6, 4),  # 5 to 1, and 2 open
        (["1", "1", "2", "2"], 4, 3),  # 5 to 2, and 1 open; 4 to 2 could end in a tie
        (["1", "1", "1"], 2, 0),
        (["1", "1", "1", "2"], 2, 1),
        (["1", None], 6, 3),  # 4 to 0, and 3 open
        ([None, None], 2, 2),
        # Two expressions may be one: 3 of "1" stand against 2, and 2 more are needed of 2.
        (["1", "1", "1", r"x^2+1", "y+2"], 2, 1),
    ],
)
def test_how_many_must_end_before_a_majority_can_be_certain(given, num_open: int, fewest: int) -> None:
    assert needed(ballots(*given), num_open, Vote.MAJORITY) == fewest


def test_a_weighted_vote_needs_as_many_as_scores_of_one_would_and_best_needs_all() -> None:
    given = ballots("1", "1", scores=[0.5, 0.25])
    # x more with a score of 1: 0.75 + x > 4 − x from x = 2 on.
    assert needed(given, 4, Vote.WEIGHTED) == 2
    assert needed(given, 4, Vote.BEST) == 4


ANSWERS = st.sampled_from(
    ["1", "2", "1.0", "3", "A", "B", "yes", "Paris", r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"]
)


@given(
    answers=st.lists(st.one_of(st.none(), ANSWERS), min_size=1, max_size=6),
    scores=st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), min_size=6, max_size=6),
    vote=st.sampled_from([Vote.MAJORITY, Vote.WEIGHTED]),
)
@settings(max_examples=60, deadline=None)
def test_whenever_a_vote_is_decided_early_the_full_vote_agrees(
    answers: list[str | None], scores: list[float], vote: Vote
) -> None:
    everybody = ballots(*answers, scores=scores[: len(answers)])
    for order in itertools.permutations(range(len(answers))):
        for finished in range(len(order)):
            indices = sorted(order[:finished])
            early = [everybody[i] for i in indices]
            if decided(early, len(order) - finished, vote):
                early_class = {indices[i] for i in winning_class(early, vote)}
                for seed in range(3):
                    assert early_class <= winning_class(everybody, vote, seed)
                break


@given(
    answers=st.lists(st.one_of(st.none(), ANSWERS), min_size=1, max_size=6),
    scores=st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), min_size=6, max_size=6),
    vote=st.sampled_from([*Vote]),
)
@settings(max_examples=60, deadline=None)
def test_no_vote_is_decided_before_as_many_have_ended_as_are_needed(
    answers: list[str | None], scores: list[float], vote: Vote
) -> None:
    everybody = ballots(*answers, scores=scores[: len(answers)])
    for finished in range(len(answers)):
        fewest = needed(everybody[:finished], len(answers) - finished, vote)
        assert fewest <= len(answers) - finished
        for more in range(fewest):
            assert not decided(everybody[: finished + more], len(answers) - finished - more, vote)
