"""Concurrent tasks on the scripted engine: shared steps, cancellation, errors, closing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path
from typing import Any

import pytest

from edgereason.core.types import Budget, Message, Mode, Request, Response
from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import ContextOverflow, EngineError, RequestError, Unavailable
from edgereason.reasoning.async_model import AsyncModel
from edgereason.reasoning.events import Answered, Routed, Text
from edgereason.reasoning.model import Model
from edgereason.reasoning.request import AskOptions
from edgereason.reasoning.runs import last_response

FOUR = "2+2 is 4.\n</think>\n\nThe final answer is 4."
ENDLESS = "hm " * 20_000 + "\n</think>\n\nThe final answer is 6."
LONG: AskOptions = {"mode": "think", "budget": 30_000}
"""So long that nobody waits for its end."""
THINK: AskOptions = {"mode": "think", "budget": 100, "streams": 2}


class WatchedEngine(ScriptedEngine):
    """Notes how many streams each step has and which threads use it; a step waits until it may go on.

    Attributes:
        hold_after: so many steps, those behind wait for `may_step` to be set again.
        step_s: that a step takes.
    """

    hold_after: int | None = None
    step_s = 0.0

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.widths: list[int] = []
        self.threads: set[str] = set()
        self.may_step = threading.Event()
        self.may_step.set()
        self.is_closed = False

    def step(self, feeds):
        if len(self.widths) == self.hold_after:
            self.hold_after = None
            self.may_step.clear()
        assert self.may_step.wait(10)
        time.sleep(self.step_s)
        feeds = list(feeds)
        self.widths.append(len(feeds))
        self.threads.add(threading.current_thread().name)
        return super().step(feeds)

    def close(self) -> None:
        self.is_closed = True
        super().close()


def run(engine: ScriptedEngine, act: Callable[[AsyncModel], Awaitable[None]], **options: int) -> None:
    """By default no prompt is kept, so that all cells are given back."""

    async def main() -> None:
        async with AsyncModel(Model(engine), **{"cache_mib": 0, **options}) as model:
            await asyncio.wait_for(act(model), 20)

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def asked_and_held(model: AsyncModel, engine: WatchedEngine) -> asyncio.Task[Response]:
    """A long request whose seventh step waits until it may go on."""
    engine.hold_after = 6
    task = asyncio.create_task(model.ask("2+2?", **LONG))
    await until(lambda: not engine.may_step.is_set())
    return task


def test_tasks_share_steps_and_get_the_answers_that_each_gets_alone() -> None:
    questions = [f"{'x' * n} 2+2?" for n in range(1, 5)]
    alone = [Model(ScriptedEngine([FOUR])).ask(question, **THINK) for question in questions]
    engine = WatchedEngine([FOUR])
    engine.may_step.clear()

    async def act(model: AsyncModel) -> None:
        tasks = [asyncio.create_task(model.ask(question, **THINK)) for question in questions]
        await asyncio.sleep(0.01)
        engine.may_step.set()
        together = await asyncio.gather(*tasks)
        for one, other in zip(alone, together, strict=True):
            assert (one.answer, one.candidates) == (other.answer, other.candidates)

    run(engine, act)
    assert max(engine.widths) == 8  # all of them, in a context that was made for as many
    assert engine.threads == {"edgereason"}


def test_a_request_joins_while_others_run() -> None:
    engine = WatchedEngine([ENDLESS, FOUR], context_tokens=100_000)

    async def act(model: AsyncModel) -> None:
        long = await asked_and_held(model, engine)
        asyncio.get_running_loop().call_later(0.01, engine.may_step.set)
        assert (await model.ask("2+2?", mode="think", budget=100, seed=1)).answer == "4"
        assert not long.done()
        long.cancel()

    run(engine, act)
    assert engine.widths[0] == 1
    assert 2 in engine.widths


def test_events_come_as_they_happen_and_in_order() -> None:
    engine = WatchedEngine([FOUR])
    engine.step_s = 0.002

    async def act(model: AsyncModel) -> None:
        events = [event async for event in model.stream("2+2?", **THINK)]
        assert isinstance(events[0], Routed)
        assert isinstance(events[-1], Answered)
        said = [event.text for event in events if isinstance(event, Text) and event.stream == 0]
        assert len(said) > 5
        assert "".join(said).startswith("2+2 is 4.")

    run(engine, act)


def test_a_cancelled_task_stops_its_streams_at_the_next_step_and_frees_their_cells() -> None:
    engine = WatchedEngine([ENDLESS, FOUR], context_tokens=100_000)

    async def act(model: AsyncModel) -> None:
        long = await asked_and_held(model, engine)
        long.cancel()
        with pytest.raises(asyncio.CancelledError):
            await long
        engine.may_step.set()
        await until(lambda: engine.live_sequences == 0)
        assert len(engine.widths) == 7  # the one that was held was under way
        assert engine.used_cells == 0
        assert (await model.ask("2+2?", seed=1, mode="think", budget=100)).answer == "4"

    run(engine, act)
    assert all(sampler.closed for sampler in engine.samplers)


@pytest.mark.parametrize("leaving", [aclosing, lambda stream: stream], ids=["aclosing", "its own with"])
def test_leaving_a_stream_early_stops_it(leaving: Callable[[Any], AbstractAsyncContextManager[Any]]) -> None:
    engine = WatchedEngine([ENDLESS], context_tokens=100_000)

    async def act(model: AsyncModel) -> None:
        async with leaving(model.stream("2+2?", **LONG)) as events:
            async for event in events:
                if isinstance(event, Text):
                    break
        await until(lambda: engine.live_sequences == 0)

    run(engine, act)


def test_what_waits_and_is_cancelled_is_never_started() -> None:
    engine = WatchedEngine([ENDLESS, FOUR], context_tokens=100_000)

    async def act(model: AsyncModel) -> None:
        first = asyncio.create_task(model.ask("2+2?", **LONG))
        await until(lambda: len(engine.widths) > 2)
        second = asyncio.create_task(model.ask("3+3?", **LONG))
        await asyncio.sleep(0.02)
        second.cancel()
        await asyncio.sleep(0.02)
        first.cancel()
        await until(lambda: engine.live_sequences == 0)

    run(engine, act, max_running=1)
    assert len(engine.samplers) == 1


def test_each_error_reaches_the_task_that_it_belongs_to() -> None:
    engine = WatchedEngine([FOUR], context_tokens=600)

    async def act(model: AsyncModel) -> None:
        outcomes = await asyncio.gather(
            model.ask("2+2?", **THINK),
            model.ask("x" * 900, **THINK),
            model.ask("2+2?", streams=65),
            model.ask("2+2?", mode="think", budget=100),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [Response, ContextOverflow, RequestError, Response]
        with pytest.raises(RequestError, match="mode must be one of"):
            await model.ask("2+2?", mode="ponder")

    run(engine, act)


def test_a_step_that_fails_fails_those_who_were_in_it_and_the_model_goes_on() -> None:
    engine = WatchedEngine([FOUR], context_tokens=100_000)
    step, broken = engine.step, threading.Event()

    def sometimes(feeds):
        if broken.is_set():
            raise EngineError("broken")
        return step(feeds)

    engine.step = sometimes  # type: ignore[method-assign]

    async def act(model: AsyncModel) -> None:
        broken.set()
        outcomes = await asyncio.gather(
            *(model.ask("2+2?", **THINK) for _ in range(3)), return_exceptions=True
        )
        assert [str(outcome) for outcome in outcomes] == ["broken"] * 3
        broken.clear()
        assert (engine.live_sequences, engine.used_cells) == (0, 0)
        assert (await model.ask("2+2?", **THINK)).answer == "4"

    run(engine, act)


def test_requests_that_do_not_fit_beside_each_other_take_turns() -> None:
    engine = WatchedEngine([FOUR], context_tokens=420)

    async def act(model: AsyncModel) -> None:
        responses = await asyncio.gather(*(model.ask("2+2?", **THINK) for _ in range(4)))
        assert [response.answer for response in responses] == ["4"] * 4

    run(engine, act)
    assert max(engine.widths) == 2


def test_closing_stops_what_runs_and_frees_the_model() -> None:
    engine = WatchedEngine([ENDLESS], context_tokens=100_000)

    async def main() -> None:
        model = AsyncModel(Model(engine))
        tasks = [asyncio.create_task(model.ask("2+2?", **LONG)) for _ in range(3)]
        await until(lambda: len(engine.widths) > 3)
        await model.close()
        for task in tasks:
            with pytest.raises(Unavailable, match="closed before the answer"):
                await task
        with pytest.raises(Unavailable, match="the model is closed"):
            await model.ask("2+2?")
        await model.close()

    asyncio.run(main())
    assert engine.is_closed
    assert all(sampler.closed for sampler in engine.samplers)


def test_a_loop_that_ends_without_closing_leaves_a_worker_that_does_not_mind() -> None:
    engine = WatchedEngine([ENDLESS], context_tokens=100_000)
    made: list[AsyncModel] = []

    async def main() -> None:
        made.append(AsyncModel(Model(engine)))
        task = asyncio.create_task(made[0].ask("2+2?", **LONG))
        await until(lambda: len(engine.widths) > 3)
        task.cancel()

    asyncio.run(main())
    asyncio.run(made[0].close())
    assert engine.is_closed


def test_room_for_no_stream_at_all_is_refused() -> None:
    with pytest.raises(RequestError, match="max_running"):
        AsyncModel(Model(ScriptedEngine()), max_running=0)


# Streams, requests and sessions


def test_a_request_is_run_as_it_is() -> None:
    async def act(model: AsyncModel) -> None:
        asked = Request(messages=(Message("user", "2+2?"),), mode=Mode.THINK, budget=Budget(limit_tokens=100))
        events = [event async for event in model.run(asked)]
        alone = last_response(Model(ScriptedEngine([FOUR])).run(asked))
        assert isinstance(events[-1], Answered)
        assert events[-1].response.candidates == alone.candidates

    run(WatchedEngine([FOUR]), act)


def test_what_can_not_be_asked_is_refused_before_a_stream_is_read() -> None:
    async def act(model: AsyncModel) -> None:
        with pytest.raises(RequestError, match="streams"):
            model.stream("2+2?", streams=0)

    run(WatchedEngine([FOUR]), act)


def test_loading_leaves_the_loop_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    may_load, engine = threading.Event(), WatchedEngine([FOUR])

    def load_when_told(name: str, **options: object) -> Model:
        assert (name, options) == ("a-model", {"threads": 3})
        assert may_load.wait(10)
        return Model(engine)

    monkeypatch.setattr("edgereason.reasoning.async_model.load", load_when_told)

    async def main() -> None:
        loading = asyncio.create_task(AsyncModel.load("a-model", threads=3, max_running=2))
        await asyncio.sleep(0.01)  # would never return if the loop were held
        assert not loading.done()
        may_load.set()
        async with await loading as model:
            assert (await model.ask("2+2?", **THINK)).answer == "4"

    asyncio.run(main())
    assert engine.is_closed


def test_a_model_that_nobody_waits_for_any_more_is_closed_once_it_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_load, engine = threading.Event(), WatchedEngine([FOUR])

    def load_when_told(_name: str) -> Model:
        assert may_load.wait(10)
        return Model(engine)

    monkeypatch.setattr("edgereason.reasoning.async_model.load", load_when_told)

    async def main() -> None:
        loading = asyncio.create_task(AsyncModel.load("a-model"))
        await asyncio.sleep(0.01)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        may_load.set()
        await until(lambda: engine.is_closed)

    asyncio.run(main())


def test_sessions_share_steps_and_say_what_each_says_alone(tmp_path: Path) -> None:
    def alone(question: str) -> tuple[Message, ...]:
        with Model(ScriptedEngine([FOUR])).session(system="Be brief.") as session:
            session.ask(question, **THINK)
            session.think_harder(budget=200)
            session.ask("Sure?", **THINK)
            return session.messages

    engine = WatchedEngine([FOUR])

    async def talk(model: AsyncModel, question: str) -> tuple[Message, ...]:
        async with model.session(system="Be brief.") as session:
            await session.ask(question, **THINK)
            assert (await session.think_harder(budget=200)).answer == "4"
            async with session.stream("Sure?", **THINK) as events:
                async for _ in events:
                    pass
            return session.messages

    async def act(model: AsyncModel) -> None:
        questions = ["2+2?", "1+3?"]
        assert await asyncio.gather(*(talk(model, q) for q in questions)) == [alone(q) for q in questions]
        await until(lambda: engine.live_sequences == 0)

    run(engine, act)
    assert engine.threads == {"edgereason"}
    assert max(engine.widths) == 4


def test_a_session_is_saved_loaded_and_shortened_beside_others(tmp_path: Path) -> None:
    engine = WatchedEngine([FOUR])

    async def act(model: AsyncModel) -> None:
        async with model.session() as session:
            await session.ask("2+2?", **THINK)
            await session.ask("Sure?", **THINK)
            await session.save(tmp_path / "talk.kv")
        async with await model.load_session(tmp_path / "talk.kv") as loaded:
            assert loaded.messages == session.messages
            await loaded.drop(1)
            assert [message.content for message in loaded.messages] == ["Sure?", "The final answer is 4."]
            with pytest.raises(RequestError, match="1 turns to drop from"):
                await loaded.drop(2)

    run(engine, act)


def test_a_turn_that_is_left_early_adds_nothing_and_the_session_goes_on() -> None:
    engine = WatchedEngine([ENDLESS, FOUR], context_tokens=100_000)

    async def act(model: AsyncModel) -> None:
        async with model.session() as session:
            async with session.stream("2+2?", **LONG) as events:
                await anext(events)
            assert session.messages == ()
            assert (await session.ask("2+2?", seed=1, mode="think", budget=100)).answer == "4"

    run(engine, act)


def test_a_session_outlives_its_model_without_harm() -> None:
    async def main() -> None:
        model = AsyncModel(Model(WatchedEngine([FOUR])))
        session = model.session()
        await session.ask("2+2?", **THINK)
        await model.close()
        assert len(session.messages) == 2
        with pytest.raises(Unavailable, match="the model is closed"):
            await session.ask("Sure?")
        await session.close()

    asyncio.run(main())


def test_six_hundred_requests_with_cancellations_leave_nothing_behind() -> None:
    engine = WatchedEngine([FOUR])

    async def act(model: AsyncModel) -> None:
        options: list[AskOptions] = [
            {"mode": "chat"},
            {"mode": "think", "budget": 64},
            THINK,
            {"mode": "think", "budget": 64, "streams": 3, "vote": "best"},
        ]
        tasks = [
            asyncio.create_task(model.ask(f"2+2? {'x' * (n % 7)}", **options[n % 4])) for n in range(600)
        ]
        for n, task in enumerate(tasks):
            if n % 3 == 1:
                task.cancel()  # before it has begun, or while it waits
            if n % 50 == 0:
                await asyncio.sleep(0.002)
            if n % 10 == 5:
                tasks[n // 2].cancel()  # in the middle, or when it is over
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        answers = [one for one in outcomes if isinstance(one, Response)]
        assert len(answers) >= 300
        assert all(one.answer == "4" for one in answers)
        others = [one for one in outcomes if not isinstance(one, Response)]
        assert all(isinstance(one, asyncio.CancelledError) for one in others), others
        assert (await model.ask("2+2?", **THINK)).answer == "4"

    async def main() -> None:
        async with AsyncModel(Model(engine)) as model:
            await asyncio.wait_for(act(model), 120)
            await until(lambda: model.load_figures().running_requests == 0)
            figures = model.load_figures()
            assert (figures.cells_running, figures.waiting_requests) == (0, 0)
            assert figures.cells_kept == engine.used_cells
            assert all(sampler.closed for sampler in engine.samplers)

    asyncio.run(main())
    assert len(engine.threads) == 1
