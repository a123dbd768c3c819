"""What a server needs of `AsyncModel`: a bounded queue, fair turns, seconds that count it, an orderly end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from edgereason.core.types import Budget, Message, Mode, Request, Response
from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import ContextOverflow, QueueFull, RequestError, Unavailable
from edgereason.reasoning import worker
from edgereason.reasoning.async_model import AsyncEvents, AsyncModel
from edgereason.reasoning.events import Answered, Event, Queued, Reading, Routed, Text
from edgereason.reasoning.model import Model
from edgereason.reasoning.worker import Load

FOUR = "2+2 is 4.\n</think>\n\nThe final answer is 4."
ENDLESS = "hm " * 20_000 + "\n</think>\n\nThe final answer is 6."


class SlowEngine(ScriptedEngine):
    """Notes what it does, and takes its time."""

    def __init__(self, *arguments: Any, step_s: float = 0.001, token_s: float = 0.0, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.step_s = step_s
        self.token_s = token_s
        self.did: list[int] = []
        """Tokens of an encoding; 0 for a step."""
        self.tokenized: list[str] = []
        self.may_step = threading.Event()
        self.may_step.set()

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        self.tokenized.append(text)
        return super().tokenize(text, special=special)

    def encode(self, sequence, tokens, **more) -> bool:
        self.did.append(len(tokens))
        time.sleep(self.token_s * len(tokens))
        return super().encode(sequence, tokens, **more)

    def step(self, feeds):
        assert self.may_step.wait(10)
        time.sleep(self.step_s)
        self.did.append(0)
        return super().step(feeds)


def run(engine: ScriptedEngine, act: Callable[[AsyncModel], Awaitable[None]], **options: int) -> None:
    async def main() -> None:
        async with AsyncModel(Model(engine), **options) as model:
            await asyncio.wait_for(act(model), 20)

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def request(question: str = "2+2?", **options: Any) -> Request:
    options = {"mode": Mode.THINK, "budget": Budget(limit_tokens=100)} | options
    return Request(messages=(Message("user", question),), **options)


def endless(**options: Any) -> Request:
    return request(budget=Budget(limit_tokens=20_000), **options)


async def read(events: AsyncEvents) -> list[Event]:
    async with events:
        return [event async for event in events]


async def answer(events: AsyncEvents) -> Response:
    last = (await read(events))[-1]
    assert isinstance(last, Answered)
    return last.response


async def begun(model: AsyncModel, asked: Request) -> AsyncEvents:
    """A request's events, once it runs."""
    events = model.run(asked)
    async for event in events:
        if isinstance(event, Text):
            return events
    raise AssertionError


# The queue


def test_a_request_beyond_those_that_may_wait_is_refused_at_once_and_before_it_is_rendered() -> None:
    engine = SlowEngine([ENDLESS], context_tokens=100_000)

    async def act(model: AsyncModel) -> None:
        running = await begun(model, endless())
        waiting = [model.run(endless()) for _ in range(3)]
        for events in waiting:
            await events.admitted()
        engine.tokenized.clear()
        start_s = time.perf_counter()
        with pytest.raises(QueueFull, match="3 requests wait already, and at most 3 may") as caught:
            await model.run(endless()).admitted()
        assert time.perf_counter() - start_s < 0.05
        assert caught.value.retry_after_s >= 1.0
        assert engine.tokenized == []
        await waiting[0].aclose()  # its place is free again
        await until(lambda: model.load_figures().waiting_requests == 2)
        await model.run(endless()).admitted()
        await running.aclose()

    run(engine, act, max_running=1, max_waiting=3)


def test_as_many_as_may_run_and_wait_are_taken_in_at_once() -> None:
    async def act(model: AsyncModel) -> None:
        outcomes = await asyncio.gather(
            *(answer(model.run(request(f"{n}+2?"))) for n in range(12)), return_exceptions=True
        )
        refused = [one for one in outcomes if isinstance(one, QueueFull)]
        assert (len(refused), len(outcomes)) == (12 - 4 - 5, 12)

    run(SlowEngine([FOUR]), act, max_running=4, max_waiting=5)


def test_those_that_wait_are_told_their_place() -> None:
    engine = SlowEngine([ENDLESS, FOUR], context_tokens=100_000)

    async def act(model: AsyncModel) -> None:
        running = await begun(model, endless())
        waiting = [model.run(request(seed=1)) for _ in range(2)]
        for place, events in enumerate(waiting, 1):
            await events.admitted()
            assert await anext(events) == Queued(place)
        await running.aclose()
        told = await asyncio.gather(*map(read, waiting))
        assert not any(isinstance(event, Queued) for event in told[0])
        assert told[1][0] == Queued(1)

    run(engine, act, max_running=1)


