"""Streams that begin in stages: who begins when, what is spared, and that the winner is never another."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgereason.core.answers import canonical
from edgereason.core.types import Budget, Message, Mode, Request, Response, Stop, Vote
from edgereason.engine.scripted import ScriptedEngine
from edgereason.reasoning.async_model import AsyncModel
from edgereason.reasoning.batch import Batch
from edgereason.reasoning.events import Answered, Ended, Event, Tallied
from edgereason.reasoning.model import Model
from edgereason.reasoning.pipeline import Pipeline
from edgereason.reasoning.runs import Caller, drive, drive_many


def says(answer: object, blanks: int = 0) -> str:
    """A reply of 36 bytes, for an answer of one, and so many more."""
    return f"Hm.{' ' * blanks}\n</think>\n\nThe final answer is {answer}."


LENGTH = 36
"""Tokens of `says(4)`: "Hm." 3, a line break, the tag 8, two line breaks, and the answer's line 22."""


def request(**options: object) -> Request:
    options = {"mode": Mode.THINK, "budget": Budget(limit_tokens=400), "vote": Vote.MAJORITY} | options
    return Request(messages=(Message("user", "What is 2+2?"),), **options)  # type: ignore[arg-type]


def events_of(engine: ScriptedEngine, asked: Request, **parts: object) -> list[Event]:
    batch = Batch(engine)
    return list(drive(Pipeline(engine, **parts).run(asked, batch), batch))  # type: ignore[arg-type]


def ask(engine: ScriptedEngine, asked: Request, **parts: object) -> Response:
    last = events_of(engine, asked, **parts)[-1]
    assert isinstance(last, Answered)
    return last.response


def steps(engine: ScriptedEngine) -> list[int]:
    """Rows of each step: the first two batches are the prompt and the opening."""
    return engine.decoded[2:]


class ByLength:
    """A verifier whose score depends on the trace alone: on its length, through its states."""

    layers = ()
    prompt_ids = (63, 63)

    def score(self, states: np.ndarray) -> np.ndarray:
        return np.asarray(1 / (1 + np.exp(-3 * states[:, 0])), np.float32)


class Always:
    """A verifier that is equally sure of everything."""

    layers = ()
    prompt_ids = (63, 63)

    def __init__(self, score: float) -> None:
        self._score = score

    def score(self, states: np.ndarray) -> np.ndarray:
        return np.full(len(states), self._score, np.float32)


def test_five_that_agree_settle_a_vote_of_eight_and_three_never_begin() -> None:
    engine = ScriptedEngine([says(4)])
    response = ask(engine, request(streams=8, stage=5))
    assert (response.answer, response.winner, response.stop) == ("4", 0, Stop.NATURAL)
    # The first token of each comes from the opening's logits; the end of turn is drawn behind the last one.
    assert steps(engine) == [5] * LENGTH
    traces = [candidate.trace for candidate in response.candidates]
    assert [trace.has_begun for trace in traces] == [True] * 5 + [False] * 3
    assert all(trace.stop is Stop.CANCELLED and trace.token_ids == () for trace in traces[5:])
    assert response.usage.all_streams_tokens == 5 * LENGTH
    assert (response.streams_not_begun, response.tokens_saved) == (3, 3 * LENGTH)


def test_cells_of_streams_that_never_began_are_not_counted_and_nothing_is_left() -> None:
    engine = ScriptedEngine([says(4)], context_tokens=4000)
    response = ask(engine, request(streams=8, stage=5))
    shared, own = sum(engine.decoded[:2]), 5 * LENGTH
    assert response.kv_bytes == (shared + own) * engine.info.kv_bytes_per_cell
    assert (engine.used_cells, engine.live_sequences) == (0, 0)
    assert len(engine.samplers) == 8
    assert all(sampler.closed for sampler in engine.samplers)
    engine.reserve(cells=4000, sequences=1).close()  # every promise was given back, too


def test_the_next_stage_begins_beside_those_that_run_once_they_can_not_settle_the_vote() -> None:
    # Streams 0 and 1 end first, and differ: four of the six others must agree, and only three run.
    replies = [says(4), says(5), *[says(4, 10)] * 6]
    engine = ScriptedEngine(replies)
    response = ask(engine, request(streams=8, stage=5))
    assert response.answer == "4"
    # Five for 36 tokens; three and three new ones for 10 more. Then it is 4 to 1, and three might still say
    # 5: a tie, so that one of them must end, 36 steps later.
    assert steps(engine) == [5] * 36 + [6] * 10 + [3] * 36
    assert response.streams_not_begun == 0


