"""The budget reward: golden values, limits, monotony, and what its alternatives reward by mistake."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgereason.errors import ConfigError
from edgereason.train.grpo.reward import Outcome, RewardConfig, RewardKind, reward, soft_barrier

MARGINS = st.floats(0, 1)
FLOORS = st.floats(-1, 0.9)
LENGTHS = st.integers(0, 4000)


def right(thinking: int, answer: int = 0) -> Outcome:
    return Outcome(is_right=True, thinking_tokens=thinking, answer_tokens=answer)


def wrong(thinking: int, answer: int = 0) -> Outcome:
    return Outcome(is_right=False, thinking_tokens=thinking, answer_tokens=answer)


@pytest.mark.parametrize(
    ("num_tokens", "margin", "floor", "expected"),
    [
        # B = 400, m = 0.25: full up to 300, nothing beyond 500, half at 400.
        (0, 0.25, 0.0, 1.0),
        (300, 0.25, 0.0, 1.0),
        (350, 0.25, 0.0, 0.75),
        (400, 0.25, 0.0, 0.5),
        (500, 0.25, 0.0, 0.0),
        (501, 0.25, 0.0, 0.0),
        # A floor of 0.2: 1 − 0.8 · (400 − 300)/200 = 0.6 in the middle.
        (400, 0.25, 0.2, 0.6),
        (500, 0.25, 0.2, 0.2),
        (9999, 0.25, 0.2, 0.2),
        # A negative floor goes below nothing.
        (450, 0.25, -1.0, -0.5),
        # m = 0 is a step at B, m = 1 a slope from 0 to 2B.
        (400, 0.0, 0.0, 1.0),
        (401, 0.0, 0.0, 0.0),
        (200, 1.0, 0.0, 0.75),
        (800, 1.0, 0.0, 0.0),
    ],
)
def test_the_barrier_is_the_papers(num_tokens, margin, floor, expected):
    assert soft_barrier(num_tokens, 400, margin=margin, floor=floor) == pytest.approx(expected, abs=1e-12)


@given(LENGTHS, LENGTHS, st.integers(1, 2000), MARGINS, FLOORS)
def test_longer_is_never_worth_more_and_nothing_lies_outside(a, b, bucket, margin, floor):
    short, long = (soft_barrier(n, bucket, margin=margin, floor=floor) for n in sorted((a, b)))
    assert short >= long - 1e-12
    assert floor - 1e-12 <= long <= short <= 1 + 1e-12


@given(LENGTHS, st.integers(1, 2000), st.integers(1, 2000), MARGINS)
def test_a_larger_budget_is_never_worth_less(length, a, b, margin):
    tight, loose = (soft_barrier(length, bucket, margin=margin, floor=0.0) for bucket in sorted((a, b)))
    assert tight <= loose + 1e-12


@given(st.integers(1, 2000), st.floats(0.01, 1))
def test_the_barrier_has_no_step(bucket, margin):
    # Neighbouring lengths differ by the slope at the most: 1/(2mB) a token.
    values = [soft_barrier(n, bucket, margin=margin, floor=0.0) for n in range(2 * bucket + 2)]
    steepest = max(a - b for a, b in pairwise(values))
    assert steepest <= 1 / (2 * margin * bucket) + 1e-9


def test_nothing_beyond_the_most_is_worth_more_than_the_floor():
    config = RewardConfig(margin=0.25, floor=0.1)
    assert config.most_tokens(250) == 312  # 1.25 · 250 = 312.5
    # Where floats say 114.99… and 1,359.99….
    assert RewardConfig(margin=0.15).most_tokens(100) == 115
    assert RewardConfig(margin=0.36).most_tokens(1000) == 1360
    assert reward(right(312), 250, config) > 0.1
    assert reward(right(313), 250, config) == pytest.approx(0.1)


def test_a_response_is_drawn_as_far_as_it_can_be_worth_anything():
    assert RewardConfig().cap_tokens(250) == 312
    for config in (RewardConfig(floor=0.1), *(RewardConfig(kind=kind) for kind in ("additive", "thinking"))):
        assert config.cap_tokens(250) == 624  # or the floor, and the hack, could never be seen


def test_a_wrong_answer_is_worth_nothing_however_short():
    assert reward(wrong(1), 400, RewardConfig()) == 0.0
    assert reward(wrong(9999), 400, RewardConfig(floor=0.5)) == 0.0


def test_thinking_and_answer_count_alike():
    worth = {reward(right(t, 400 - t), 400, RewardConfig()) for t in (0, 100, 399, 400)}
    assert worth == {0.5}


def test_the_additive_penalty_charges_right_and_wrong_alike():
    config = RewardConfig(kind=RewardKind.ADDITIVE, weight=0.5)
    # B = 400, m = 0.25: R_budget is 1, ½ and 0 at 300, 400 and 600.
    assert [reward(right(n), 400, config) for n in (300, 400, 600)] == [1.0, 0.75, 0.5]
    assert [reward(wrong(n), 400, config) for n in (300, 400, 600)] == [0.0, -0.25, -0.5]


def test_the_additive_penalty_pays_for_being_short_and_wrong():
    # A question that takes 600 tokens, under a budget of 400: giving up is worth as much as solving it.
    additive = RewardConfig(kind=RewardKind.ADDITIVE)
    assert reward(wrong(10), 400, additive) >= reward(right(600), 400, additive)
    assert reward(wrong(10), 400, additive) > reward(wrong(600), 400, additive)
    # In the barrier brevity is worth nothing without a right answer.
    assert reward(wrong(10), 400, RewardConfig()) == reward(wrong(600), 400, RewardConfig())


def test_a_penalty_on_thinking_alone_is_blind_to_what_moves_behind_the_closing():
    # The hack: close at once, and think aloud in the answer.
    honest, hacked = right(500, 12), right(5, 507)
    thinking = RewardConfig(kind=RewardKind.THINKING)
    assert reward(hacked, 400, thinking) == 1.0 > reward(honest, 400, thinking)
    # What we count, and reward, is the total: nothing is gained.
    assert hacked.num_tokens == honest.num_tokens
    assert reward(hacked, 400, RewardConfig()) == reward(honest, 400, RewardConfig()) == 0.0


@pytest.mark.parametrize("settings", [{"margin": -0.1}, {"margin": 1.1}, {"floor": 1.0}, {"weight": -1.0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=r"\[reward\]"):
        RewardConfig(**settings)