def test_a_small_request_goes_ahead_of_one_that_does_not_fit_but_not_forever() -> None:
    engine = SlowEngine([ENDLESS, FOUR], context_tokens=40_000)
    ended: list[str] = []

    async def act(model: AsyncModel) -> None:
        running = await begun(model, endless())

        async def ask(name: str, events: AsyncEvents) -> None:
            await answer(events)
            ended.append(name)

        events = model.run(request(seed=1, budget=Budget(limit_tokens=30_000)))
        await events.admitted()
        large = asyncio.create_task(ask("large", events))
        small = [asyncio.create_task(ask(f"small {n}", model.run(request(seed=1)))) for n in range(7)]
        await until(lambda: len(ended) == 4)
        await asyncio.sleep(0.05)
        assert "large" not in ended
        assert len(ended) == 4
        await running.aclose()
        await asyncio.gather(large, *small)
        assert ended[4] == "large"

    run(engine, act)


def test_clients_take_turns() -> None:
    engine = SlowEngine([ENDLESS, FOUR], context_tokens=100_000)
    ended: list[str] = []

    async def act(model: AsyncModel) -> None:
        running = await begun(model, endless())

        async def ask(name: str, events: AsyncEvents) -> None:
            await answer(events)
            ended.append(name)

        tasks = []
        for name in ("a1", "a2", "a3", "b1"):
            events = model.run(request(seed=1), client=name[0])
            await events.admitted()
            tasks.append(asyncio.create_task(ask(name, events)))
        await running.aclose()
        await asyncio.gather(*tasks)
        assert ended == ["a1", "b1", "a2", "a3"]

    run(engine, act, max_running=1)


def test_what_can_not_be_served_is_refused_when_it_is_admitted() -> None:
    engine = SlowEngine([FOUR], context_tokens=300)

    async def act(model: AsyncModel) -> None:
        with pytest.raises(ContextOverflow):
            await model.run(request("x" * 400)).admitted()
        assert model.load_figures().waiting_requests == 0
        events = model.run(request())
        await events.admitted()
        await events.admitted()
        assert (await answer(events)).answer == "4"

    run(engine, act)


def test_a_prompt_is_tokenized_once_however_often_it_finds_no_room() -> None:
    engine = SlowEngine([ENDLESS, FOUR], context_tokens=40_000)

    async def act(model: AsyncModel) -> None:
        running = await begun(model, endless())
        task = asyncio.create_task(
            answer(model.run(request("once?", seed=1, budget=Budget(limit_tokens=30_000))))
        )
        await until(lambda: "once?" in engine.tokenized)
        for n in range(3):
            await answer(model.run(request(f"{n}?", seed=1)))
        await running.aclose()
        await task
        assert engine.tokenized.count("once?") == 1

    run(engine, act)


# Seconds


def test_seconds_that_are_over_in_the_queue_are_refused_in_time() -> None:
    engine = SlowEngine([ENDLESS, FOUR], context_tokens=100_000, step_s=0.01)

    async def act(model: AsyncModel) -> None:
        running = await begun(model, endless())
        start_s = time.perf_counter()
        with pytest.raises(QueueFull, match=r"a budget of 0\.4 s is too short now"):
            await answer(model.run(request(budget=Budget(limit_s=0.4))))
        assert 0.2 < time.perf_counter() - start_s <= 0.7
        await running.aclose()
        assert (await answer(model.run(request(budget=Budget(limit_s=2.0), seed=1)))).answer == "4"

    run(engine, act, max_running=1)


def test_seconds_beside_others_are_kept() -> None:
    engine = SlowEngine([ENDLESS], context_tokens=100_000, step_s=0.01)

    async def act(model: AsyncModel) -> None:
        running = await begun(model, endless())
        for _ in range(3):
            start_s = time.perf_counter()
            response = await answer(model.run(request("x" * 100, budget=Budget(limit_s=1.0))))
            assert response.answer == "6"
            assert time.perf_counter() - start_s < 1.3
        await running.aclose()

    run(engine, act)


# Prompts


def test_the_same_question_again_and_the_next_turn_encode_what_is_new() -> None:
    async def act(model: AsyncModel) -> None:
        first = await answer(model.run(request()))
        harder = await answer(model.run(request(streams=3)))
        assert (first.usage.cached_tokens, harder.usage.cached_tokens) == (0, harder.usage.prompt_tokens)
        talk = (Message("user", "2+2?"), Message("assistant", first.text), Message("user", "Sure?"))
        turn = await answer(model.run(Request(messages=talk, mode=Mode.CHAT)))
        assert turn.usage.cached_tokens == first.usage.prompt_tokens
        figures = model.load_figures()
        assert figures.cells_kept == turn.usage.prompt_tokens
        assert figures.cells_total > figures.cells_kept

    run(SlowEngine([FOUR]), act)


