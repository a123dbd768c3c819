"""Requests with a budget in seconds, on an engine whose every token takes its time on a scripted clock."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from edgereason.core.answers import canonical, same
from edgereason.core.types import Budget, Message, Mode, Request, Response, Route, Stop
from edgereason.engine.base import Feed, Sampled
from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import RequestError
from edgereason.reasoning.batch import Batch
from edgereason.reasoning.events import Answered, Event
from edgereason.reasoning.pipeline import Pipeline
from edgereason.reasoning.runs import Caller, drive, drive_many

ENDLESS = "hm " * 5000 + "\n</think>\n\nThe final answer is 6."
STEP_S, PREFILL_S = 0.05, 0.005
"""What a step takes beside 0.01 s a stream, and what a token takes that is encoded."""


class SlowEngine(ScriptedEngine):
    """Takes its time, on its own clock."""

    now_s = 0.0
    slowdown = 1.0

    def clock(self) -> float:
        return self.now_s

    def encode(self, sequence, tokens, **more) -> bool:
        self.now_s += self.slowdown * PREFILL_S * len(tokens)
        return super().encode(sequence, tokens, **more)

    def step(self, feeds: Iterable[Feed]) -> list[Sampled]:
        feeds = list(feeds)
        forced = sum(len(feed.tokens) for feed in feeds) - len(feeds)
        self.now_s += self.slowdown * (STEP_S + 0.01 * len(feeds) + PREFILL_S * forced)
        return super().step(feeds)

    def states(self, feeds):
        feeds = list(feeds)
        self.now_s += self.slowdown * PREFILL_S * sum(len(tokens) for _, tokens in feeds)
        return super().states(feeds)


class HalfSure:
    """A verifier with a long prompt."""

    layers = ()
    prompt_ids = tuple(range(65, 95))

    def score(self, states: np.ndarray) -> np.ndarray:
        return np.full(len(states), 0.5, np.float32)


def request(limit_s: float, **options: object) -> Request:
    options.setdefault("mode", Mode.THINK)
    return Request(messages=(Message("user", "What is 2+2?"),), budget=Budget(limit_s=limit_s), **options)  # type: ignore[arg-type]


def events_of(pipeline: Pipeline, engine: SlowEngine, asked: Request) -> list[Event]:
    batch = Batch(engine)
    return list(drive(pipeline.run(asked, batch), batch))


def ask(pipeline: Pipeline, engine: SlowEngine, asked: Request) -> Response:
    last = events_of(pipeline, engine, asked)[-1]
    assert isinstance(last, Answered)
    return last.response


@pytest.mark.parametrize("limit_s", [3.0, 6.0, 12.0])
@pytest.mark.parametrize(
    ("streams", "verifier"), [(1, None), (4, None), (8, None), (1, HalfSure()), (8, HalfSure())]
)
def test_every_response_ends_in_time_with_an_answer(limit_s, streams, verifier) -> None:
    engine = SlowEngine([ENDLESS])
    pipeline = Pipeline(engine, verifier=verifier, clock=engine.clock)
    for _ in range(3):  # the first knows nothing of the machine yet
        response = ask(pipeline, engine, request(limit_s, streams=streams))
        assert response.timing.total_s <= 1.1 * limit_s
        assert response.timing.budget_s == limit_s
        assert response.answer == "6"
        finished = [c for c in response.candidates if c.trace.stop is not Stop.CANCELLED]
        assert all(candidate.answer == "6" for candidate in finished)
        # 8 closings, 8 verifications and 4 tokens of an answer take about 3 s.
        is_tight = streams == 8 and verifier is not None and limit_s == 3.0
        assert len(finished) == streams or (is_tight and len(finished) > 1)
        assert response.stop is Stop.BUDGET
    # What it spends is what it may, not a fraction of it; here a stub is 20 tokens, and not every step is
    # worth beginning.
    assert response.timing.total_s > 0.7 * limit_s


def test_a_machine_that_slows_down_in_the_middle_still_answers_in_time() -> None:
    engine = SlowEngine([ENDLESS])
    pipeline = Pipeline(engine, clock=engine.clock)
    ask(pipeline, engine, request(6.0))
    batch, start_s = Batch(engine), engine.now_s
    event = None
    for event in drive(pipeline.run(request(6.0), batch), batch):  # noqa: B007
        engine.slowdown = 3.0 if engine.now_s - start_s > 2.0 else 1.0
    assert isinstance(event, Answered)
    assert event.response.timing.total_s <= 6.6
    assert event.response.answer == "6"


def test_a_stream_that_ends_by_itself_is_not_held_up() -> None:
    engine = SlowEngine(["2+2 is 4.\n</think>\n\nThe final answer is 4."])
    response = ask(Pipeline(engine, clock=engine.clock), engine, request(12.0))
    assert response.stop is Stop.NATURAL
    assert response.timing.total_s < 6.0
    assert response.timing.overshoot_s == 0.0


def test_chat_ends_in_time_too() -> None:
    engine = SlowEngine(["so " * 4000])
    response = ask(Pipeline(engine, clock=engine.clock), engine, request(3.0, mode=Mode.CHAT))
    assert response.route is Route.CHAT
    assert response.stop is Stop.BUDGET
    assert 2.5 < response.timing.total_s <= 3.3


def test_the_hint_is_the_largest_that_there_is_time_for() -> None:
    def hints(limit_s: float) -> list[int]:
        engine = SlowEngine([ENDLESS])
        adapter = engine.load_adapter(Path("reasoning.gguf"))
        pipeline = Pipeline(engine, adapter=adapter, buckets=(32, 64, 1024), clock=engine.clock)
        for _ in range(2):
            engine.decoded.clear()
            ask(pipeline, engine, request(limit_s))
        return engine.decoded[1:3]

    # Opening and hint are encoded apart: what the opening took is part of what is left.
    opening = len("<think>\n")
    assert hints(3.0) == [opening, len("Budget: 32 tokens.\n")]  # 3 s ÷ 0.06 s: about 45 tokens
    assert hints(6.0) == [opening, len("Budget: 64 tokens.\n")]  # about 95
    assert hints(200.0) == [opening, len("Budget: 1024 tokens.\n")]


def test_tokens_and_seconds_together_end_at_what_runs_out_first() -> None:
    engine = SlowEngine([ENDLESS])
    pipeline = Pipeline(engine, clock=engine.clock)
    both = Request(
        messages=(Message("user", "?"),), mode=Mode.THINK, budget=Budget(limit_tokens=60, limit_s=60.0)
    )
    response = ask(pipeline, engine, both)
    assert response.usage.thinking_tokens == 60 - 39 + len("\n</think>\n\n")  # 39: what the seams need, and 8
    assert response.timing.total_s < 10.0


def test_a_budget_that_nothing_fits_into_is_refused_once_the_machine_is_known() -> None:
    engine = SlowEngine([ENDLESS])
    pipeline = Pipeline(engine, clock=engine.clock)
    late = ask(pipeline, engine, request(0.2))
    assert late.answer == "6"
    assert late.timing.overshoot_s is not None and late.timing.overshoot_s > 0  # told, not hidden
    ask(pipeline, engine, request(3.0))
    with pytest.raises(RequestError, match=r"a budget of 0\.2 s is too short"):
        ask(pipeline, engine, request(0.2))
    assert engine.live_sequences == 0


def test_a_slow_prefill_does_not_shut_out_what_comes_after_it() -> None:
    engine = SlowEngine([ENDLESS])
    pipeline = Pipeline(engine, clock=engine.clock)
    ask(pipeline, engine, request(3.0))
    engine.slowdown = 100.0
    ask(pipeline, engine, request(3.0))
    engine.slowdown = 1.0
    for _ in range(10):
        response = ask(pipeline, engine, request(3.0))
        assert response.answer == "6"
        assert response.timing.total_s <= 3.3


def test_requests_that_ran_side_by_side_say_nothing_of_one_alone() -> None:
    engine = SlowEngine([ENDLESS])
    pipeline = Pipeline(engine, clock=engine.clock)
    ask(pipeline, engine, request(12.0))
    before = ask(pipeline, engine, request(12.0)).usage.all_streams_tokens
    batch = Batch(engine)
    many = Request(messages=(Message("user", "?"),), mode=Mode.THINK, budget=Budget(limit_tokens=100))
    for _ in drive_many([lambda: pipeline.run(many, batch)] * 16, batch, max_running=16):
        pass
    assert ask(pipeline, engine, request(12.0)).usage.all_streams_tokens >= before - 2


def test_streams_that_end_do_not_end_the_others() -> None:
    engine = SlowEngine([ENDLESS, ENDLESS, ENDLESS, "4.\n</think>\n\nThe final answer is 4."])
    pipeline = Pipeline(engine, clock=engine.clock)
    engine.slowdown = 4.0
    ask(pipeline, engine, request(12.0, streams=3))  # steps of three streams are slow, as far as anyone knows
    engine.slowdown = 1.0
    response = ask(pipeline, engine, request(12.0, streams=4))
    assert response.timing.total_s > 10.0


def test_several_streams_share_a_context_of_fixed_size() -> None:
    engine = SlowEngine([ENDLESS], context_tokens=2048)
    pipeline = Pipeline(engine, clock=engine.clock)
    response = ask(pipeline, engine, request(5.0, streams=4))
    assert len(response.candidates) == 4
    assert response.timing.total_s <= 5.5


def test_seconds_count_from_acceptance() -> None:
    engine = SlowEngine([ENDLESS])
    pipeline = Pipeline(engine, clock=engine.clock)
    ask(pipeline, engine, request(6.0))
    batch, accepted_s = Batch(engine), engine.now_s
    engine.now_s += 2.0  # it waited for others
    *_, last = drive(pipeline.run(request(6.0), batch, Caller(accepted_s=accepted_s)), batch)
    assert isinstance(last, Answered)
    assert engine.now_s - accepted_s <= 6.6
    assert last.response.timing.total_s == pytest.approx(engine.now_s - accepted_s)


def late(streams: int, slow_at_s: float, **options: object) -> tuple[Response, SlowEngine]:
    """A response with 6 s, whose machine is taken away by others for 6 s in the middle of one step."""
    engine = SlowEngine([ENDLESS])
    pipeline = Pipeline(engine, clock=engine.clock)
    ask(pipeline, engine, request(6.0, streams=streams))
    batch, start_s, is_taken = Batch(engine), engine.now_s, False
    event = None
    for event in drive(pipeline.run(request(6.0, streams=streams, **options), batch), batch):  # noqa: B007
        if not is_taken and engine.now_s - start_s > slow_at_s:
            is_taken = True
            engine.now_s += 6.0
    assert isinstance(event, Answered)
    return event.response, engine


@pytest.mark.parametrize("streams", [1, 2, 4, 8])
@pytest.mark.parametrize("slow_at_s", [0.5, 1.5, 3.0])
def test_when_the_time_is_over_one_stream_is_kept_and_answers(streams: int, slow_at_s: float) -> None:
    response, engine = late(streams, slow_at_s)
    stops = [candidate.trace.stop for candidate in response.candidates]
    assert stops.count(Stop.CANCELLED) == streams - 1
    assert stops.count(Stop.BUDGET) == 1
    assert response.answer == "6"
    assert response.stop is Stop.BUDGET
    assert engine.used_cells == 0
    # What was taken away, and the forced end and the answer of one stream, whatever their number was.
    alone, _ = late(1, slow_at_s)
    assert response.timing.total_s < alone.timing.total_s + 0.5


def test_when_the_time_is_over_nobody_waits_beside_an_answer() -> None:
    class OneFast(SlowEngine):
        """Once its first stream has ended, others take the machine away for a minute."""

        is_taken = False
        widest = 0

        def step(self, feeds: Iterable[Feed]) -> list[Sampled]:
            feeds = list(feeds)
            drawn = super().step(feeds)
            if not self.is_taken and len(feeds) < self.widest:
                self.now_s, self.is_taken = self.now_s + 60.0, True
            self.widest = max(self.widest, len(feeds))
            return drawn

    engine = OneFast(["2+2 is 4.\n</think>\n\nThe final answer is 4.", ENDLESS])
    response = ask(Pipeline(engine, clock=engine.clock), engine, request(30.0, streams=2))
    assert (response.answer, response.winner, response.stop) == ("4", 0, Stop.NATURAL)
    assert [candidate.trace.stop for candidate in response.candidates] == [Stop.NATURAL, Stop.CANCELLED]
    assert response.timing.total_s < 70.0
    assert engine.used_cells == 0


@pytest.mark.parametrize("verifier", [None, HalfSure()])
@pytest.mark.parametrize("streams", [2, 4, 8])
@pytest.mark.parametrize("slowdown", [1.0, 1.4, 2.0])
def test_streams_whose_closings_do_not_fit_are_given_up_before_the_time_is_over(
    streams: int, slowdown: float, verifier: HalfSure | None
) -> None:
    engine = SlowEngine([ENDLESS])
    pipeline = Pipeline(engine, verifier=verifier, clock=engine.clock)
    ask(pipeline, engine, request(20.0, streams=1))
    ask(pipeline, engine, request(20.0, streams=streams))
    engine.slowdown = slowdown
    for _ in range(5):
        ask(pipeline, engine, request(20.0, streams=streams))
    # What one stream takes from here: its prompt, its closing, a step for each of 4 tokens of an answer, its
    # verification. A closing and an answer prefix are 31 tokens here.
    prompt_tokens = len(pipeline.prompt(request(20.0)))
    opened = len("<think>\nLet me work this out step by step.\n")
    verified = len(verifier.prompt_ids) if verifier else 0
    forced_s = slowdown * PREFILL_S * 31
    alone_s = slowdown * (PREFILL_S * (prompt_tokens + opened + verified) + 4.5 * (STEP_S + 0.01 * streams))
    limit_s = alone_s + 1.5 * forced_s
    response = ask(pipeline, engine, request(limit_s, streams=streams))
    stops = [candidate.trace.stop for candidate in response.candidates]
    assert set(stops) == {Stop.BUDGET, Stop.CANCELLED}
    assert response.stop is Stop.BUDGET
    assert response.answer == "6"
    assert response.timing.total_s <= limit_s
    given_up = stops.count(Stop.CANCELLED)
    assert response.notices[-1] == (
        f"there was not enough time for all {streams} streams to answer, so {given_up} of them ended "
        "without an answer"
    )
    assert engine.used_cells == 0


def test_where_all_closings_fit_no_stream_is_given_up_and_nothing_is_said_of_it() -> None:
    engine = SlowEngine([ENDLESS])
    pipeline = Pipeline(engine, clock=engine.clock)
    for _ in range(3):
        response = ask(pipeline, engine, request(6.0, streams=8))
        assert [candidate.trace.stop for candidate in response.candidates] == [Stop.BUDGET] * 8
        assert response.notices == ()


def test_a_stream_that_answers_is_kept_and_not_one_that_would_have_to_be_closed() -> None:
    # The second thinks for no longer than a line; the first would think on, and there is no time to close it.
    engine = SlowEngine([ENDLESS, "4.\n</think>\n\n" + "So it is. " * 40 + "The final answer is 4."])
    pipeline = Pipeline(engine, clock=engine.clock)
    ask(pipeline, engine, request(20.0, streams=2))
    engine.slowdown = 3.0
    ask(pipeline, engine, request(20.0, streams=2))
    engine.slowdown = 1.0

    batch, start_s = Batch(engine), engine.now_s
    event = None
    for event in drive(pipeline.run(request(9.0, streams=2), batch), batch):  # noqa: B007
        if engine.now_s - start_s > 3.0:
            engine.now_s = max(engine.now_s, start_s + 8.5)  # others took the machine
    assert isinstance(event, Answered)
    first, second = event.response.candidates
    assert (first.trace.stop, second.trace.stop) == (Stop.CANCELLED, Stop.BUDGET)
    assert event.response.winner == 1
    assert event.response.timing.total_s <= 9.0 + 0.5
    assert "1 of them ended without an answer" in event.response.notices[-1]


FORMULAS = (
    "2.\n</think>\n\nThe final answer is $x + 1$.",
    "2.\n</think>\n\nThe final answer is $1 + x$.",
)


def test_formulas_for_which_there_is_no_time_count_apart_and_that_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[tuple[str, str]] = []

    def is_equal(left: str, right: str) -> bool:
        compared.append((left, right))
        return True

    monkeypatch.setattr("edgereason.core.answers.are_equal", is_equal)
    monkeypatch.setattr("edgereason.core.answers.is_known", lambda left, right: False)
    monkeypatch.setattr("edgereason.core.answers.comparison_s", lambda: 3.0)
    engine = SlowEngine(FORMULAS)
    pipeline = Pipeline(engine, clock=engine.clock)
    spent_s = ask(pipeline, engine, request(60.0, streams=2)).timing.total_s
    assert compared  # there was time
    compared.clear()
    response = ask(pipeline, engine, request(spent_s + 2.5, streams=2))
    assert compared == []
    assert response.answer in ("x + 1", "1 + x")
    assert response.notices == (
        "there was no time to compare formulas that are written differently, so each counted as an answer of "
        "its own",
    )
    response = ask(pipeline, engine, request(spent_s + 3.5, streams=2))
    assert compared and response.notices == ()


def test_formulas_that_were_compared_before_are_known_without_time() -> None:
    assert same(canonical("x+1"), canonical("1+x"))
    assert same(canonical("1+x"), canonical("x+1"), lambda seconds: False)
    assert not same(canonical("y+1+1"), canonical("2+y"), lambda seconds: False)
    assert same(canonical("y+1+1"), canonical("2+y"), lambda seconds: True)
    # Numbers, words and what is written alike take no time at all.
    assert same(canonical("1/2"), canonical("0.5"), lambda seconds: False)


@pytest.mark.parametrize("said", [" ", "\n", "\n\n \n", "\t"])
def test_a_chat_answer_is_not_cut_before_anything_is_said(said: str) -> None:
    engine = SlowEngine([said + "Four, and so on. " * 500])
    engine.slowdown = 40.0  # the time is over with the prompt
    response = ask(Pipeline(engine, clock=engine.clock), engine, request(0.5, mode=Mode.CHAT))
    assert response.text.strip() == "F"
    assert response.stop is Stop.BUDGET


@pytest.mark.parametrize(("said", "stop"), [("", Stop.EMPTY), (" \n", Stop.EMPTY), ("4", Stop.NATURAL)])
def test_an_empty_chat_answer_says_that_the_model_said_nothing(said: str, stop: Stop) -> None:
    engine = SlowEngine([said])
    response = ask(Pipeline(engine, clock=engine.clock), engine, request(9.0, mode=Mode.CHAT))
    assert (response.text.strip(), response.stop) == (said.strip(), stop)
    assert response.finish_reason == "stop"
