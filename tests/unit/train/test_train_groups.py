"""Groups: what a response is worth, and what becomes of groups that tell nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import pvariance
from typing import Any

import pytest
from figures import update_figures
from hypothesis import given
from hypothesis import strategies as st

from edgereason.engine.scripted import END, ScriptedEngine
from edgereason.errors import TrainingError
from edgereason.train.grpo.groups import Group, GroupSampler, JudgedResponse, Problem, is_right, most_unlike
from edgereason.train.grpo.metrics import RolloutFigures, UpdateFigures, alarms
from edgereason.train.grpo.reward import Outcome, RewardConfig
from edgereason.train.grpo.rollout import Drawn, Vocabulary, Want

VOCABULARY = Vocabulary.of(ScriptedEngine())
OPENING = tuple(b"<think>\n")
HINTS = {64: tuple(b"Budget: 64 tokens.\n"), 128: tuple(b"Budget: 128 tokens.\n")}
RIGHT, WRONG = "2+2\n</think>\n\nThe final answer is 4.", "2+2\n</think>\n\nThe final answer is 5."


def problem(name: str = "p") -> Problem:
    return Problem(id=name, text="What is 2+2?", reference="4", prompt=tuple(name.encode()))


def drawn(text: str, *, is_whole: bool = True) -> Drawn:
    ids = (*text.encode(), END) if is_whole else tuple(text.encode())
    return Drawn(ids, (-1.0,) * len(ids), is_whole)


class Says:
    """A rollouts that says what it is told for a prompt, every sample the same words in turn."""

    def __init__(self, replies: dict[str, Sequence[Drawn]]) -> None:
        self._replies = replies
        self.wants: list[list[Want]] = []

    def __call__(self, wants: Sequence[Want]) -> list[list[Drawn]]:
        self.wants.append(list(wants))
        return [[self._replies[bytes(want.prompt).decode()][i] for i in range(want.count)] for want in wants]


def sampler(names: str, *, redraws: int = 2, **more: object) -> GroupSampler:
    return GroupSampler(
        problems={name: problem(name) for name in names},
        opening=OPENING,
        hints=HINTS,
        vocabulary=VOCABULARY,
        rewards=RewardConfig(),
        count=2,
        redraws=redraws,
        **more,  # type: ignore[arg-type]
    )


MIXED, DULL = (drawn(RIGHT), drawn(WRONG)), (drawn(WRONG), drawn(WRONG))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RIGHT, True),
        (WRONG, False),
        ("It is 4.\n</think>\n\nThe final answer is 4.00.", True),
        ("The final answer is 4.", False),  # never closed: it has not answered
        ("4\n</think>\n\n", False),
    ],
)
def test_right_is_what_closes_its_thinking_and_then_answers_right(text: str, expected: bool) -> None:
    assert is_right(problem(), text) is expected


def test_a_response_is_judged_counted_and_rewarded() -> None:
    (group,) = sampler("a").sample(["a"], 0, Says({"a": MIXED})).kept
    right, wrong = group.responses
    thinking = len("2+2\n</think>")
    assert right.outcome == Outcome(
        is_right=True, thinking_tokens=thinking, answer_tokens=len(RIGHT) - thinking
    )
    # 36 tokens: within ¾ of either bucket.
    assert (right.reward, wrong.reward, group.has_spread) == (1.0, 0.0, True)


def test_a_response_that_was_cut_is_wrong_whatever_it_says() -> None:
    cut = drawn(RIGHT, is_whole=False)
    (group,) = sampler("a").sample(["a"], 0, Says({"a": (drawn(RIGHT), cut)})).kept
    assert [one.outcome.is_right for one in group.responses] == [True, False]


def test_a_group_draws_under_one_budget_to_the_cap_that_it_names() -> None:
    rollouts = Says(dict.fromkeys("abcdefgh", MIXED))
    groups = sampler("abcdefgh").sample(list("abcdefgh"), 0, rollouts).kept
    for group, want in zip(groups, rollouts.wants[0], strict=True):
        assert want.forced == group.forced == OPENING + HINTS[group.bucket]
        assert want.cap_tokens == {64: 80, 128: 160}[group.bucket]  # (1 + ¼)B
        assert want.count == 2
    assert {group.bucket for group in groups} == {64, 128}
    assert len({want.seed for want in rollouts.wants[0]}) == 8


def test_the_same_step_deals_the_same_and_another_deals_otherwise() -> None:
    def wants(step: int) -> list[Want]:
        rollouts = Says(dict.fromkeys("abcd", MIXED))
        sampler("abcd").sample(list("abcd"), step, rollouts)
        return rollouts.wants[0]

    assert wants(3) == wants(3)
    assert wants(3) != wants(4)


def test_what_a_problem_gets_does_not_depend_on_its_company() -> None:
    # So that several processes draw what one would have drawn.
    rollouts = Says(dict.fromkeys("abcd", MIXED))
    deal = sampler("abcd")
    whole = deal.sample(list("abcd"), 3, rollouts).kept
    halves = [*deal.sample(["a", "b"], 3, rollouts).kept, *deal.sample(["c", "d"], 3, rollouts).kept]
    assert whole == tuple(halves)
    # But what replaces dull groups does: two processes must not draw the same.
    names = "abcdefghijklmnopqrst"
    dull = Says(dict.fromkeys(names, DULL))
    for ids in (["a"], ["b"]):
        sampler(names, redraws=1).sample(ids, 0, dull)
    replaced = [bytes(wants[0].prompt) for wants in dull.wants[1::2]]
    assert replaced[0] != replaced[1]


def test_a_response_that_ends_beyond_the_budget_is_whole_and_not_within() -> None:
    long = drawn("so " * 40 + RIGHT)  # of 155 tokens, the end of turn not counted
    deal = GroupSampler(
        problems={"a": problem("a")},
        opening=OPENING,
        hints={64: HINTS[64]},
        vocabulary=VOCABULARY,
        rewards=RewardConfig(floor=0.2),
        count=2,
        redraws=0,
    )
    (group,) = deal.sample(["a"], 0, Says({"a": (drawn(RIGHT), long)})).kept
    assert [one.is_within for one in group.responses] == [True, False]
    assert [one.reward for one in group.responses] == [1.0, 0.2]


def test_groups_without_spread_are_replaced_by_other_problems() -> None:
    rollouts = Says({"a": MIXED, "b": DULL, "c": DULL, "d": MIXED, "e": MIXED})
    groups = sampler("abcde", redraws=9).sample(["a", "b"], 0, rollouts)
    kept = [group.problem.id for group in groups.kept]
    assert len(kept) == 2
    assert kept[0] == "a"
    assert kept[1] in "de"
    assert all(not group.has_spread for group in groups.dropped)
    # No problem twice.
    drawn_ids = [group.problem.id for group in groups.drawn]
    assert len(drawn_ids) == len(set(drawn_ids)) == len(groups.kept) + len(groups.dropped)


def test_every_other_problem_has_its_turn_before_one_comes_again() -> None:
    for step in range(20):
        rollouts = Says(dict.fromkeys("abc", DULL))
        sampler("abc", redraws=1).sample(["a", "b"], step, rollouts)
        again = [bytes(want.prompt).decode() for want in rollouts.wants[1]]
        assert again[0] == "c"
        assert again[1] in "ab"


def test_replacing_is_bounded_and_the_update_keeps_its_size() -> None:
    rollouts = Says({"a": MIXED, "b": DULL, "c": DULL, "d": DULL})
    groups = sampler("abcd", redraws=1).sample(["a", "b"], 0, rollouts)
    assert len(rollouts.wants) == 2
    assert [group.has_spread for group in groups.kept] == [True, False]
    assert len(groups.dropped) == 2
    assert len(groups.drawn) == 3  # the last one is both kept and dropped


def test_a_reward_that_raises_names_the_response_and_is_no_zero() -> None:
    def judge(asked: Problem, text: str) -> bool:
        if asked.id == "b":
            raise ZeroDivisionError("by the grader")
        return True

    with pytest.raises(TrainingError, match=r"response to b .*by the grader.*final answer is 4"):
        sampler("ab", judge=judge).sample(["a", "b"], 0, Says({"a": MIXED, "b": MIXED}))


# ── figures ──────────────────────────────────────────────────────────────────────────────────────


def response(tokens: int, *, is_right: bool, reward: float, is_whole: bool = True) -> JudgedResponse:
    outcome = Outcome(is_right=is_right, thinking_tokens=tokens - 5, answer_tokens=5)
    drawn = Drawn((0,) * tokens, (0.0,) * tokens, is_whole)
    return JudgedResponse(drawn=drawn, outcome=outcome, reward=reward, is_within=is_whole)


def test_figures_are_of_every_group_that_was_drawn() -> None:
    deal = sampler("abc", redraws=0).sample(["a", "b"], 0, Says({"a": MIXED, "b": DULL}))
    figures = RolloutFigures.of(deal, seconds=2.0)
    assert (figures.groups, figures.dropped) == (2, 1)
    assert figures.accuracy == 0.25
    assert figures.reward == 0.25
    assert figures.mean_tokens == len(RIGHT) == len(WRONG)
    assert figures.share_within == 1.0
    assert figures.tokens_per_s == 4 * (len(RIGHT) + 1) / 2.0
    by_bucket = {
        group.bucket: [
            one.outcome.is_right
            for other in deal.drawn
            if other.bucket == group.bucket
            for one in other.responses
        ]
        for group in deal.drawn
    }
    assert figures.accuracy_by_bucket == {b: sum(right) / len(right) for b, right in by_bucket.items()}
    assert figures.tokens_by_bucket == dict.fromkeys(by_bucket, len(RIGHT))


def test_a_steady_run_raises_no_alarm() -> None:
    assert alarms([]) == []
    assert alarms([update_figures(n) for n in range(20)]) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kl": 3.0}, "KL is 3.00"),
        ({"tokens_by_bucket": {64: 40.0, 128: 42.0}}, "uses only 1.05 × the tokens of the shortest"),
        ({"mismatch": 0.5}, "engine and torch differ by 0.500"),
        ({"mean_tokens": 3.0}, "responses have 3 tokens"),
        ({"dropped": 4}, "no group has any spread"),
        ({"accuracy": 0.1}, "the accuracy fell from 0.500 to 0.100"),
        ({"entropy": 0.1}, "the entropy fell from 0.600 to 0.100"),
    ],
)
def test_a_collapse_raises_one(changes: dict[str, Any], says: str) -> None:
    steady = [update_figures(n) for n in range(10)]
    (found,) = alarms(steady + [update_figures(n, **changes) for n in range(10, 15)])
    assert says in found


def test_a_run_that_did_collapse_would_have_set_off_alarms_half_way() -> None:
    metrics = Path(__file__).parents[3] / "results/budget/first/metrics.jsonl"
    noted = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
    updates = [UpdateFigures.from_json({"seconds": 85.0} | line) for line in noted]  # it had no clock yet
    first: dict[str, int] = {}
    for step in range(1, len(updates) + 1):
        for alarm in alarms(updates[:step]):
            first.setdefault(" ".join(alarm.split()[:2]), step)
    assert first == {"the entropy": 28, "the KL": 35, "the longest": 46}


def test_one_odd_update_is_no_collapse() -> None:
    steady = [update_figures(n) for n in range(14)]
    assert alarms([*steady, update_figures(14, accuracy=0.1, entropy=0.1)]) == []


def test_a_group_has_spread_where_one_response_is_worth_more() -> None:
    def group(*rewards: float) -> Group:
        responses = tuple(response(20, is_right=True, reward=one) for one in rewards)
        return Group(problem=problem(), bucket=64, forced=OPENING, responses=responses, learned=responses)

    assert not group(0.5, 0.5).has_spread
    assert group(0.5, 0.5, 0.4).has_spread


# ── which responses are learned from ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize("count", [1, 2, 5, 7])
@given(rewards=st.lists(st.sampled_from([0.0, 0.2, 0.7, 1.0]), min_size=7, max_size=7))
def test_no_other_choice_has_a_greater_variance_of_rewards(count: int, rewards: list[float]) -> None:
    responses = [response(20, is_right=True, reward=one) for one in rewards]
    chosen = most_unlike(responses, count)
    found = pvariance(one.reward for one in chosen)
    assert len({id(one) for one in chosen}) == count
    assert found == pytest.approx(max(map(pvariance, combinations(rewards, count))))


def test_more_are_drawn_than_are_learned_from_and_the_only_right_one_is_among_them() -> None:
    wrong, right = drawn(WRONG), drawn(RIGHT)
    says = Says({"a": (wrong, wrong, wrong, right, wrong, wrong)})
    (group,) = replace(sampler("a", learned=3), count=6).sample(["a"], 0, says).kept
    assert len(group.responses) == 6
    assert [one.outcome.is_right for one in group.learned] == [False, False, True]


def test_where_all_are_learned_from_they_stay_in_their_order() -> None:
    (group,) = sampler("a").sample(["a"], 0, Says({"a": MIXED})).kept
    assert group.learned == group.responses
