"""Where the threshold goes: cuts by hand, and curves against picking one by one."""

from __future__ import annotations

import random

import pytest
from tiny_bundle import write_evaluation

from edgereason.bundles.build import Parts, build
from edgereason.bundles.calibrate import probabilities
from edgereason.bundles.threshold import (
    require_accuracy,
    require_think_rate,
    threshold_for_accuracy,
    threshold_for_share,
)
from edgereason.core.types import Message, Mode, Request
from edgereason.errors import ConfigError
from edgereason.evals.curves.threshold import NEVER_THINK
from edgereason.evals.samples import read_samples
from edgereason.reasoning.model import load


def test_the_share_wanted_thinks_and_nobody_stands_on_the_edge():
    p = [0.9, 0.1, 0.5, 0.7, 0.3]
    point = threshold_for_share(p, 0.4)
    assert point.threshold == pytest.approx(0.6)  # between 0.5, which chats, and 0.7
    assert (point.share_think, point.num_prompts) == (0.4, 5)
    assert threshold_for_share(p, 0.45).share_think == 0.4  # 2.25 of 5
    assert threshold_for_share(p, 0.99).share_think == 0.8  # never all of them, nor none
    assert threshold_for_share(p, 0.01).share_think == 0.2


def test_prompts_of_one_probability_think_together_or_not_at_all():
    point = threshold_for_share([0.8, 0.8, 0.8, 0.2], 0.4)
    assert (point.share_think, point.threshold) == (0.75, pytest.approx(0.5))
    with pytest.raises(ConfigError, match="says the same of all 3 prompts"):
        threshold_for_share([0.8, 0.8, 0.8], 0.5)
    with pytest.raises(ConfigError, match="all 0 prompts"):
        threshold_for_share([], 0.5)


@pytest.mark.parametrize("seed", range(20))
def test_no_other_cut_is_nearer(seed):
    rng = random.Random(seed)
    p = [round(rng.random(), 1) for _ in range(rng.randrange(5, 40))]
    share = rng.uniform(0.05, 0.95)
    point = threshold_for_share(p, share)
    assert sum(one >= point.threshold for one in p) / len(p) == point.share_think
    shares = {sum(one >= cut for one in p) / len(p) for cut in p} - {1.0}
    assert abs(point.share_think - share) == pytest.approx(min(abs(one - share) for one in shares))


def test_neighbouring_floats_are_told_apart():
    low, high = 0.1, 0.10000000000000002  # nothing lies between
    assert threshold_for_share([low, high], 0.5).threshold == high


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 30.0])
def test_a_think_rate_is_a_share(share):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        require_think_rate(share)


@pytest.mark.parametrize("accuracy", [0.0, 1.01, 60.0])
def test_an_accuracy_is_a_share_that_can_be_asked_for(accuracy):
    with pytest.raises(ConfigError, match="above 0 and at most 1"):
        require_accuracy(accuracy)


@pytest.fixture
def runs(tiny, tmp_path):
    """Rows of five questions: chat knows q0 and q1, thinking knows all but q4."""
    both = {Mode.CHAT: ([1, 1, 0, 0, 0], 10), Mode.THINK: ([1, 1, 1, 1, 0], 100)}
    return [
        read_samples(
            write_evaluation(tmp_path / mode, mode, scores, base=tiny.base, data=tiny.data, tokens=tokens)
        )
        for mode, (scores, tokens) in both.items()
    ]


def test_the_fewest_think_that_the_accuracy_needs(runs):
    chat, think = runs
    p = {"q0": 0.1, "q1": 0.2, "q2": 0.9, "q3": 0.6, "q4": 0.7}
    point = threshold_for_accuracy(chat, think, p, 0.8)
    # Both q2 and q3 must think, and q4 between them thinks too: 3 of 5, and 4 right.
    assert point.threshold == pytest.approx(0.4)  # in the middle of 0.2 and 0.6
    assert (point.share_think, point.accuracy, point.mean_tokens) == pytest.approx((0.6, 0.8, 64))
    assert (point.chat_accuracy, point.chat_tokens) == pytest.approx((0.4, 10))
    assert (point.think_accuracy, point.think_tokens) == pytest.approx((0.8, 100))
    assert threshold_for_accuracy(chat, think, p, 0.6).threshold == pytest.approx(0.8)  # q2 alone
    nobody = threshold_for_accuracy(chat, think, p, 0.4)
    assert (nobody.threshold, nobody.share_think) == (NEVER_THINK, 0)


