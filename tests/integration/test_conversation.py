"""Conversations with a real model (SmolLM2-135M): thinking harder, long talks, saved and loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import edgereason
from edgereason.core.types import Response
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import BundleError, ContextOverflow
from edgereason.reasoning.model import Model
from watched import EncodingsNoted

pytestmark = pytest.mark.model
QUESTION = "Tom has 3 apples and buys 5 more. How many apples does Tom have?"
STORY = "Tom lives in a small house by the river, and every morning he walks to the market. " * 12


class WatchedEngine(EncodingsNoted, LlamaEngine):
    pass


@pytest.fixture
def engine(real_model: Path) -> Iterator[WatchedEngine]:
    with WatchedEngine(real_model) as engine:
        yield engine


def texts(response: Response) -> list[str]:
    return [(c.trace.thinking or "") + c.trace.text for c in response.candidates]


def test_thinking_harder_after_a_long_prompt_encodes_the_opening_only(engine: WatchedEngine) -> None:
    model = Model(engine)
    with model.session() as session:
        session.ask(STORY + QUESTION, mode="chat", max_tokens=12, temperature=0)
        prompt_tokens = session.prompt_tokens
        assert prompt_tokens > 200
        cells = engine.num_cells
        engine.take_encoded()
        harder = session.think_harder(budget=48, streams=8, temperature=0)
        assert engine.num_cells > cells  # the context was made anew for eight streams, the prompt's KV kept
        assert sum(engine.take_encoded()) == len(engine.tokenize("<think>\n")) + len(
            engine.tokenize("Let me work this out step by step.\n")
        )
        again = session.think_harder(mode="chat", max_tokens=12, temperature=0)
        assert engine.take_encoded() == [1]
        assert session.prompt_tokens == engine.used_cells == prompt_tokens
    alone = model.ask(STORY + QUESTION, mode="think", budget=48, temperature=0)
    # Eight streams sum in another order than one, so a greedy trace may leave its twin late.
    assert texts(harder)[0][:30] == texts(alone)[0][:30]
    assert again.text[:20] == model.ask(STORY + QUESTION, mode="chat", max_tokens=12, temperature=0).text[:20]


def test_turns_say_what_requests_with_the_same_messages_say(smollm2: Path) -> None:
    # Six layers are of two minds at every token: rounding alone would decide.
    with edgereason.load(smollm2) as model, model.session(system="Answer briefly.") as session:
        for question in (QUESTION, "And if he eats one?", "And if he gives two away?"):
            said = session.ask(question, mode="chat", max_tokens=24, temperature=0)
            alone = model.ask(session.messages[:-1], mode="chat", max_tokens=24, temperature=0)
            # The same ids, encoded in other pieces: rounding differs, so a late token may.
            assert said.usage.prompt_tokens == alone.usage.prompt_tokens
            assert said.text[:30] == alone.text[:30]


def test_a_saved_conversation_says_next_what_it_would_have_said(
    engine: WatchedEngine, real_model: Path, tmp_path: Path
) -> None:
    with Model(engine).session() as session:
        session.ask(STORY + QUESTION, mode="chat", max_tokens=12, temperature=0)
        session.save(tmp_path / "talk.kv")
        thought = session.think_harder(budget=48, temperature=0)
    with edgereason.load(real_model) as other, other.load_session(tmp_path / "talk.kv") as loaded:
        assert texts(loaded.think_harder(budget=48, temperature=0)) == texts(thought)
        assert loaded.messages[0].content == STORY + QUESTION
        assert other.engine.used_cells == loaded.prompt_tokens
    with (
        edgereason.load(real_model, kv="q8_0") as q8,
        pytest.raises(BundleError, match=r"another engine: llama-cpp-python \S+ f16, and .* q8_0"),
    ):
        q8.load_session(tmp_path / "talk.kv")


def test_a_conversation_longer_than_a_fixed_context_goes_on_when_turns_are_dropped(real_model: Path) -> None:
    with edgereason.load(real_model, context_tokens=512) as model, model.session() as session:
        session.ask(STORY, mode="chat", max_tokens=12)
        with pytest.raises(ContextOverflow, match=r"drop the first turn \(\d+ tokens\), or load with"):
            session.ask(STORY + STORY[:300], mode="think", budget=64)
        session.drop(1)
        assert session.ask(STORY + STORY[:300], mode="think", budget=64).text
        assert len(session.messages) == 2


def test_a_question_stopped_while_it_is_read_goes_on_where_it_was_stopped(engine: WatchedEngine) -> None:
    question = "Tom lives in a small house by the river, and every morning he walks to the market. " * 40
    with Model(engine).session() as session:
        list(session.stream(question, mode="chat", max_tokens=4, should_stop=lambda: True))
        assert (session.messages, session.prompt_tokens) == ((), 512)
        engine.take_encoded()
        prompt_tokens = session.ask(question, mode="chat", max_tokens=4).usage.prompt_tokens
        assert engine.take_encoded() == [prompt_tokens - 512]
