"""Figures against hand calculation, enumeration and simulation."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
from eval_rows import pool, sample, trace

from edgereason.core.types import Route, Stop
from edgereason.errors import ConfigError
from edgereason.evals.metrics import (
    accuracy,
    bootstrap_intervals,
    clustered_error,
    clustered_interval,
    finished_traces,
    mean_pass_at_k,
    pass_at_k,
    resampling_weights,
    summarise,
    token_statistics,
)

# ── accuracy ─────────────────────────────────────────────────────────────────────────────────────


def test_a_question_weighs_the_same_however_often_it_was_asked():
    rows = [sample("a", 1.0, repeat=r) for r in range(3)] + [sample("b", 0.0)]
    assert accuracy(rows) == 0.5


def test_the_clustered_error_of_two_questions_by_hand():
    # Means 1/2 and 1, overall 3/4; SE² = ((1/4)² + (1/4)²) / 2² = 1/32. Miller's double sum over rows, n = 4:
    # ((1/4 − 3/4)² + (1/4 + 1/4)²) / 4² = (1/4 + 1/4) / 16 = 1/32.
    assert clustered_error({"a": [1, 0], "b": [1, 1]}) == pytest.approx(math.sqrt(1 / 32))


def test_the_clustered_error_is_millers_double_sum_where_questions_are_asked_equally_often():
    rng = np.random.default_rng(3)
    scores = rng.random((7, 4))
    centred = scores - scores.mean()
    double_sum = sum(np.outer(row, row).sum() for row in centred) / scores.size**2
    found = clustered_error({str(i): row.tolist() for i, row in enumerate(scores)})
    assert found == pytest.approx(math.sqrt(double_sum))


@pytest.mark.parametrize(
    ("num_right", "low", "high"),
    # Wilson's 95 % interval for k of 10, as tables give it.
    [(8, 0.4902, 0.9433), (5, 0.2366, 0.7634), (0, 0.0, 0.2775), (10, 0.7225, 1.0)],
)
def test_the_interval_of_single_answers_is_wilsons(num_right, low, high):
    scores = {str(i): [float(i < num_right)] for i in range(10)}
    assert clustered_interval(scores) == pytest.approx((low, high), abs=5e-5)


def test_repeating_what_was_said_makes_nothing_surer():
    once = {str(i): [float(i % 3 == 0)] for i in range(20)}
    seven_times = {id_: scores * 7 for id_, scores in once.items()}
    assert clustered_interval(seven_times) == pytest.approx(clustered_interval(once))


def test_answers_to_a_question_count_as_independent_at_best():
    # SE² is 1/32 (above), but four independent answers with 3 right would have 3/16 / 4 = 3/64, which is
    # more: the interval is Wilson's for 3 of 4, with z² = 3.8415 (0.6275 ± 0.3269).
    assert clustered_interval({"a": [1, 0], "b": [1, 1]}) == pytest.approx((0.3006, 0.9544), abs=5e-5)


def test_for_many_questions_the_interval_nears_the_plain_one():
    rng = np.random.default_rng(0)
    chances = rng.beta(2, 2, 4000)
    scores = {str(i): (rng.random(3) < p).astype(float).tolist() for i, p in enumerate(chances)}
    p = fmean(fmean(s) for s in scores.values())
    half = 1.959964 * clustered_error(scores)
    assert clustered_interval(scores) == pytest.approx((p - half, p + half), abs=2e-4)


def test_partial_scores_that_hardly_differ_give_a_narrow_interval():
    # Scores 0.5 ± 0.01 in turn, 100 questions: SE = 0.01 / 10.
    scores = {str(i): [0.5 + (0.01 if i % 2 else -0.01)] for i in range(100)}
    assert clustered_interval(scores) == pytest.approx((0.5 - 0.00196, 0.5 + 0.00196), abs=1e-5)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    # 30 questions × 4 answers, chances uniform, truth 1/2: 95 % of 500 runs ± 4 standard deviations of 1 %.
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(500):
        right = rng.random((30, 4)) < rng.random((30, 1))
        low, high = clustered_interval({str(i): row.tolist() for i, row in enumerate(right.astype(float))})
        hits += low <= 0.5 <= high
    assert 0.91 <= hits / 500 <= 0.99


def test_a_higher_level_is_wider_and_one_question_says_nothing():
    scores = {"a": [1.0], "b": [0.0], "c": [1.0]}
    low, high = clustered_interval(scores, 0.8)
    wider = clustered_interval(scores, 0.99)
    assert wider[0] < low < high < wider[1]
    assert clustered_interval({"a": [1.0, 1.0, 0.0]}) == (0.0, 1.0)
    with pytest.raises(ConfigError, match="needs scores"):
        clustered_interval({})


# ── resampling ───────────────────────────────────────────────────────────────────────────────────


def test_resampled_weights_are_whole_draws_and_the_same_for_the_same_seed():
    # 1,500 questions × 800 resamples take two blocks of 2²⁰ floats.
    blocks = list(resampling_weights(1500, 800, seed=5))
    weights = np.concatenate(blocks)
    assert len(blocks) == 2
    assert weights.shape == (800, 1500)
    assert weights.sum(axis=1) == pytest.approx(1.0)
    assert np.array_equal(np.rint(weights * 1500), np.round(weights * 1500, 9))
    assert np.array_equal(weights[0], next(resampling_weights(1500, 3, seed=5))[0])


def test_bootstrap_intervals_match_the_central_limit():
    values = np.random.default_rng(2).normal(size=(400, 1))
    ((low, high),) = bootstrap_intervals(values, seed=0)
    half = 1.96 * values.std() / 20
    # The ends of 2,000 resamples scatter by about 3 % of the half-width.
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.12 * half)


def test_columns_are_resampled_together():
    values = np.random.default_rng(4).random((30, 1))
    intervals = bootstrap_intervals(np.hstack([values, values + 1]), seed=1)
    assert intervals[1] - intervals[0] == pytest.approx([1, 1])
    assert bootstrap_intervals(np.full((9, 1), 0.25), seed=0) == pytest.approx(np.array([[0.25, 0.25]]))


# ── pass@k ───────────────────────────────────────────────────────────────────────────────────────


def test_pass_at_k_is_the_share_of_subsets_that_hold_a_correct_sample():
    for n in range(1, 7):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            subsets = list(itertools.combinations(range(n), k))
            share = fmean(any(i < c for i in subset) for subset in subsets)
            assert pass_at_k(n, c, k) == pytest.approx(share)


def test_pass_at_k_of_200_samples_as_a_product():
    # Chen et al.'s stable form: 1 − Π_{i = n−c+1 … n} (1 − k/i).
    product = math.prod(1 - 10 / i for i in range(200 - 13 + 1, 201))
    assert pass_at_k(200, 13, 10) == pytest.approx(1 - product)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 5, 1), (4, 1, 0), (4, -1, 1)])
def test_pass_at_k_of_samples_that_are_not_there_is_refused(n, c, k):
    with pytest.raises(ConfigError, match=f"pass@{k}"):
        pass_at_k(n, c, k)


def test_mean_pass_at_k_takes_questions_with_enough_finished_traces():
    rows = [
        pool("a", trace(score=1.0), trace(score=0.0)),
        pool("b", trace(score=0.4), trace(score=0.5), trace(score=0.0)),
        pool("c", trace(score=1.0), trace(None, 0.0, stop=Stop.CANCELLED)),
    ]
    assert mean_pass_at_k(rows, 1) == pytest.approx((1 / 2 + 1 / 3 + 1) / 3)
    assert mean_pass_at_k(rows, 2) == pytest.approx((1 + 2 / 3) / 2)  # of b's pairs, 2 of 3 hold the one
    with pytest.raises(ConfigError, match="needs 4 finished"):
        mean_pass_at_k(rows, 4)


def test_traces_are_pooled_over_repeats_and_streams_in_their_order():
    rows = [
        sample("a", repeat=1, traces=(trace("4", index=1), trace("3", index=0))),
        sample("a", repeat=0, traces=(trace("1", index=0), trace("2", index=1, stop=Stop.CANCELLED))),
    ]
    assert [t.answer for t in finished_traces(rows)["a"]] == ["1", "3", "4"]


# ── summary ──────────────────────────────────────────────────────────────────────────────────────


def test_percentiles_are_linear_between_neighbours():
    # The 90th of 4 values lies 0.9 · 3 = 2.7 steps along: 30 + 0.7 · 70.
    assert token_statistics([10, 100, 20, 30]) == pytest.approx(
        {"mean_tokens": 40.0, "median_tokens": 25.0, "p90_tokens": 79.0}
    )


def test_a_summary_by_hand():
    rows = [
        sample("a", 1.0, tokens=100, ttft_s=1.0, total_s=3.0),
        sample("a", 0.0, repeat=1, tokens=200, stop=Stop.BUDGET, ttft_s=2.0, total_s=5.0),
        sample("b", 1.0, tokens=60, route=Route.CHAT, stop=Stop.LENGTH, ttft_s=3.0, total_s=4.0),
        sample("b", 1.0, repeat=1, tokens=40, all_streams_tokens=400, route=Route.CHAT, winner=None),
    ]
    found = summarise(rows)
    assert found.pop("ci95") == pytest.approx([0.3006, 0.9544], abs=5e-5)  # as above
    assert found == {
        "n": 4,
        "num_questions": 2,
        "accuracy": 0.75,
        "mean_tokens": 100.0,
        "median_tokens": 80.0,
        "p90_tokens": pytest.approx(170.0),  # 2.7 steps along 40 60 100 200
        "mean_all_streams_tokens": 190.0,
        "mean_streams_begun": 1.0,
        "share_cut": 0.5,
        "share_think": 0.5,
        "share_answered": 0.75,
        "ttft_s": 1.5,
        "latency_s": 3.5,
        "verify_share": None,
        "pass_at_k": {"1": 0.75, "2": 1.0},
    }


def test_streams_that_never_began_are_told_from_those_that_were_cancelled():
    began = trace(None, 0.0, stop=Stop.CANCELLED)
    never = replace(began, thinking_tokens=0, answer_tokens=0)
    rows = [pool("a", trace(), trace(), began), pool("b", trace(), trace(), never)]
    assert summarise(rows)["mean_streams_begun"] == 2.5


def test_the_verifiers_share_is_of_all_seconds_and_unknown_where_a_row_does_not_say():
    rows = [sample("a", 1.0, total_s=1.0, verify_s=0.5), sample("b", 1.0, total_s=4.0, verify_s=0.25)]
    assert summarise(rows)["verify_share"] == pytest.approx(0.15)
    assert summarise([*rows, sample("c", 1.0, total_s=1.0)])["verify_share"] is None


def test_of_a_budget_in_seconds_a_tenth_more_is_still_in_time():
    rows = [sample(name, 1.0, total_s=total_s) for name, total_s in (("a", 1.9), ("b", 2.2), ("c", 2.25))]
    found = summarise(rows, budget_s=2.0)
    assert found["share_in_time"] == pytest.approx(2 / 3)
    assert found["max_overshoot_s"] == pytest.approx(0.25)
    assert "share_in_time" not in summarise(rows)


def test_pass_at_k_stops_where_a_question_runs_out_of_traces():
    rows = [pool("a", *[trace()] * 9), pool("b", *[trace()] * 5)]
    assert list(summarise(rows)["pass_at_k"]) == ["1", "2", "4"]
    assert summarise([*rows, pool("c", trace(stop=Stop.CANCELLED))])["pass_at_k"] == {}


def test_no_samples_have_no_figures():
    for figure in (accuracy, summarise):
        with pytest.raises(ConfigError, match="without samples"):
            figure([])
