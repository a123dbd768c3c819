"""The budget machine, against its rules and against any model that one can think of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgereason.core.chat import ANSWER_PREFIX, CLOSING, Seams
from edgereason.core.types import Budget, Message, Mode, Request, Stop, reserve_tokens
from edgereason.errors import RequestError
from edgereason.reasoning.control import (
    ANSWER_TOKENS,
    ChatControl,
    Phase,
    ThinkControl,
    Verdict,
    bucket_for,
    reserve,
)

# As long as Qwen's: closing 3 ids, answer prefix 5, newline 1.
SEAMS = Seams(lambda text, *, special=False: [], (1, 2, 3), (4, 5, 6), (7,), (8, 9, 10, 11, 12), (13,))


def spend(control: ThinkControl, texts: list[str], then: str = "x") -> list[int]:
    """Feeds drawn tokens until the control ends; returns how many tokens each verdict added."""
    added, drawn = [], iter(texts)
    while True:
        text = next(drawn, then)
        verdict = control.on_token(text, is_end=text == "")
        added.append(int(verdict.keep) + len(verdict.forced_ids))
        if verdict.done:
            return added


def test_a_cut_inside_a_line_forces_newline_closing_and_answer_prefix_at_the_reserve() -> None:
    control = ThinkControl(SEAMS, 40)  # reserve 24: thinking ends at its 16th token
    for _ in range(15):
        assert control.on_token("a", is_end=False).forced_ids == ()
    verdict = control.on_token("a", is_end=False)
    assert verdict.keep
    assert verdict.forced_ids == (7, 4, 5, 6, 8, 9, 10, 11, 12)
    assert verdict.forced_text == "\n" + CLOSING + ANSWER_PREFIX
    assert (control.thinking_tokens, control.answer_tokens) == (20, 5)
    assert control.stop is Stop.BUDGET


def test_a_cut_at_the_end_of_a_line_needs_no_newline() -> None:
    control = ThinkControl(SEAMS, 40)
    verdicts = [control.on_token("a\n", is_end=False) for _ in range(16)]
    assert verdicts[-1].forced_ids == SEAMS.closing + SEAMS.answer_prefix


def test_a_cut_in_the_middle_of_a_character_counts_as_inside_a_line() -> None:
    control = ThinkControl(SEAMS, 40)
    for _ in range(15):
        control.on_token("a\n", is_end=False)
    verdict = control.on_token("", is_end=False, mid_character=True)
    assert verdict.forced_ids[:1] == SEAMS.newline


def test_a_closing_split_over_tokens_is_found() -> None:
    control = ThinkControl(SEAMS, 200)
    for text in ("4.", "\n", "</", "thi", "nk"):
        control.on_token(text, is_end=False)
        assert control.phase is Phase.THINKING
    control.on_token(">\n\n", is_end=False)
    assert control.phase is Phase.ANSWER
    assert (control.thinking_tokens, control.answer_tokens) == (6, 0)


def test_an_end_of_turn_while_thinking_owes_the_answer_and_is_no_cut() -> None:
    control = ThinkControl(SEAMS, 200)
    control.on_token("It is 4.", is_end=False)
    verdict = control.on_token("", is_end=True)
    assert not verdict.keep
    assert verdict.forced_ids == SEAMS.newline + SEAMS.closing + SEAMS.answer_prefix
    assert [piece.phase for piece in verdict.forced] == [Phase.THINKING, Phase.ANSWER]
    control.on_token("4", is_end=False)
    assert control.on_token("", is_end=True).done
    assert control.stop is Stop.NATURAL


def test_an_empty_answer_gets_the_answer_prefix_once() -> None:
    control = ThinkControl(SEAMS, 200)
    control.on_token("</think>\n\n", is_end=False)
    assert control.on_token("", is_end=True).forced_ids == SEAMS.answer_prefix
    assert control.on_token("", is_end=True).done


def test_an_answer_that_rambles_to_the_limit_is_made_to_conclude() -> None:
    control = ThinkControl(SEAMS, 100)
    control.on_token("</think>\n\n", is_end=False)
    forced_at = None
    for n in range(2, 101):
        verdict = control.on_token("so ", is_end=False)
        if verdict.forced:
            forced_at = n
            assert verdict.forced_text.endswith(ANSWER_PREFIX)
        if verdict.done:
            break
    # 100 − (newline 1 + answer prefix 5 + room 8) = 86 tokens before the answer prefix
    assert forced_at == 86
    assert control.thinking_tokens + control.answer_tokens == 100
    assert control.stop is Stop.BUDGET


def test_an_answer_that_has_concluded_is_left_alone() -> None:
    control = ThinkControl(SEAMS, 100)
    control.on_token("</think>\n\n", is_end=False)
    control.on_token("The answer is 4. ", is_end=False)
    forced = [control.on_token("so ", is_end=False).forced for _ in range(98)]
    assert not any(forced)


@given(
    limit=st.integers(32, 400),
    texts=st.lists(
        st.sampled_from(["a", "b\n", "", "</think>\n\n", "</", "think", ">", "answer is 3"]), max_size=500
    ),
)
def test_no_stream_overspends_and_every_cut_leaves_room_for_an_answer(limit: int, texts: list[str]) -> None:
    control = ThinkControl(SEAMS, limit)
    added = spend(control, texts)
    assert sum(added) == control.thinking_tokens + control.answer_tokens <= limit
    assert control.phase is Phase.ANSWER
    assert control.stop in (Stop.NATURAL, Stop.BUDGET)


@given(
    closing=st.integers(1, 12),
    answer_prefix=st.integers(1, 24),
    limit=st.integers(32, 300),
    texts=st.lists(st.sampled_from(["a", "", "</think>\n\n", "so "]), max_size=320),
)
def test_no_vocabulary_makes_a_stream_overspend(
    closing: int, answer_prefix: int, limit: int, texts: list[str]
) -> None:
    seams = Seams(SEAMS.tokenize, (1,), tuple(range(closing)), (7,), tuple(range(answer_prefix)), (13,))
    limit = max(limit, reserve(seams, limit) + ANSWER_TOKENS)
    assert sum(spend(ThinkControl(seams, limit), texts)) <= limit


@given(limit=st.integers(32, 2000))
def test_a_model_that_never_stops_thinking_still_gets_its_answer_tokens(limit: int) -> None:
    control = ThinkControl(SEAMS, limit)
    added = spend(control, [])
    assert sum(added) == limit
    assert control.answer_tokens - len(SEAMS.answer_prefix) >= ANSWER_TOKENS
    assert control.thinking_tokens >= 8
    assert control.stop is Stop.BUDGET


@pytest.mark.parametrize(
    ("limit", "held_back"), [(32, 24), (192, 24), (200, 25), (400, 50), (512, 64), (9000, 64)]
)
def test_the_reserve_is_an_eighth_between_24_and_64(limit: int, held_back: int) -> None:
    assert reserve_tokens(limit) == held_back


def test_a_vocabulary_with_long_seams_reserves_what_it_needs_and_names_its_minimum() -> None:
    wide = Seams(SEAMS.tokenize, (1,), tuple(range(10)), (7,), tuple(range(20)), (13,))
    assert reserve(wide, 32) == 10 + 1 + 20 + ANSWER_TOKENS
    with pytest.raises(RequestError, match="the minimum is 47"):
        ThinkControl(wide, 46)


@pytest.mark.parametrize("limit", [1, 16, 31])
def test_a_budget_below_the_minimum_is_refused_naming_it_unless_it_may_chat(limit: int) -> None:
    asked = (Message("user", "?"),)
    with pytest.raises(RequestError, match="minimum is 32, except in chat and auto"):
        Request(messages=asked, mode=Mode.THINK, budget=Budget(limit_tokens=limit))
    for mode in (Mode.CHAT, Mode.AUTO):
        Request(messages=asked, mode=mode, budget=Budget(limit_tokens=limit))
    Request(messages=asked, mode=Mode.THINK, budget=Budget(limit_tokens=32))


@pytest.mark.parametrize("limit", [0, -1])
def test_a_budget_of_nothing_is_refused(limit: int) -> None:
    with pytest.raises(RequestError, match="must be at least 1"):
        Budget(limit_tokens=limit)


def test_draws_to_learn_from_are_never_closed_by_force() -> None:
    control = ChatControl(6)
    verdicts = [control.on_token(text, is_end=False) for text in ("<think>", "a", "b", "c", "d")]
    assert all(verdict == Verdict(keep=True) for verdict in verdicts)
    assert control.on_token("", is_end=True) == Verdict(keep=False, done=True)
    assert control.stop is Stop.NATURAL


def test_chat_ends_at_its_limit_with_stop_length() -> None:
    control = ChatControl(3)
    assert [control.on_token("a", is_end=False).done for _ in range(3)] == [False, False, True]
    assert control.stop is Stop.LENGTH


@pytest.mark.parametrize(
    ("limit", "bucket"),
    [(100, 64), (80, 64), (79, 64), (160, 128), (159, 64), (1000, 512), (32, 64)],
)
def test_the_hint_is_the_largest_bucket_that_fits_with_its_margin(limit: int, bucket: int) -> None:
    assert bucket_for(limit, (64, 128, 512)) == bucket


def test_an_adapter_without_buckets_gets_no_hint() -> None:
    assert bucket_for(100, ()) is None