def test_where_thinking_is_the_shorter_route_as_many_think_as_the_accuracy_bears(tiny, tmp_path):
    both = {Mode.CHAT: ([1, 1, 1, 1, 0], 100), Mode.THINK: ([1, 1, 0, 0, 0], 10)}
    chat, think = (
        read_samples(
            write_evaluation(tmp_path / mode, mode, scores, base=tiny.base, data=tiny.data, tokens=tokens)
        )
        for mode, (scores, tokens) in both.items()
    )
    p = {"q0": 0.9, "q1": 0.8, "q2": 0.1, "q3": 0.3, "q4": 0.2}
    # q3 may be lost, and q4 is anyhow; were q2 to think too, 2 of 5 would be left.
    point = threshold_for_accuracy(chat, think, p, 0.6)
    assert (point.share_think, point.accuracy, point.mean_tokens) == pytest.approx((0.8, 0.6, 28))
    assert point.threshold == pytest.approx(0.15)
    point = threshold_for_accuracy(chat, think, p, 0.8)
    assert (point.share_think, point.accuracy, point.mean_tokens) == pytest.approx((0.4, 0.8, 64))


def test_what_can_not_be_reached_says_the_best(runs):
    chat, think = runs
    p = {"q0": 0.9, "q1": 0.2, "q2": 0.3, "q3": 0.4, "q4": 0.1}
    with pytest.raises(ConfigError, match=r"90.0% on these 5 questions: the best is 80.0%, with 60% of them"):
        threshold_for_accuracy(chat, think, p, 0.9)


@pytest.mark.parametrize("min_accuracy", [0.5, 0.6, 0.99])
def test_the_accuracy_to_expect_is_of_questions_that_had_no_say(tiny, tmp_path, min_accuracy):
    rng = random.Random(7)
    scores = {mode: [float(rng.random() < 0.5) for _ in range(40)] for mode in ("chat", "think")}
    runs = [
        read_samples(write_evaluation(tmp_path / mode, Mode(mode), of, base=tiny.base, data=tiny.data))
        for mode, of in scores.items()
    ]
    p = {f"q{n}": rng.random() for n in range(40)}

    def right(n, threshold):
        return scores["think" if p[f"q{n}"] >= threshold else "chat"][n]

    def chosen(numbers):
        """The highest of all cuts that is accurate enough on these questions, else the most accurate."""
        cuts = [0.0, *(p[f"q{n}"] for n in numbers), NEVER_THINK]
        shares = {cut: sum(right(n, cut) for n in numbers) / len(numbers) for cut in cuts}
        enough = [cut for cut, share in shares.items() if share >= min_accuracy]
        return max(enough or [cut for cut, share in shares.items() if share == max(shares.values())])

    order = sorted(p)
    random.Random(0).shuffle(order)
    first, second = ([int(id_[1:]) for id_ in order[start::2]] for start in (0, 1))
    others = {0: (first, second), 1: (second, first)}
    num_right = 0
    for own, other in others.values():
        cut = chosen(own)
        # As in the whole: in the middle between this question's probability and the next lower one.
        lower = [p[f"q{n}"] for n in own if p[f"q{n}"] < cut]
        middle = (cut + max(lower, default=0.0)) / 2 if 0 < cut < NEVER_THINK else cut
        num_right += sum(right(n, middle) for n in other)
    reachable = max(sum(right(n, cut) for n in range(40)) for cut in [0, *p.values(), NEVER_THINK]) / 40
    if reachable < min_accuracy:
        with pytest.raises(ConfigError, match="no threshold reaches"):
            threshold_for_accuracy(*runs, p, min_accuracy)
        return
    point = threshold_for_accuracy(*runs, p, min_accuracy)
    assert point.held_out_accuracy == pytest.approx(num_right / 40)
    assert point.held_out_ci95[0] < num_right / 40 < point.held_out_ci95[1]
    assert point.accuracy >= min_accuracy


def test_one_question_has_nobody_to_choose_for_it(runs):
    chat, think = ([row for row in route if row.id == "q2"] for route in runs)
    point = threshold_for_accuracy(chat, think, {"q2": 0.5}, 1.0)
    assert (point.accuracy, point.held_out_accuracy, point.held_out_ci95) == (1.0, None, None)


def test_probabilities_are_those_of_a_request(tiny, tmp_path):
    built = build(tmp_path / "b", Parts(base=tiny.base, adapter=tiny.adapter, heads=tiny.heads))
    texts = ["How many?", "x" * 300, "And why? " * 20, "y" * 600]
    requests = [Request(messages=(Message("user", text),)) for text in texts]
    told: list[tuple[int, int]] = []
    with load(built.folder, base=tiny.base) as model:
        said = probabilities(model, requests, lambda done, total: told.append((done, total)))
        asked = [model.ask(text, mode="auto", budget=48, max_tokens=48).p_think for text in texts[:3]]
        assert model.engine.used_cells == 0
        assert probabilities(model, requests, should_stop=lambda: True) is None
    assert said[:3] == asked
    assert said[3] is None  # more than the context of 512
    assert len({*asked}) == 3
    assert told == [(n, 4) for n in range(1, 5)]
