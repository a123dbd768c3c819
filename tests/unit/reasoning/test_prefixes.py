"""Prompt KVs kept from one request to the next: what is encoded, what is shared, what is forgotten."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from edgereason.core.types import Budget, Message, Mode, Request, Response
from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import NoRoomNow
from edgereason.heads.features import PromptFeatures
from edgereason.reasoning.batch import Batch
from edgereason.reasoning.pipeline import Pipeline
from edgereason.reasoning.plan import Room
from edgereason.reasoning.prefixes import Prefixes
from edgereason.reasoning.runs import drive, last_response
from watched import EncodingsNoted

FOUR = "2+2 is 4.\n</think>\n\nThe final answer is 4."
SYSTEM = Message("system", "You are a patient teacher of arithmetic, and you show your work.")
CELL_BYTES = 64
"""Of the scripted engine."""


class WatchedEngine(EncodingsNoted, ScriptedEngine):
    pass


class FeatureSwitcher:
    threshold = 0.5
    layer = -2

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def reader(self, state: object = None) -> FeatureReader:
        features = PromptFeatures(16) if state is None else PromptFeatures.restored(16, state)  # type: ignore[arg-type]
        return FeatureReader(features, self.seen)


class FeatureReader:
    def __init__(self, features: PromptFeatures, seen: list[np.ndarray]) -> None:
        self._features = features
        self._seen = seen

    def push(self, states: np.ndarray) -> None:
        self._features.push(states)

    def state(self) -> dict[str, np.ndarray]:
        return self._features.state()

    def p_think(self) -> float:
        self._seen.append(self._features.value())
        return 0.75


class Bench:
    """A pipeline whose prompts are kept."""

    def __init__(
        self, *, most_bytes: int = 1 << 20, context_tokens: int | None = None, **parts: object
    ) -> None:
        self.engine = WatchedEngine([FOUR], context_tokens=context_tokens)
        self.pipeline = Pipeline(self.engine, **parts)  # type: ignore[arg-type]
        self.kept = self.pipeline.prefixes(most_bytes)

    def ask(self, *messages: Message, **options: object) -> Response:
        options.setdefault("mode", Mode.THINK)
        options.setdefault("budget", Budget(limit_tokens=100))
        request = Request(messages=messages, **options)  # type: ignore[arg-type]
        batch = Batch(self.engine)
        return last_response(drive(self.pipeline.run(request, batch, prefix=self.kept), batch))

    def prompt_of(self, *messages: Message) -> tuple[int, ...]:
        return self.pipeline.prompt(Request(messages=messages)).ids


def user(text: str) -> Message:
    return Message("user", text)


def test_the_same_prompt_again_is_not_encoded_again() -> None:
    bench = Bench()
    first = bench.ask(SYSTEM, user("2+2?"))
    assert first.usage.cached_tokens == 0
    bench.engine.take_encoded()
    harder = bench.ask(SYSTEM, user("2+2?"), streams=4)
    assert harder.usage.cached_tokens == harder.usage.prompt_tokens == first.usage.prompt_tokens
    assert bench.engine.take_encoded() == [len("<think>\n") + len("Let me work this out step by step.\n")]
    chat = bench.ask(SYSTEM, user("2+2?"), mode=Mode.CHAT)
    assert chat.usage.cached_tokens == chat.usage.prompt_tokens
    assert bench.engine.take_encoded() == [1]  # the last token, for its logits
    assert len(bench.kept) == 1


def test_the_next_turn_encodes_answer_and_question_and_takes_the_old_ones_place() -> None:
    bench = Bench()
    first = bench.ask(SYSTEM, user("2+2?"))
    talk = (SYSTEM, user("2+2?"), Message("assistant", first.text), user("Sure?"))
    second = bench.ask(*talk)
    assert second.usage.cached_tokens == first.usage.prompt_tokens
    assert len(bench.kept) == 1
    assert bench.engine.used_cells == second.usage.prompt_tokens


@pytest.mark.parametrize("switcher", [None, FeatureSwitcher()], ids=["bare", "with a switcher"])
def test_questions_under_one_system_prompt_share_its_cells(switcher: FeatureSwitcher | None) -> None:
    bench = Bench(switcher=switcher, context_tokens=4000)
    questions = ["2+2?", "What is 3+3?", "Is 4 even?"]
    lengths = [len(bench.prompt_of(SYSTEM, user(question))) for question in questions]
    begin = len(bench.prompt_of(SYSTEM, user("2+2?"))) - len("2+2?E\nBassistant\n")
    responses = [bench.ask(SYSTEM, user(question), mode=Mode.AUTO) for question in questions]
    assert [response.usage.cached_tokens for response in responses] == [0, begin, begin]
    assert bench.engine.used_cells == sum(lengths) - 2 * begin


def test_a_switcher_sees_of_a_shared_prompt_what_it_sees_of_a_fresh_one() -> None:
    shared, fresh = FeatureSwitcher(), FeatureSwitcher()
    bench = Bench(switcher=shared)
    for question in ("2+2?", "What is 3+3?"):
        bench.ask(SYSTEM, user(question), mode=Mode.AUTO)
    Bench(switcher=fresh).ask(SYSTEM, user("What is 3+3?"), mode=Mode.AUTO)
    assert shared.seen[-1] == pytest.approx(fresh.seen[-1], abs=1e-6)


def test_a_prompt_in_use_is_branched_off_and_stays_as_it_is() -> None:
    bench = Bench(context_tokens=4000)
    prompts = [bench.pipeline.prompt(Request(messages=(SYSTEM, user(text)))) for text in ("2+2?", "2+3?")]
    with ExitStack() as held:
        first = held.enter_context(bench.kept.lent(prompts[0].ids))
        held.enter_context(first.reserved(Room(500, 3, 500)))
        assert first.become(prompts[0], lambda: False)
        for prompt, shared in ((prompts[0], len(prompts[0])), (prompts[1], len(prompts[1]) - 15)):
            other = held.enter_context(bench.kept.lent(prompt.ids))
            assert other is not first
            held.enter_context(other.reserved(Room(500, 3, 500)))
            assert other.become(prompt, lambda: False)
            assert other.fresh_tokens == len(prompt) - shared  # behind "2+": "3?", the end, the next header
            assert bench.engine.tokens(other.sequence) == [*prompt.ids]
        assert bench.engine.tokens(first.sequence) == [*prompts[0].ids]
    assert len(bench.kept) == 2  # two of them were the same


def test_what_was_used_longest_ago_is_forgotten_beyond_so_many_bytes() -> None:
    length = len(Bench().prompt_of(user("a" * 100)))
    bench = Bench(most_bytes=2 * length * CELL_BYTES)
    for letter in "abac":
        bench.ask(user(letter * 100))
    assert [bench.ask(user(letter * 100)).usage.cached_tokens == length for letter in "ac"] == [True, True]
    assert bench.ask(user("b" * 100)).usage.cached_tokens < length
    assert bench.kept.num_bytes <= 2 * length * CELL_BYTES


def test_no_bytes_keep_nothing() -> None:
    bench = Bench(most_bytes=0)
    bench.ask(user("2+2?"))
    assert (len(bench.kept), bench.engine.used_cells, bench.engine.live_sequences) == (0, 0, 0)


def test_cells_are_given_up_to_who_wants_them_and_the_prompt_comes_back() -> None:
    bench = Bench(context_tokens=700)
    first = bench.ask(user("a" * 200))
    with bench.engine.reserve(cells=700, sequences=3):
        assert bench.engine.used_cells == 0
    bench.engine.take_encoded()
    again = bench.ask(user("a" * 200))
    assert again.usage.cached_tokens == first.usage.prompt_tokens
    assert bench.engine.used_cells == first.usage.prompt_tokens
    other = bench.ask(user("a" * 100 + "b"))  # branches off
    with bench.engine.reserve(cells=700, sequences=3):
        pass
    third = bench.ask(user("a" * 100 + "c"))  # branches off what is outside of the context
    assert third.usage.cached_tokens > 100
    assert third.candidates == other.candidates


def test_a_request_without_room_leaves_what_is_kept_as_it_was() -> None:
    bench = Bench(context_tokens=700)
    bench.ask(SYSTEM, user("2+2?"))
    before = bench.engine.used_cells
    with bench.engine.reserve(cells=700 - before, sequences=1):
        for text in ("2+2?", "2+3?"):
            with pytest.raises(NoRoomNow):
                bench.ask(SYSTEM, user(text))
            assert (len(bench.kept), bench.engine.used_cells) == (1, before)


def test_what_an_adapter_encoded_is_never_kept() -> None:
    # As llama.cpp's server once did, its issue #26207.
    bench = Bench()
    adapter = bench.engine.load_adapter(Path("lora.gguf"))
    bench.pipeline = Pipeline(bench.engine, adapter=adapter)
    bench.kept = bench.pipeline.prefixes(1 << 20)
    thought = bench.ask(SYSTEM, user("2+2?"), streams=3)
    assert bench.engine.used_cells == thought.usage.prompt_tokens
    said = "2+2 is 4.\n</think>\n\nThe final answer is 4."
    next_turn = bench.ask(SYSTEM, user("2+2?"), Message("assistant", said), user("Sure?"))
    assert next_turn.usage.cached_tokens == thought.usage.prompt_tokens  # the answer is encoded by the base
    bench.engine.unload_adapter(adapter)  # refused while a sequence of its is alive


def test_many_branches_of_one_prompt_cost_no_more_memory_each() -> None:
    bench = Bench(most_bytes=400 * CELL_BYTES)
    for number in range(300):
        bench.ask(SYSTEM, user(f"{number}?"))
    depth, segment = 0, next(iter(bench.engine._ledger.live)).segment
    while segment is not None:
        depth, segment = depth + 1, segment.parent  # type: ignore[assignment]
    assert depth < 20
    bench.kept.close()
    assert (bench.engine.used_cells, bench.engine.live_sequences) == (0, 0)


def test_an_empty_pool_misses_the_whole_prompt() -> None:
    bench = Bench()
    assert bench.kept.missing((1, 2, 3)) == 3
    assert isinstance(bench.kept, Prefixes)
