"""Many requests on one real engine: prompts read in chunks, kept, branched off; threads that tokenize."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgereason.core.types import Budget, Message, Mode, Request, Response, Sampling
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import EngineError
from edgereason.heads.features import PENULTIMATE, PromptFeatures
from edgereason.reasoning.async_model import AsyncEvents, AsyncModel
from edgereason.reasoning.events import Answered, Reading, Text
from edgereason.reasoning.model import Model
from edgereason.reasoning.plan import Room
from edgereason.reasoning.prefix import Prefix

pytestmark = pytest.mark.model
STORY = "Tom lives in a small house by the river, and every morning he walks to the market. "
SYSTEM = Message("system", STORY * 8)
GREEDY = Sampling(temperature=0)


@pytest.fixture
def engine(real_model: Path) -> Iterator[LlamaEngine]:
    with LlamaEngine(real_model) as engine:
        yield engine


class Reader:
    """A switcher that keeps the features which it would read."""

    threshold = 0.5
    layer = PENULTIMATE

    def __init__(self, hidden_size: int) -> None:
        self.hidden_size = hidden_size

    def reader(self, state: dict[str, np.ndarray] | None = None) -> Reader:
        new = PromptFeatures(self.hidden_size)
        self.features = new if state is None else PromptFeatures.restored(self.hidden_size, state)
        return self

    def push(self, states: np.ndarray) -> None:
        self.features.push(states)

    def state(self) -> dict[str, np.ndarray]:
        return self.features.state()

    def p_think(self) -> float:
        return 0.0


def run(engine: LlamaEngine, act: Callable[[AsyncModel], Awaitable[None]], **options: int) -> None:
    async def main() -> None:
        async with AsyncModel(Model(engine), **options) as model:
            await act(model)

    asyncio.run(main())


async def answer(events: AsyncEvents) -> Response:
    async with events:
        async for event in events:
            if isinstance(event, Answered):
                return event.response
    raise AssertionError


def chat(*messages: Message, max_tokens: int = 12) -> Request:
    return Request(messages=messages, mode=Mode.CHAT, max_tokens=max_tokens, sampling=GREEDY)


def test_what_is_branched_off_a_kept_prompt_answers_as_what_is_encoded_afresh(real_model: Path) -> None:
    questions = [Message("user", f"What is {n} + {n}?") for n in range(3, 6)]
    with LlamaEngine(real_model) as engine:
        fresh = [
            Model(engine).ask([SYSTEM, question], mode="chat", max_tokens=12, temperature=0)
            for question in questions
        ]

    async def act(model: AsyncModel) -> None:
        for question, alone in zip(questions, fresh, strict=True):
            response = await answer(model.run(chat(SYSTEM, question)))
            # The same ids, read in other pieces: rounding differs, so a late token may.
            assert response.text[:10] == alone.text[:10]
            assert (response.usage.cached_tokens > 100) == (question is not questions[0])
        talk = (SYSTEM, questions[0], Message("assistant", fresh[0].text), Message("user", "Sure?"))
        turn = await answer(model.run(chat(*talk)))
        assert turn.usage.cached_tokens >= fresh[0].usage.prompt_tokens
        harder = await answer(
            model.run(Request(messages=talk, mode=Mode.THINK, budget=Budget(limit_tokens=48), streams=3))
        )
        assert harder.usage.cached_tokens == harder.usage.prompt_tokens
        figures = model.load_figures()
        assert (figures.cells_running, figures.running_streams) == (0, 0)
        # All begin alike, and the cells of that are there once.
        assert (
            figures.cells_kept < sum(one.usage.prompt_tokens for one in fresh[1:]) + turn.usage.prompt_tokens
        )

    with LlamaEngine(real_model) as engine:
        run(engine, act)


def test_streams_go_on_beside_a_prompt_that_is_read_and_both_say_what_they_say_alone(
    real_model: Path,
) -> None:
    long, short = chat(Message("user", STORY * 40)), chat(Message("user", "Count to 100."), max_tokens=120)
    with LlamaEngine(real_model) as engine:
        alone = [
            Model(engine).ask(one.messages, mode="chat", max_tokens=one.max_tokens, temperature=0)
            for one in (long, short)
        ]
    order: list[str] = []

    async def act(model: AsyncModel) -> None:
        async def follow(name: str, asked: Request) -> Response:
            async with model.run(asked) as events:
                async for event in events:
                    if isinstance(event, Text | Reading):
                        order.append(name if isinstance(event, Text) else "read")
                    if isinstance(event, Answered):
                        return event.response
            raise AssertionError

        running = asyncio.create_task(follow("short", short))
        while "short" not in order:
            await asyncio.sleep(0.001)
        beside = await follow("long", long)
        short_response = await running
        assert beside.text[:10] == alone[0].text[:10]
        assert short_response.text[:30] == alone[1].text[:30]

    with LlamaEngine(real_model, context_tokens=4096) as engine:
        run(engine, act, cache_mib=0)
    read = [i for i, what in enumerate(order) if what == "read"]
    assert len(read) >= 5
    assert "short" in order[read[0] : read[-1]]


def test_a_switcher_reads_the_same_of_small_chunks_as_of_large_ones(engine: LlamaEngine) -> None:
    prompt = Model(engine).pipeline.prompt(Request(messages=(SYSTEM, Message("user", STORY * 4))))
    found = []
    for chunk_tokens in (512, 64, 37):
        reader = Reader(engine.info.hidden_size)
        with Prefix(engine, reader) as prefix, prefix.reserved(Room(len(prompt), 2, len(prompt))):
            for _ in prefix.chunks(prompt, lambda tokens=chunk_tokens: tokens):
                pass
            found.append(reader.features.value())
    for other in found[1:]:
        # Rows have length 1; kernels for other numbers of rows round otherwise.
        assert np.abs(other - found[0]).max() < 0.02
        assert float(other @ found[0]) / float(np.linalg.norm(other) * np.linalg.norm(found[0])) > 0.999


def test_a_kept_prompt_that_left_the_context_can_be_branched_off_outside_of_it(engine: LlamaEngine) -> None:
    model = Model(engine)
    prompts = [
        model.pipeline.prompt(Request(messages=(SYSTEM, Message("user", text)))) for text in ("2+2?", "3+3?")
    ]
    room = Room(2 * len(prompts[0]) + 100, 4, len(prompts[0]))
    with model.pipeline.prefixes(1 << 30) as kept:
        with kept.lent(prompts[0].ids) as first, first.reserved(room):
            assert first.become(prompts[0], lambda: False)
        with engine.reserve(cells=engine.num_cells, sequences=1):
            assert engine.used_cells == 0
        with kept.lent(prompts[1].ids) as second, second.reserved(room):
            assert second.become(prompts[1], lambda: False)
            assert second.fresh_tokens < 20
            ours = engine.logits(second.sequence_to_sample())
        with Prefix(engine) as fresh, fresh.reserved(room):
            assert fresh.become(prompts[1], lambda: False)
            theirs = engine.logits(fresh.sequence_to_sample())
    assert int(ours.argmax()) == int(theirs.argmax())
    assert np.abs(ours - theirs).max() < 0.5


def test_any_thread_may_tokenize_while_the_engine_works_and_is_closed(real_model: Path) -> None:
    engine = LlamaEngine(real_model)
    expected, outcomes = engine.tokenize(STORY * 20), []

    def tokenize() -> None:
        try:
            while True:
                assert engine.tokenize(STORY * 20) == expected
        except EngineError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=tokenize) for _ in range(3)]
    for thread in threads:
        thread.start()
    Model(engine).ask("Hi?", mode="chat", max_tokens=16)
    engine.close()
    for thread in threads:
        thread.join()
    assert outcomes == ["the engine is closed: load the model again"] * 3


def test_a_context_of_fixed_size_has_slots_for_as_many_requests_as_fit(real_model: Path) -> None:
    most = 0

    async def act(model: AsyncModel) -> None:
        nonlocal most
        tasks = [
            asyncio.create_task(answer(model.run(chat(Message("user", f"{n}?"), max_tokens=200))))
            for n in range(8)
        ]
        while not all(task.done() for task in tasks):
            most = max(most, model.load_figures().running_requests)
            await asyncio.sleep(0.001)

    with LlamaEngine(real_model, context_tokens=1024) as engine:
        run(engine, act, max_running=8)
    assert most >= 3  # of some 240 cells each
