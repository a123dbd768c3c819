"""Ranking and calibration by hand, and against counting pairs one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgereason.errors import ConfigError
from edgereason.heads.reliability import (
    auroc,
    auroc_standard_error,
    auroc_within,
    brier,
    ece,
    reliability_curve,
    summary,
)


def arrays(scores: list[float], labels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(scores), np.array(labels, bool)


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.75),  # pairs: 0.35 > 0.1, not 0.4; 0.8 above both
        ([1, 2, 3, 4], [0, 0, 1, 1], 1.0),
        ([1, 2, 3, 4], [1, 1, 0, 0], 0.0),
        ([7, 7, 7], [0, 1, 1], 0.5),
        ([1, 1, 2], [0, 1, 1], 0.75),  # a tie and a win
    ],
)
def test_auroc_by_hand(scores: list[float], labels: list[int], expected: float) -> None:
    assert auroc(*arrays(scores, labels)) == pytest.approx(expected)


def test_the_standard_error_by_hand() -> None:
    # true 3 and 1 against false 2 and 0: 3 beats both, 1 beats one; 2 loses to one, 0 to both:
    # shares (1, 0.5) and (0.5, 1), each of variance 0.125 over 2
    assert auroc_standard_error(*arrays([3, 1, 2, 0], [1, 1, 0, 0])) == pytest.approx(0.125**0.5)
    assert auroc_standard_error(*arrays([3, 3, 0, 0], [1, 1, 0, 0])) == 0
    assert auroc_standard_error(*arrays([3, 1, 2], [1, 1, 0])) is None


def test_the_standard_error_is_how_much_auroc_varies_over_draws() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(120) < 40
    draws = [rng.standard_normal(120) + labels for _ in range(400)]
    told = np.mean([auroc_standard_error(scores, labels) for scores in draws])
    assert told == pytest.approx(np.std([auroc(scores, labels) for scores in draws]), rel=0.1)


def by_pairs(scores: np.ndarray, labels: np.ndarray) -> tuple[float, int]:
    wins = [
        1.0 if right > wrong else 0.5 if right == wrong else 0.0
        for right in scores[labels]
        for wrong in scores[~labels]
    ]
    return sum(wins), len(wins)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 3)), min_size=2, max_size=60))
def test_auroc_is_the_share_of_pairs_in_order_ties_counted_half(rows: list) -> None:
    scores, labels = arrays([row[0] / 7 for row in rows], [row[1] for row in rows])
    groups = [row[2] for row in rows]
    if 0 < labels.sum() < len(labels):
        wins, pairs = by_pairs(scores, labels)
        assert auroc(scores, labels) == pytest.approx(wins / pairs)
        # any growing function of the scores ranks alike
        assert auroc(np.exp(9 * scores), labels) == pytest.approx(auroc(scores, labels))
        assert auroc(-scores, labels) == pytest.approx(1 - auroc(scores, labels))
    within = [
        by_pairs(scores[chosen], labels[chosen])
        for group in set(groups)
        if (chosen := np.array([one == group for one in groups])).any()
    ]
    pairs = sum(n for _, n in within)
    expected = sum(wins for wins, _ in within) / pairs if pairs else None
    assert auroc_within(scores, labels, groups) == (None if expected is None else pytest.approx(expected))


def test_within_groups_only_pairs_of_one_group_count() -> None:
    # Question a: right above wrong. Question b: right below wrong, both above all of a's.
    scores, labels = arrays([0.2, 0.1, 0.8, 0.9], [1, 0, 1, 0])
    assert auroc_within(scores, labels, ["a", "a", "b", "b"]) == 0.5
    assert auroc(scores, labels) == 0.5
    assert auroc_within(scores, labels, ["a", "b", "c", "d"]) is None


def test_calibration_error_and_curve_by_hand() -> None:
    # bins of 0.5: {0.1, 0.3: one of two true, mean 0.2}, {0.6, 0.8, 1.0: all true, mean 0.8}
    p, labels = arrays([0.1, 0.3, 0.6, 0.8, 1.0], [0, 1, 1, 1, 1])
    low, high = reliability_curve(p, labels, 2)
    assert (low.low, low.high, low.num, high.num) == (0.0, 0.5, 2, 3)
    assert (low.mean_p, low.share_true) == (pytest.approx(0.2), 0.5)
    assert (high.mean_p, high.share_true) == (pytest.approx(0.8), 1.0)
    assert ece(p, labels, 2) == pytest.approx((2 * 0.3 + 3 * 0.2) / 5)
    assert brier(p, labels) == pytest.approx((0.01 + 0.49 + 0.16 + 0.04 + 0) / 5)


def test_an_end_of_a_bin_belongs_to_the_next_and_an_empty_bin_has_no_share() -> None:
    bins = reliability_curve(*arrays([0.0, 0.5, 1.0], [0, 1, 1]), 4)
    assert [one.num for one in bins] == [1, 0, 1, 1]
    assert bins[1].mean_p is None
    assert bins[1].share_true is None


def test_perfect_probabilities_have_no_error_and_their_opposites_the_most() -> None:
    p, labels = arrays([0, 0, 1, 1], [0, 0, 1, 1])
    assert (ece(p, labels), brier(p, labels), auroc(p, labels)) == (0, 0, 1)
    assert (ece(p, ~labels), brier(p, ~labels), auroc(p, ~labels)) == (1, 1, 0)


def test_probabilities_drawn_as_they_say_have_an_error_near_zero() -> None:
    rng = np.random.default_rng(5)
    p = rng.random(20_000)
    labels = rng.random(20_000) < p
    # Each bin's share is off by at most 0.5/√2000 ≈ 0.011 in one standard deviation.
    assert ece(p, labels) < 0.02
    assert brier(p, labels) == pytest.approx(1 / 6, abs=0.01)  # ∫ p (1 − p) dp


def test_a_summary_is_plain_and_has_no_auroc_where_labels_are_alike() -> None:
    told = summary(*arrays([0.2, 0.9], [1, 1]))
    assert told["auroc"] is None
    assert (told["n"], told["share_true"], len(told["curve"])) == (2, 1.0, 10)
    assert sum(one["num"] for one in told["curve"]) == 2


@pytest.mark.parametrize(
    ("scores", "labels"), [([0.5], [1]), ([], []), ([0.1, np.nan], [0, 1]), ([0.1, 0.2, 0.3], [0, 1])]
)
def test_what_has_no_pairs_or_is_no_number_is_refused(scores: list, labels: list) -> None:
    with pytest.raises(ConfigError):
        auroc(*arrays(scores, labels))


def test_a_score_beyond_one_is_no_probability() -> None:
    with pytest.raises(ConfigError, match=r"in \[0, 1\]"):
        ece(*arrays([0.5, 1.5], [0, 1]))
