"""Vote curves against enumeration and hand-made pools."""

from __future__ import annotations

import itertools
import json
import random
from statistics import fmean

import pytest
from eval_rows import pool, sample, trace

from edgereason.core.answers import Kind, canonical, extract
from edgereason.core.types import Stop, Vote
from edgereason.errors import ConfigError
from edgereason.evals.curves.votes import vote_curve
from edgereason.reasoning.vote import Ballot, winner

RIGHT, WRONG, OTHER = trace("18", 1.0), trace("7", 0.0), trace("5", 0.0)


def random_pools(num_questions: int, num_traces: int, seed: int = 0, *, knows: bool = False):
    """Chances of being right spread over questions; wrong answers are few and like to agree."""
    rng = random.Random(seed)
    rows = []
    for q in range(num_questions):
        chance, traces = rng.random(), []
        for _ in range(num_traces):
            score = float(rng.random() < chance)
            answer = "18" if score else rng.choice(["7", "7.0", "5", "yes"])
            traces.append(
                trace(answer, score, tokens=rng.randrange(50, 300), verifier=score if knows else None)
            )
        rows.append(pool(f"q{q}", *traces))
    return rows


def points(record):
    return {point["n"]: point for point in record["points"]}


def test_at_one_stream_accuracy_is_the_mean_of_all_traces():
    rows = random_pools(12, 5)
    single = points(vote_curve(rows))[1]
    mean = fmean(t.score for row in rows for t in row.traces)
    assert single["votes"]["majority"]["accuracy"] == pytest.approx(mean)
    assert single["oracle"] == pytest.approx(mean)
    assert single["votes"]["majority"]["difference"] == 0
    assert single["votes"]["majority"]["difference_ci95"] == [0, 0]
    assert single["votes"]["majority"]["std"] > 0


def test_at_the_whole_pool_every_draw_is_the_vote_over_all():
    rows = [
        pool("a", RIGHT, WRONG, RIGHT, OTHER),
        pool("b", WRONG, OTHER, WRONG, RIGHT),
        pool("c", trace("5", 0.0), trace(None, 0.0), trace("$18.00", 1.0), RIGHT),
    ]
    whole = points(vote_curve(rows))[4]["votes"]["majority"]
    ballots = [
        [Ballot(canonical(t.answer) if t.answer else None) for t in row.traces] for row in rows
    ]  # no ties, so the seed does not matter
    by_hand = fmean(
        row.traces[winner(b, Vote.MAJORITY, seed=9)].score for row, b in zip(rows, ballots, strict=True)
    )
    assert by_hand == pytest.approx(2 / 3)
    assert whole["accuracy"] == pytest.approx(by_hand)
    assert whole["std"] == 0


def test_a_tie_at_the_whole_pool_is_broken_once_and_not_draw_by_draw():
    record = vote_curve([pool(f"q{i}", RIGHT, WRONG) for i in range(200)])
    whole = points(record)[2]["votes"]["majority"]
    assert whole["std"] == 0
    assert abs(whole["accuracy"] - 0.5) < 0.142  # 200 fair coins: four standard deviations


def test_accuracy_of_two_of_three_by_enumeration():
    # Of {R, R, W}: {R, R} is right, and {R, W} twice a tie that is won half the time: (1 + ½ + ½) / 3. A
    # question's mean has a standard deviation below 0.26; 300 of them, four standard deviations: 0.06.
    found = points(vote_curve([pool(f"q{i}", RIGHT, WRONG, RIGHT) for i in range(300)]))[2]
    assert found["votes"]["majority"]["accuracy"] == pytest.approx(2 / 3, abs=0.06)
    assert found["oracle"] == 1  # no pair without a right one


def test_draws_are_without_replacement():
    # Three of four with two right: two at least are needed to win, and at most one of three is missing.
    rows = [pool(f"q{i}", RIGHT, RIGHT, RIGHT, WRONG) for i in range(30)]
    for vote in points(vote_curve(rows, ns=[3]))[3]["votes"].values():
        assert vote["accuracy"] == 1
        assert vote["std"] == 0


