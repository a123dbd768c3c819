"""Seconds told in steps: what is seen, what is put together from it, and streams that end in time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgereason.core.chat import Seams
from edgereason.core.types import Budget, Stop, Timing
from edgereason.errors import RequestError
from edgereason.reasoning.control import ANSWER_TOKENS, ChatControl, Phase, ThinkControl
from edgereason.reasoning.pace import Deadline, Pace

# As long as Qwen's: closing 3 ids, stub 5, newline 1.
SEAMS = Seams(lambda text, *, special=False: [], (1, 2, 3), (4, 5, 6), (7,), (8, 9, 10, 11, 12), (13,))


class Clock:
    """A clock that stands until it is told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def pace_of(**steps: float) -> Pace:
    """A pace that has seen a step of `n4=0.1` seconds, and so on."""
    pace = Pace(weights_bytes=1)
    for name, seconds in steps.items():
        pace.note_step(int(name[1:]), seconds)
    return pace


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("400", Budget(limit_tokens=400)),
        ("5s", Budget(limit_s=5.0)),
        (" 0.5 s ", Budget(limit_s=0.5)),
    ],
)
def test_a_budget_is_tokens_or_seconds(text: str, budget: Budget) -> None:
    assert Budget.parse(text) == budget


@pytest.mark.parametrize("text", ["", "s", "5m", "-5s", "4.5", "five", "1e3", "0s", "4000s", "0", "٤٠٠"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="budget"):
        Budget.parse(text)


def test_a_step_takes_the_median_of_the_last_eight() -> None:
    pace = Pace(weights_bytes=1)
    for seconds in (*[9.0] * 8, 0.1, 5.0, 0.1, 0.1, 0.2, 0.3, 0.3, 0.3):
        pace.note_step(2, seconds)
    assert pace.step_s(2) == pytest.approx(0.25)  # 0.1 0.1 0.1 0.2 | 0.3 0.3 0.3 5.0


def test_more_streams_than_seen_cost_in_proportion_at_most_and_fewer_as_much_at_most() -> None:
    pace = pace_of(n2=0.1, n8=0.3)
    assert pace.step_s(4) == pytest.approx(0.2)  # from 2 streams: 0.1 × 4 ÷ 2
    assert pace.step_s(1) == pytest.approx(0.1)
    assert pace.step_s(16) == pytest.approx(0.6)


def test_before_anything_was_seen_a_step_reads_the_weights_at_50_gigabytes_a_second() -> None:
    pace = Pace(weights_bytes=500_000_000)
    assert pace.step_s(4) == pytest.approx(0.01)
    assert pace.encode_s(100) == 0.0
    assert pace.most_steps(4, 2.0) == 201
    assert pace.least_s(4, 100, 10) == 0.0


def test_cells_are_set_aside_for_steps_that_get_four_times_as_fast() -> None:
    assert pace_of(n2=0.5).most_steps(8, 3.0) == 25  # 3 s ÷ (0.5 s ÷ 4), and one


def test_what_a_request_takes_at_the_least_is_its_prompt_and_its_steps() -> None:
    pace = pace_of(n2=0.1)
    pace.note_encoding(100, 1.0)
    assert pace.least_s(4, 50, 20) == pytest.approx(0.5 + 2.0)
    assert pace.least_s(1, 50, 20) == pytest.approx(0.5)  # one stream may be faster than two: nobody knows


def test_a_deadline_leaves_room_to_verify_every_stream_and_for_what_is_forced() -> None:
    clock, pace = Clock(), pace_of(n4=0.125)
    pace.note_encoding(64, 1.0)
    deadline = Deadline(5.0, pace, num_streams=4, verifying_tokens=16, clock=clock)
    assert deadline.left_steps() == 32  # (5 − 4 × 16 ÷ 64) ÷ 0.125
    assert deadline.left_steps(8) == 28  # 4 × 8 ÷ 64 = 0.5 s less
    clock.now_s = 4.95
    assert deadline.left_steps() == 0


def test_as_many_streams_are_closed_as_there_is_time_for() -> None:
    clock, pace = Clock(), pace_of(n2=0.08, n4=0.1)
    pace.note_encoding(64, 1.28)  # 0.02 s a token
    deadline = Deadline(10.0, pace, num_streams=4, clock=clock)
    # Each forces 10 tokens, 0.2 s, and says 5 in steps of 0.1 s (four, three) or 0.08 s (two and below).
    expected = [(1.31, 4), (1.29, 3), (1.11, 3), (1.09, 2), (0.81, 2), (0.79, 1), (0.61, 1), (0.59, 0)]
    for left_s, closed in expected:
        clock.now_s = 10.0 - left_s
        assert deadline.most_closings(4, 10, 5) == closed, left_s


def test_streams_that_answer_already_cost_their_verification_and_their_part_of_a_step() -> None:
    clock, pace = Clock(), pace_of(n2=0.08, n4=0.1)
    pace.note_encoding(64, 1.28)
    deadline = Deadline(10.0, pace, num_streams=4, verifying_tokens=5, clock=clock)
    # Two that think beside two that answer: 2 × 0.2 s forced, 4 × 0.1 s verified, 5 × 0.1 s said: 1.3 s.
    # One of them: 0.2 + 0.3 + 0.5 s, three streams cost a step of four at the most: 1.0 s.
    for left_s, closed in [(1.31, 2), (1.29, 1), (1.01, 1), (0.99, 0)]:
        clock.now_s = 10.0 - left_s
        assert deadline.most_closings(2, 10, 5) == closed, left_s


def timed(limit_s: float, step_s: float, num_streams: int = 1) -> tuple[Clock, Deadline]:
    clock, pace = Clock(), pace_of(**{f"n{num_streams}": step_s})
    return clock, Deadline(limit_s, pace, num_streams=num_streams, clock=clock)


def spend(control: ThinkControl | ChatControl, clock: Clock, step_s: float, text: str = "x") -> int:
    """Draws a token a step until the control ends; what is forced takes no time of its own."""
    for drawn in range(1, 10_000):
        clock.now_s += step_s
        if control.on_token(text, is_end=False).done:
            return drawn
    raise AssertionError("it never ends")


@given(limit_s=st.floats(2.0, 30.0), step_s=st.floats(0.005, 0.05))
def test_a_thinking_stream_ends_in_time_with_an_answer(limit_s: float, step_s: float) -> None:
    clock, deadline = timed(limit_s, step_s)
    control = ThinkControl(SEAMS, 4096, deadline=deadline)
    spend(control, clock, step_s)
    assert clock.now_s <= limit_s
    assert control.stop is Stop.BUDGET
    assert control.answer_tokens >= len(SEAMS.answer_prefix) + ANSWER_TOKENS
    # It used its time, unless the tokens ran out first: at most a few steps are left.
    assert clock.now_s > limit_s - 3 * step_s or control.thinking_tokens > 4000


def test_steps_that_slow_down_still_end_in_time() -> None:
    clock, pace = Clock(), pace_of(n1=0.01)
    control = ThinkControl(SEAMS, 4096, deadline=Deadline(5.0, pace, num_streams=1, clock=clock))
    for drawn in range(1000):
        step_s = 0.01 + 0.0005 * drawn
        clock.now_s += step_s
        pace.note_step(1, step_s)
        if control.on_token("x", is_end=False).done:
            break
    assert control.phase is Phase.ANSWER
    assert control.answer_tokens > len(SEAMS.answer_prefix) + ANSWER_TOKENS
    assert clock.now_s <= 5.0


def test_time_that_is_gone_ends_thinking_at_the_first_token() -> None:
    clock, deadline = timed(1.0, 0.1)
    clock.now_s = 0.95
    control = ThinkControl(SEAMS, 4096, deadline=deadline)
    verdict = control.on_token("x", is_end=False)
    assert verdict.forced_ids == (7, 4, 5, 6, 8, 9, 10, 11, 12)
    assert control.stop is Stop.BUDGET


def test_what_runs_out_first_is_the_cause() -> None:
    clock, deadline = timed(10.0, 0.1)
    chat = ChatControl(20, Stop.LENGTH, deadline)
    assert spend(chat, clock, 0.1) == 20
    assert chat.stop is Stop.LENGTH
    clock, deadline = timed(1.0, 0.125)
    chat = ChatControl(20, Stop.LENGTH, deadline)
    assert spend(chat, clock, 0.125) == 8
    assert chat.stop is Stop.BUDGET


def test_an_overshoot_is_told_only_of_a_budget_in_seconds() -> None:
    assert Timing(ttft_s=0.1, total_s=5.5, tokens_per_s=1.0, budget_s=5.0).overshoot_s == pytest.approx(0.5)
    assert Timing(ttft_s=0.1, total_s=4.5, tokens_per_s=1.0, budget_s=5.0).overshoot_s == 0.0
    assert Timing(ttft_s=0.1, total_s=5.5, tokens_per_s=1.0).overshoot_s is None