def test_stages_of_one_stream_begin_no_more_than_must_end() -> None:
    replies = [says(4), says(5), *[says(4, 10)] * 6]
    engine = ScriptedEngine(replies)
    response = ask(engine, request(streams=8, stage="5,6,7"))
    assert response.answer == "4"
    # After 4 and 5, four of six must end: the three that run and one more. It ends 36 steps behind the three,
    # with 5 to 1 and two that wait.
    assert steps(engine) == [5] * 36 + [4] * 10 + [1] * 36
    assert response.streams_not_begun == 2
    assert response.tokens_saved == round(2 * (36 + 36 + 4 * 46) / 6)


def test_stages_that_could_settle_nothing_are_not_waited_for() -> None:
    engine = ScriptedEngine([says(4)])
    response = ask(engine, request(streams=8, stage=(2, 4, 8)))
    assert steps(engine) == [8] * LENGTH
    (notice,) = response.notices
    assert "a majority vote of 8 streams is open until 5 have ended" in notice
    assert ask(ScriptedEngine([says(4)]), request(streams=8, stage=(2, 4, 6))).notices == ()


def test_a_tie_that_is_possible_begins_the_last_stage_and_the_seed_breaks_it_as_ever() -> None:
    for seed in range(0, 40, 4):  # stream i recites reply i
        engine = ScriptedEngine([says(4), says(4), says(5), says(5)])
        response = ask(engine, request(streams=4, stage=3, seed=seed))
        assert response.streams_not_begun == 0, "2 to 1 with one to come is not settled"
        assert response.answer == random.Random(seed).choice(["4", "5"])


@pytest.mark.parametrize(("score", "not_begun"), [(0.9, 1), (0.3, 0)])
def test_a_weighted_vote_waits_for_a_lead_in_score_above_the_streams_that_wait(score, not_begun) -> None:
    # Three that agree lead by 2.7 or by 0.9, and one that waits might bring another answer 1.
    engine = ScriptedEngine([says(4)])
    asked = request(streams=4, stage=3, vote=Vote.WEIGHTED)
    response = ask(engine, asked, verifier=Always(score))
    assert (response.answer, response.streams_not_begun) == ("4", not_begun)


def test_best_begins_all_and_says_why() -> None:
    engine = ScriptedEngine([says(4)])
    response = ask(engine, request(streams=4, stage=3, vote=Vote.BEST), verifier=Always(0.5))
    assert (steps(engine)[0], response.streams_not_begun) == (4, 0)
    assert "a best vote of 4 streams is open until 4 have ended" in response.notices[0]


def test_without_stopping_early_all_begin_and_end() -> None:
    engine = ScriptedEngine([says(4)])
    response = ask(engine, request(streams=4, stage=3, stop_early=False))
    assert steps(engine) == [4] * LENGTH
    assert response.notices == ()
    assert all(candidate.answer == "4" for candidate in response.candidates)


def test_a_budget_in_seconds_begins_all_at_once_and_says_so() -> None:
    engine = ScriptedEngine([says(4)])
    budget = Budget(limit_tokens=400, limit_s=60.0)
    response = ask(engine, request(streams=4, stage=3, budget=budget))
    assert engine.decoded[-1] == 4
    assert response.streams_not_begun == 0
    assert "less time: all 4 streams begin at once" in response.notices[0]


def test_chat_answers_may_begin_in_stages_too() -> None:
    engine = ScriptedEngine(["4"])
    response = ask(engine, request(mode=Mode.CHAT, budget=None, streams=4, stage=3))
    assert (response.text, response.streams_not_begun) == ("4", 1)
    assert engine.decoded[1:] == [3]


def test_streams_that_end_with_their_first_token_take_no_step() -> None:
    engine = ScriptedEngine([""])
    response = ask(engine, request(mode=Mode.CHAT, budget=None, streams=4, stage=3))
    assert [candidate.trace.stop for candidate in response.candidates] == [Stop.EMPTY] * 4
    assert steps(engine) == []


def test_the_tally_counts_those_that_run_and_not_those_that_wait() -> None:
    engine = ScriptedEngine([says(4), says(4, 5), says(4, 5), says(4, 5), says(4, 5)])
    events = events_of(engine, request(streams=5, stage=3))
    first, *_ = (event for event in events if isinstance(event, Tallied))
    assert (first.standing, first.num_running) == ((("4", 1.0),), 2)


@pytest.mark.parametrize("seen", [0, 1])
def test_a_caller_who_stops_between_stages_gets_what_there_is_and_nothing_begins_after(seen: int) -> None:
    engine = ScriptedEngine([says(4), says(5), *[says(4, 10)] * 6], context_tokens=4000)
    batch, told = Batch(engine), []

    def ended() -> int:
        return sum(isinstance(event, Ended) for event in told)

    run = Pipeline(engine).run(request(streams=8, stage=5), batch, Caller(should_stop=lambda: ended() > seen))
    for event in drive(run, batch):
        told.append(event)
    assert isinstance(told[-1], Answered)
    response = told[-1].response
    assert response.stop is Stop.CANCELLED
    assert response.streams_not_begun == 3
    assert max(steps(engine)) == 5
    assert (engine.used_cells, engine.live_sequences) == (0, 0)
    assert all(sampler.closed for sampler in engine.samplers)