def test_a_verifier_that_knows_the_truth_is_never_worse_than_counting():
    record = vote_curve(random_pools(25, 8, knows=True))
    for point in record["points"]:
        votes = {name: figures["accuracy"] for name, figures in point["votes"].items()}
        assert list(votes) == ["majority", "weighted", "best"]
        assert votes["weighted"] == votes["best"] >= votes["majority"]
    assert votes["best"] == pytest.approx(point["oracle"])  # at the whole pool


def test_without_scores_for_every_trace_only_majority_is_drawn():
    record = vote_curve([pool("a", trace(verifier=0.5), trace())])
    assert list(record["points"][0]["votes"]) == ["majority"]
    assert "no weighted and no best vote: not every trace has a verifier score" in record["notes"]


def test_how_well_scores_tell_traces_apart_by_hand():
    rows = [
        pool("a", trace(verifier=0.9), trace("7", 0.0, verifier=0.4)),
        pool("b", trace(verifier=0.3), trace("7", 0.0, verifier=0.5)),
    ]
    # right 0.9, 0.3 against wrong 0.4, 0.5: 2 of 4 pairs in order; of a question's own, a's and not b's
    assert vote_curve(rows)["verifier"] == {"auroc": 0.5, "auroc_within_questions": 0.5}
    rows[1] = pool("b", trace(verifier=0.6), trace("7", 0.0, verifier=0.5))
    assert vote_curve(rows)["verifier"] == {"auroc": 1.0, "auroc_within_questions": 1.0}
    assert vote_curve([pool("a", trace(verifier=0.5), trace(verifier=0.6))])["verifier"] is None
    assert vote_curve([pool("a", trace(), trace("7", 0.0))])["verifier"] is None


def test_the_difference_is_paired_by_question():
    # Half the questions are always right, half always wrong: accuracies scatter with the questions, their
    # difference does not.
    rows = [pool(f"q{i}", *[RIGHT if i % 2 else WRONG] * 4) for i in range(40)]
    majority = points(vote_curve(rows))[4]["votes"]["majority"]
    assert majority["difference"] == 0
    assert majority["difference_ci95"] == [0, 0]


def test_the_interval_of_the_difference_is_that_of_its_questions():
    # At the whole pool of {R, R, W, W'} the vote is right and a trace is right half the time: 0.5 for these;
    # for {R, W, W, W'} wrong against a quarter: −0.25. Half of each: mean 1/8, and each draw of 100 questions
    # has a standard deviation of 0.375/10.
    rows = [
        pool(f"q{i}", *([RIGHT, RIGHT, WRONG, OTHER] if i % 2 else [RIGHT, WRONG, WRONG, OTHER]))
        for i in range(100)
    ]
    majority = points(vote_curve(rows))[4]["votes"]["majority"]
    low, high = majority["difference_ci95"]
    assert majority["difference"] == pytest.approx(0.125)
    assert (low, high) == pytest.approx((0.125 - 1.96 * 0.0375, 0.125 + 1.96 * 0.0375), abs=0.01)


def test_what_weights_gain_over_counting_is_paired_with_its_standard_error():
    # In every other question two wrong traces outvote a right one that the verifier trusts: a gain of 1 in
    # half of 100 questions, which have a standard deviation of ½.
    sure = [trace("18", 1.0, verifier=0.9), *(trace("7", 0.0, verifier=0.2) for _ in range(2))]
    alike = [trace("18", 1.0, verifier=0.5) for _ in range(3)]
    rows = [pool(f"q{i}", *(sure if i % 2 else alike)) for i in range(100)]
    votes = points(vote_curve(rows))[3]["votes"]
    assert votes["weighted"]["over_majority"] == votes["best"]["over_majority"] == 0.5
    assert votes["weighted"]["over_majority_se"] == pytest.approx(0.05)
    assert votes["weighted"]["over_majority_ci95"] == pytest.approx([0.4, 0.6], abs=0.02)
    assert "over_majority" not in votes["majority"]


def test_tokens_are_expectations_over_all_subsets():
    lengths = [[30, 80, 50, 200], [20, 20, 90, 60]]
    rows = [pool(str(q), *(trace(tokens=n) for n in ls)) for q, ls in enumerate(lengths)]
    for n, point in points(vote_curve(rows)).items():
        subsets = [list(itertools.combinations(ls, n)) for ls in lengths]
        assert point["mean_longest_tokens"] == pytest.approx(fmean(fmean(map(max, s)) for s in subsets))
        assert point["mean_all_streams_tokens"] == pytest.approx(fmean(fmean(map(sum, s)) for s in subsets))