def test_prompts_that_are_kept_do_not_have_the_context_made_anew() -> None:
    engine = SlowEngine([FOUR])
    ledgers: set[int] = set()

    async def act(model: AsyncModel) -> None:
        for n in range(20):
            await answer(model.run(request(f"{n} + {n}?")))
            await until(lambda: model.load_figures().running_requests == 0)
            ledgers.add(id(engine._ledger))
        assert len(ledgers) == 1
        await answer(model.run(request("x" * 3000)))  # larger than any before
        figures = model.load_figures()
        assert figures.cells_kept > 3000

    run(engine, act)


def test_a_conversation_that_is_too_long_is_told_what_to_drop_before_it_waits() -> None:
    async def act(model: AsyncModel) -> None:
        async with model.session() as session:
            await session.ask("x" * 200, mode="chat", max_tokens=20)
            await session.ask("Sure?", mode="chat", max_tokens=20)
            with pytest.raises(ContextOverflow, match=r"the conversation needs .*: drop the first turn"):
                await session.stream("y" * 200, mode="chat", max_tokens=20).admitted()
            assert len(session.messages) == 4

    run(SlowEngine(["It is 4."], context_tokens=500), act)


def test_without_a_cache_nothing_is_kept() -> None:
    engine = SlowEngine([FOUR])

    async def act(model: AsyncModel) -> None:
        await answer(model.run(request()))
        assert (await answer(model.run(request()))).usage.cached_tokens == 0
        await until(lambda: engine.live_sequences == 0)

    run(engine, act, cache_mib=0)


def test_a_client_that_goes_while_its_prompt_is_read_frees_its_cells_after_one_chunk() -> None:
    engine = SlowEngine([ENDLESS], context_tokens=100_000, token_s=0.0002)

    async def act(model: AsyncModel) -> None:
        running = await begun(model, endless())
        events = model.run(request("x" * 3000))
        async for event in events:
            if isinstance(event, Reading) and event.done_tokens:
                break
        await events.aclose()
        await until(lambda: model.load_figures().running_requests == 1)
        assert sum(tokens for tokens in engine.decoded if tokens > 1) < 1000
        await running.aclose()

    run(engine, act, cache_mib=0)


def test_streams_go_on_while_a_prompt_is_read() -> None:
    engine = SlowEngine([ENDLESS, FOUR], context_tokens=100_000, token_s=0.0005)

    async def act(model: AsyncModel) -> None:
        running = await begun(model, endless())
        engine.did.clear()
        response = await answer(model.run(request("x" * 2000, seed=1)))
        chunks = [tokens for tokens in engine.did if tokens > 1][:32]
        assert chunks[:31] == [64] * 31  # all of the prompt but its last, smaller one
        assert sum(chunks) == response.usage.prompt_tokens - response.usage.cached_tokens
        between = "".join("c" if tokens > 1 else "s" for tokens in engine.did).split("c")[1:32]
        assert all(between)  # steps after every chunk but the last
        # A chunk takes 32 ms or more, a step 1 ms or more, and steps take as long as the chunk before them.
        assert sum(map(len, between)) > 2 * len(between)
        await running.aclose()

    run(engine, act)


# What callers want


def test_answer_now_ends_the_thinking() -> None:
    async def act(model: AsyncModel) -> None:
        events = await begun(model, endless(streams=2))
        events.answer_now()
        response = await answer(events)
        assert response.answer == "6"
        assert response.usage.thinking_tokens < 1000

    run(SlowEngine([ENDLESS]), act)


def test_answer_now_before_the_request_begins_counts_when_it_does() -> None:
    async def act(model: AsyncModel) -> None:
        events = model.run(endless())
        events.answer_now()
        assert (await answer(events)).usage.thinking_tokens < 30

    run(SlowEngine([ENDLESS]), act)


def test_what_nobody_reads_is_put_together_and_ended_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "STALLED_S", 0.3)
    engine = SlowEngine([ENDLESS], context_tokens=100_000)

    async def act(model: AsyncModel) -> None:
        stalled = await begun(model, endless(streams=4))
        asked = stalled._asked
        assert asked is not None
        await asyncio.sleep(0.15)
        assert 1 <= len(asked.mailbox._items) <= 8
        await until(lambda: model.load_figures().running_requests == 0)
        with pytest.raises(RequestError, match=r"nobody read the events for 0\.3 s"):
            await read(stalled)

    run(engine, act)