def test_a_run_that_is_left_between_stages_gives_everything_back() -> None:
    engine = ScriptedEngine([says(4)], context_tokens=4000)
    batch = Batch(engine)
    with drive(Pipeline(engine).run(request(streams=8, stage=5), batch), batch) as events:
        for _ in range(20):
            next(events)
        assert engine.live_sequences == 10  # prompt, opening, and the forks of all eight
    assert (engine.used_cells, engine.live_sequences) == (0, 0)
    assert all(sampler.closed for sampler in engine.samplers)
    engine.reserve(cells=4000, sequences=1).close()


def test_requests_that_share_steps_get_what_each_gets_alone() -> None:
    replies = [says(4), says(5), says(4, 9), says(6, 3), says(4, 2), says(4)]
    asked = [request(streams=5, stage=(3, 4), seed=seed) for seed in range(6)]
    alone = [ask(ScriptedEngine(replies), one) for one in asked]
    engine = ScriptedEngine(replies, context_tokens=6000)
    pipeline, batch = Pipeline(engine), Batch(engine)
    starts: list[Callable] = [lambda one=one: pipeline.run(one, batch) for one in asked]
    together = {
        index: event.response
        for index, event in drive_many(starts, batch, max_running=6)
        if isinstance(event, Answered)
    }
    for index, response in enumerate(alone):
        assert together[index].candidates == response.candidates
        assert together[index].winner == response.winner
    assert engine.live_sequences == 0


def test_tasks_of_an_async_model_get_what_each_gets_alone() -> None:
    replies = [says(4), says(5), says(4, 9), says(6, 3), says(4, 2), says(4)]
    options = {"mode": "think", "budget": 400, "vote": "majority", "streams": 5, "stage": "3,4"}

    async def together() -> list[Response]:
        async with AsyncModel(Model(ScriptedEngine(replies)), max_running=6) as model:
            return await asyncio.gather(*(model.ask("2+2?", seed=seed, **options) for seed in range(6)))

    for seed, response in enumerate(asyncio.run(together())):
        with Model(ScriptedEngine(replies)) as model:
            assert response.candidates == model.ask("2+2?", seed=seed, **options).candidates


def test_thinking_harder_keeps_the_stages_of_the_answer_before() -> None:
    with Model(ScriptedEngine([says(4)])) as model, model.session() as session:
        options = {"mode": "think", "budget": 100, "streams": 8, "vote": "majority", "stage": 5}
        assert session.ask("What is 2+2?", **options).streams_not_begun == 3
        assert session.think_harder().streams_not_begun == 3
        assert session.think_harder(streams=2).streams_not_begun == 0  # a stage of 5 is all of them


REPLIES = st.builds(
    says, st.sampled_from(["1", "2", "1.0", "3", "yes", r"\frac{1}{2}", "x"]), st.integers(0, 12)
)


@given(
    replies=st.lists(st.one_of(REPLIES, st.just("\n</think>\n\n")), min_size=2, max_size=8),
    stage=st.sets(st.integers(1, 8), max_size=4).map(lambda numbers: tuple(sorted(numbers))),
    vote=st.sampled_from([*Vote]),
    seed=st.integers(0, 50),
)
@settings(max_examples=150, deadline=None)
def test_the_winner_is_the_one_of_all_streams_run_to_their_ends_whatever_the_stages(
    replies: list[str], stage: tuple[int, ...], vote: Vote, seed: int
) -> None:
    def answer(**options: object) -> object:
        engine = ScriptedEngine(replies)
        asked = request(streams=len(replies), vote=vote, seed=seed, **options)
        response = ask(engine, asked, verifier=ByLength())
        assert (engine.used_cells, engine.live_sequences) == (0, 0)
        found = canonical(response.answer)
        return found and (found.kind, found.key)

    assert answer(stage=stage) == answer(stop_early=False)


@given(
    replies=st.lists(REPLIES, min_size=2, max_size=8),
    stage=st.sets(st.integers(1, 8), max_size=4).map(lambda numbers: tuple(sorted(numbers))),
)
@settings(max_examples=60, deadline=None)
def test_a_stream_says_the_same_whenever_it_begins(replies: list[str], stage: tuple[int, ...]) -> None:
    asked = request(streams=len(replies), stage=stage)
    staged = ask(ScriptedEngine(replies), asked)
    whole = ask(ScriptedEngine(replies), request(streams=len(replies), stop_early=False))
    for candidate, other in zip(staged.candidates, whole.candidates, strict=True):
        if candidate.trace.stop is not Stop.CANCELLED:
            assert candidate == other
        else:
            said = candidate.trace.token_ids
            assert said == other.trace.token_ids[: len(said)]
