"""Prompts that are read a chunk at a time, beside streams that run: who waits, and what comes out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from edgereason.core.types import Budget, Message, Mode, Request, Response, Stop
from edgereason.engine.base import Feed, Sampled
from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import QueueFull
from edgereason.heads.features import PromptFeatures
from edgereason.reasoning.batch import READ_TOKENS, Batch
from edgereason.reasoning.events import Answered, Event, Reading, Routed
from edgereason.reasoning.pipeline import Pipeline
from edgereason.reasoning.runs import Caller, Runs, drive, last_response

FOUR = "2+2 is 4.\n</think>\n\nThe final answer is 4."
ENDLESS = "hm " * 5000
LONG = "x" * 300
CHUNK = 64


class TimedEngine(ScriptedEngine):
    """Notes what it does and takes its time, on its own clock: 10 ms a token of a prompt, 100 ms a step."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.did: list[int] = []
        """Tokens of an encoding; 0 for a step."""
        self.now_s = 0.0

    def clock(self) -> float:
        return self.now_s

    def encode(self, sequence, tokens, **more) -> bool:
        self.now_s += 0.01 * len(tokens)
        self.did.append(len(tokens))
        return super().encode(sequence, tokens, **more)

    def step(self, feeds: list[Feed]) -> list[Sampled]:
        self.now_s += 0.1
        self.did.append(0)
        return super().step(feeds)


class Watcher:
    """A switcher that is sure, and keeps what it was shown."""

    threshold = 0.5
    layer = -2

    def reader(self, state: object = None) -> Watcher:
        self.features = PromptFeatures(16) if state is None else PromptFeatures.restored(16, state)  # type: ignore[arg-type]
        return self

    def push(self, states: np.ndarray) -> None:
        self.features.push(states)

    def state(self) -> dict[str, np.ndarray]:
        return self.features.state()

    def p_think(self) -> float:
        return 0.75


def request(question: str = "2+2?", **options: object) -> Request:
    options.setdefault("mode", Mode.THINK)
    options.setdefault("budget", Budget(limit_tokens=100))
    return Request(messages=(Message("user", question),), **options)  # type: ignore[arg-type]


def beside_a_stream(
    engine: TimedEngine, asked: Request, *, caller: Caller | None = None, **parts: object
) -> list[Event]:
    """A request's events, read beside a stream that never ends."""
    pipeline = Pipeline(engine, clock=engine.clock, **parts)  # type: ignore[arg-type]
    batch, runs = Batch(engine, chunk_tokens=CHUNK), Runs[str]()
    with engine.reserve(cells=40_000, sequences=60):
        pass  # room for both
    runs.start("other", pipeline.run(request(budget=Budget(limit_tokens=20_000), seed=1), batch))
    engine.did.clear()
    events = list(runs.start("asked", pipeline.run(asked, batch, caller)) or ())
    while not isinstance(events[-1], Answered):
        batch.step()
        for key in runs:
            news = runs.advance(key)
            events += news if key == "asked" else ()
    runs.close()
    return events


def test_a_prompt_is_read_in_chunks_between_which_others_step_for_as_long() -> None:
    engine = TimedEngine([FOUR, ENDLESS])
    prompt_tokens = len(Pipeline(engine).prompt(request(LONG)))
    assert 4 * CHUNK < prompt_tokens < 5 * CHUNK
    beside_a_stream(engine, request(LONG))
    # 64 tokens take 0.64 s, which is as long as 7 steps, the last of which ends behind it; none goes between
    # the last chunk and what follows on the prompt.
    reading = [CHUNK, *[0] * 7] * 4 + [prompt_tokens - 4 * CHUNK]
    assert engine.did[: len(reading)] == reading
    assert engine.did[len(reading)] == len("<think>\n") + len("Let me work this out step by step.\n")


def test_what_is_read_in_chunks_is_answered_as_what_is_read_at_once() -> None:
    asked = request(LONG, streams=3)
    *_, last = beside_a_stream(TimedEngine([FOUR, ENDLESS, "\n</think>\n\nThe final answer is 4."]), asked)
    engine = TimedEngine([FOUR, ENDLESS, "\n</think>\n\nThe final answer is 4."])
    batch = Batch(engine)
    alone = last_response(drive(Pipeline(engine).run(asked, batch), batch))
    assert isinstance(last, Answered)
    assert last.response.candidates == alone.candidates


def test_a_switcher_sees_the_same_in_chunks_as_at_once() -> None:
    in_chunks, at_once = Watcher(), Watcher()
    asked = request(LONG, mode=Mode.AUTO)
    beside_a_stream(TimedEngine([FOUR, ENDLESS]), asked, switcher=in_chunks)
    engine = ScriptedEngine([FOUR])
    batch = Batch(engine)
    list(drive(Pipeline(engine, switcher=at_once).run(asked, batch), batch))
    assert in_chunks.features.value() == pytest.approx(at_once.features.value(), abs=1e-6)


def test_reading_tells_how_far_it_is() -> None:
    events = beside_a_stream(TimedEngine([FOUR, ENDLESS]), request(LONG))
    total = next(event.prompt_tokens for event in events if isinstance(event, Routed))
    told = [event for event in events if isinstance(event, Reading)]
    assert told == [Reading(done, total, 0) for done in (0, 64, 128, 192, 256)]
    assert events.index(told[-1]) < next(i for i, event in enumerate(events) if isinstance(event, Routed))