def test_texts_that_are_put_together_are_the_texts_that_were_said() -> None:
    engine = SlowEngine([FOUR])

    async def act(model: AsyncModel) -> None:
        events = model.run(request(streams=3))
        await events.admitted()
        await until(lambda: engine.did.count(0) > 40 and engine.live_sequences == 0)  # all is said
        told = await read(events)
        texts = [event for event in told if isinstance(event, Text)]
        assert len(texts) <= 6
        last = told[-1]
        assert isinstance(last, Answered)
        for candidate in last.response.candidates:
            said = "".join(text.text for text in texts if text.stream == candidate.trace.index)
            assert said == FOUR
        kinds = [type(event) for event in told]
        assert kinds.index(Routed) < kinds.index(Text)

    run(engine, act, cache_mib=0)


# The end


def test_closing_with_time_lets_what_runs_answer_and_refuses_the_rest() -> None:
    engine = SlowEngine([ENDLESS, FOUR], context_tokens=100_000)

    async def main() -> None:
        model = AsyncModel(Model(engine), max_running=2)
        running = [asyncio.create_task(answer(await begun(model, endless()))) for _ in range(2)]
        waiting = asyncio.create_task(answer(model.run(request())))
        await until(lambda: model.load_figures().waiting_requests == 1)
        closing = asyncio.create_task(model.close(drain_s=10.0))
        with pytest.raises(Unavailable, match="clos"):
            await waiting
        with pytest.raises(Unavailable):
            await model.run(request()).admitted()
        assert [one.answer for one in await asyncio.gather(*running)] == ["6", "6"]
        await asyncio.wait_for(closing, 5)

    asyncio.run(main())


def test_what_has_not_answered_when_the_time_is_over_is_told_so() -> None:
    engine = SlowEngine([ENDLESS], context_tokens=100_000)

    async def main() -> None:
        model = AsyncModel(Model(engine))
        events = await begun(
            model, Request(messages=(Message("user", "Hi?"),), mode=Mode.CHAT, max_tokens=20_000)
        )
        start_s = time.perf_counter()
        closing = asyncio.create_task(model.close(drain_s=0.3))
        await asyncio.sleep(0.05)
        assert model.load_figures().draining
        with pytest.raises(Unavailable, match="closed before the answer"):
            await read(events)
        await closing
        assert 0.25 < time.perf_counter() - start_s < 1.0
        assert model.load_figures() == Load()

    asyncio.run(main())


def test_a_worker_that_fails_tells_everyone_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = SlowEngine([ENDLESS], context_tokens=100_000)

    async def act(model: AsyncModel) -> None:
        events = await begun(model, endless())
        monkeypatch.setattr(worker.Worker, "_publish", lambda self: 1 / 0)
        with pytest.raises(Unavailable, match="the model has failed: division by zero"):
            await read(events)
        await until(lambda: model.load_figures().failed is not None)
        assert model.load_figures().failed == "ZeroDivisionError: division by zero"
        with pytest.raises(Unavailable, match="has failed"):
            await answer(model.run(request()))

    run(engine, act)


def test_figures_tell_how_busy_a_model_is() -> None:
    engine = SlowEngine([ENDLESS], context_tokens=100_000)

    async def act(model: AsyncModel) -> None:
        assert model.load_figures() == Load(cells_total=0) or model.load_figures().cells_total == 100_000
        running = await begun(model, endless(streams=2))
        waiting = model.run(endless())
        await waiting.admitted()
        await until(lambda: model.load_figures().waiting_requests == 1)
        figures = model.load_figures()
        assert (figures.running_requests, figures.running_streams) == (1, 2)
        assert figures.cells_running > 40
        assert (figures.cells_kept, figures.draining, figures.failed) == (0, False, None)
        await running.aclose()

    run(engine, act, max_running=2)


@pytest.mark.parametrize("options", [{"max_running": 0}, {"max_waiting": -1}, {"cache_mib": -1}])
def test_limits_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(RequestError, match=next(iter(options))):
        AsyncModel(Model(ScriptedEngine()), **options)


def test_a_pause_lets_texts_come_together_and_ends_with_the_last_event() -> None:
    async def main() -> list[list[Event]]:
        async with AsyncModel(Model(ScriptedEngine(["word " * 30]))) as model:
            events = model.stream("?", mode="chat")
            await events.pause(60)  # nothing was begun, so there is nothing to wait for
            batches = [await events.take()]
            await events.pause(60)
            while batch := await events.take():
                batches.append(batch)
        return batches

    batches = asyncio.run(main())
    assert isinstance(batches[-1][-1], Answered)
    texts = [event.text for batch in batches for event in batch if isinstance(event, Text)]
    assert "".join(texts) == "word " * 30
    assert len(texts) <= 2