def test_the_oracle_is_the_share_of_subsets_with_a_right_trace():
    rows = random_pools(6, 6)
    for n, point in points(vote_curve(rows)).items():
        by_hand = fmean(
            fmean(any(t.score for t in subset) for subset in itertools.combinations(row.traces, n))
            for row in rows
        )
        assert point["oracle"] == pytest.approx(by_hand)


def test_repeats_and_streams_are_one_pool_and_the_curve_stops_at_the_least():
    rows = [sample("a", repeat=r, traces=(trace(index=0), trace("7", 0.0, index=1))) for r in range(4)] + [
        sample("b", repeat=r, traces=(trace(index=0), trace(index=1))) for r in range(3)
    ]
    record = vote_curve(rows, ns=[8, 1, 6, 7])
    assert (record["num_traces"], record["least_pool"]) == (14, 6)
    assert [point["n"] for point in record["points"]] == [1, 6]
    assert "nothing at N = 7, 8: question 'b' has only 6 finished traces" in record["notes"]
    assert [point["n"] for point in vote_curve(rows)["points"]] == [1, 2, 3, 4, 5, 6]
    assert [point["n"] for point in vote_curve(random_pools(2, 13))["points"]] == [*range(1, 9), 10, 12]


def test_cancelled_traces_are_left_out_and_counted():
    cancelled = trace(None, 0.0, stop=Stop.CANCELLED)
    record = vote_curve(
        [pool("a", RIGHT, cancelled, RIGHT, cancelled), pool("b", RIGHT, RIGHT, RIGHT, RIGHT)]
    )
    assert record["least_pool"] == 2
    assert record["points"][0]["votes"]["majority"]["accuracy"] == 1
    assert record["notes"][0].startswith("2 of 8 traces were cancelled")
    with pytest.raises(ConfigError, match="'c' has no finished trace"):
        vote_curve([pool("c", cancelled), pool("a", RIGHT)])


def test_nobody_with_an_answer_scores_nothing():
    record = vote_curve([pool("a", trace(None, 1.0), trace(None, 1.0))])
    assert [point["votes"]["majority"]["accuracy"] for point in record["points"]] == [0, 0]


def test_a_seed_gives_the_same_record_whatever_the_order_of_rows():
    rows = random_pools(10, 6)
    record = vote_curve(rows, seed=3)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert vote_curve(rows[::-1], seed=3) == record
    assert vote_curve(rows, seed=4)["points"][2] != record["points"][2]


def test_what_can_not_be_drawn_is_refused():
    rows = random_pools(2, 3)
    for arguments, message in [
        ({"ns": [0, 1]}, "from 1 to 3"),
        ({"ns": [9]}, "can't be drawn at 9"),
        ({"draws": 1}, "at least 2 draws"),
    ]:
        with pytest.raises(ConfigError, match=message):
            vote_curve(rows, **arguments)
    with pytest.raises(ConfigError, match="needs samples"):
        vote_curve([])


def test_recorded_answers_are_read_again_as_they_were():
    said = [
        r"So the total is \boxed{18}.",
        "The answer is $18.00.",
        "9 * 2 = 18",
        "She sells 18 eggs a day.",
        r"Hence $x = \boxed{\frac{\sqrt{2}}{2}}$.",
        r"The answer is $\frac{1}{\sqrt{2}}$",
        "**Answer:** (B)",
        "The answer is option B.",
        "Yes, it is.",
        "The answer is yes",
        "It was Marie Curie.",
        "The answer is 3/4 of a mile",
        "0.75",
        "#### 1,234",
        "1234",
    ]
    read = [extract(text, question="How many are there?") for text in said]
    assert None not in read
    again = [canonical(answer.text) for answer in read]
    # Classes are made of these three and nothing else.
    assert [(a.kind, a.key, a.value) for a in again] == [(a.kind, a.key, a.value) for a in read]
    assert {a.kind for a in again} == set(Kind)