def test_alone_a_prompt_is_read_in_large_chunks_and_a_short_one_says_nothing() -> None:
    engine = TimedEngine([FOUR])
    batch = Batch(engine, chunk_tokens=CHUNK)
    pipeline = Pipeline(engine)
    events = list(drive(pipeline.run(request("x" * 1200), batch), batch))
    assert engine.did[:2] == [READ_TOKENS, READ_TOKENS]
    assert [event.done_tokens for event in events if isinstance(event, Reading)] == [0, 512, 1024]
    assert not any(isinstance(event, Reading) for event in drive(pipeline.run(request(), batch), batch))


def test_a_batch_without_chunks_reads_prompts_without_a_step_in_between() -> None:
    engine = TimedEngine([FOUR])
    batch, pipeline = Batch(engine), Pipeline(engine)
    run: Iterator[object] = pipeline.run(request("x" * 1200), batch)
    while not isinstance(next(run), Routed):
        pass
    assert 0 not in engine.did


@pytest.mark.parametrize("chunks", [1, 3])
def test_a_caller_who_stops_while_a_prompt_is_read_waits_for_one_chunk(chunks: int) -> None:
    engine = TimedEngine([FOUR, ENDLESS])
    caller = Caller(should_stop=lambda: sum(tokens == CHUNK for tokens in engine.did) >= chunks)
    *_, last = beside_a_stream(engine, request(LONG), caller=caller)
    assert isinstance(last, Answered)
    assert last.response.candidates == ()
    assert [tokens for tokens in engine.did if tokens] == [CHUNK] * chunks


def timed(limit_s: float, **options: object) -> Request:
    return request(LONG, budget=Budget(limit_s=limit_s), **options)


def test_a_request_in_seconds_gives_less_of_them_to_others_while_its_prompt_is_read() -> None:
    engine = TimedEngine([FOUR, ENDLESS])
    pipeline = Pipeline(engine, clock=engine.clock)
    batch, runs = Batch(engine, chunk_tokens=CHUNK), Runs[str]()
    with engine.reserve(cells=40_000, sequences=60):
        pass  # room for both
    list(drive(pipeline.run(request(LONG), batch), batch))  # 3.2 s to read, and as much again for others
    runs.start("other", pipeline.run(request(budget=Budget(limit_tokens=20_000), seed=1), batch))
    accepted_s = engine.now_s
    events = [*(runs.start("asked", pipeline.run(timed(6.0), batch, Caller(accepted_s=accepted_s))) or ())]
    while not isinstance(events[-1], Answered):
        batch.step()
        for key in runs:
            news = runs.advance(key)
            events += news if key == "asked" else ()
    runs.close()
    assert engine.now_s - accepted_s <= 6.3
    assert events[-1].response.answer == "4"


def test_seconds_that_others_took_while_a_prompt_was_read_are_refused() -> None:
    engine = TimedEngine([FOUR])
    pipeline = Pipeline(engine, clock=engine.clock)
    batch = Batch(engine, chunk_tokens=CHUNK)
    list(drive(pipeline.run(request("x" * 1200), batch), batch))
    asked = request(
        "x" * 1200, budget=Budget(limit_s=13.5)
    )  # 12.3 s to read, in three chunks, 0.8 s to answer
    events = []
    with pytest.raises(QueueFull, match="too short now"):
        for event in pipeline.run(asked, batch, Caller(accepted_s=engine.now_s)):
            events.append(event)
            engine.now_s += 1.0  # others' steps, or a busy machine
            assert len(events) < 9
    assert any(isinstance(event, Reading) for event in events)
    assert not any(isinstance(event, Routed) for event in events)


def test_no_chunk_is_begun_that_would_end_behind_a_streams_deadline() -> None:
    engine = TimedEngine([FOUR, ENDLESS])
    pipeline = Pipeline(engine, clock=engine.clock)
    batch = Batch(engine, chunk_tokens=CHUNK)
    list(drive(pipeline.run(request(LONG), batch), batch))  # a chunk takes 0.64 s
    asked = request(mode=Mode.CHAT, budget=Budget(limit_s=3.0), seed=1)  # says something until they are over
    runs, start_s = Runs[str](), engine.now_s
    runs.start("timed", pipeline.run(asked, batch, Caller(accepted_s=start_s)))
    may_read = []
    while "timed" in runs:
        may_read.append((engine.now_s - start_s, batch.may_read))
        batch.step()
        runs.advance("timed")
    assert all(may == (at_s <= 3.0 - 0.64) for at_s, may in may_read)
    assert {may for _, may in may_read} == {True, False}
    assert batch.may_read


def test_thinking_that_is_hurried_answers_at_the_next_token() -> None:
    engine = ScriptedEngine(
        [word * 50 + "\n</think>\n\nThe final answer is 4." for word in ("Well, ", "Hm, ")]
    )
    batch, caller = Batch(engine), Caller()
    said = []
    with drive(Pipeline(engine).run(request(streams=2, budget=400), batch, caller), batch, caller) as events:
        for event in events:
            said.append(event)
            if len(said) == 20:
                events.answer_now()
    response: Response = said[-1].response  # type: ignore[union-attr]
    assert response.answer == "4"
    assert response.notices == ("the thinking was ended on request, before the model had finished it",)
    for candidate in response.candidates:
        assert candidate.trace.thinking_tokens < 30
        assert (candidate.trace.stop, candidate.trace.ended) == (Stop.NATURAL, True)


def test_a_chat_answer_is_not_changed_by_hurry() -> None:
    engine = ScriptedEngine(["It is 4."])
    batch, caller = Batch(engine), Caller(wants_answer=True)
    response = last_response(drive(Pipeline(engine).run(request(mode=Mode.CHAT), batch, caller), batch))
    assert (response.text, response.notices) == ("It is 4.", ())
