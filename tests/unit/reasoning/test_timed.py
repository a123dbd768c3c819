"""Requests with a budget in seconds, on an engine whose every token takes its time on a scripted clock."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from edgereason.core.types import Budget, Message, Mode, Request, Response, Route, Stop
from edgereason.engine.base import Feed, Sampled
from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import RequestError
from edgereason.reasoning.batch import Batch
from edgereason.reasoning.events import Answered, Event
from edgereason.reasoning.pipeline import Pipeline
from edgereason.reasoning.runs import drive, drive_many

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
        assert all(candidate.answer == "6" for candidate in response.candidates)
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
    *_, last = drive(pipeline.run(request(6.0), batch, accepted_s=accepted_s), batch)
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
