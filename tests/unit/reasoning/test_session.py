"""Conversations on the scripted engine: what is encoded again (nothing), and what errors leave behind."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgereason.core.bundle import Base, Bundle, Part, file_sha256
from edgereason.core.chat import CLOSING, OPENING
from edgereason.core.types import Message, Route, Stop
from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import BundleError, ConfigError, ContextOverflow, EngineError, RequestError
from edgereason.heads.base import Array
from edgereason.heads.features import PromptFeatures
from edgereason.reasoning.events import Answered, Event, Routed, Text
from edgereason.reasoning.model import Model
from edgereason.reasoning.prompt_cache import MAGIC
from edgereason.reasoning.session import Session
from watched import EncodingsNoted

SAYS = "2+2 is 4.\n</think>\n\nThe final answer is 4."
ENDLESS = "hm " * 900 + "\n</think>\n\nThe final answer is 6."


class FeatureReader:
    """Says what the features' first value makes of a sigmoid."""

    def __init__(self, features: PromptFeatures) -> None:
        self.features = features

    def push(self, states: Array) -> None:
        self.features.push(states)

    def p_think(self) -> float:
        return float(1 / (1 + np.exp(-self.features.value()[0])))

    def state(self) -> dict[str, Array]:
        return self.features.state()


class FeatureSwitcher:
    threshold = 0.5
    layer = -2

    def reader(self, state: Mapping[str, Array] | None = None) -> FeatureReader:
        return FeatureReader(PromptFeatures(16) if state is None else PromptFeatures.restored(16, state))


class WatchedEngine(EncodingsNoted, ScriptedEngine):
    pass


def prompt_of(engine: ScriptedEngine, *messages: tuple[str, str]) -> list[int]:
    """What the template makes of a conversation, written out."""
    said = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in messages)
    return engine.tokenize(said + "<|im_start|>assistant\n", special=True)


def with_bundle(
    engine: ScriptedEngine,
    folder: Path,
    *,
    base: str = "b" * 64,
    adapter: bytes = b"GGUF",
    heads: bytes = b"heads",
) -> Model:
    """A model whose adapter and heads are some files; the scripted engine reads neither."""
    (folder / "heads.safetensors").write_bytes(heads)
    (folder / "reasoning.gguf").write_bytes(adapter)
    bundle = Bundle(
        folder=folder,
        base=Base(
            name="b",
            sha256=base,
            arch="scripted",
            hidden_size=16,
            num_layers=2,
            vocab_sha256=engine.vocab_sha256(),
        ),
        opening_ids=tuple(engine.tokenize(OPENING)),
        closing=CLOSING,
        adapter=Part(file="reasoning.gguf", sha256=file_sha256(folder / "reasoning.gguf")),
        heads=Part(file="heads.safetensors", sha256=file_sha256(folder / "heads.safetensors")),
    )
    return Model(engine, bundle, switcher=FeatureSwitcher())


OPENED = len("<think>\nLet me work this out step by step.\n")


def test_a_turn_encodes_only_what_the_one_before_did_not() -> None:
    engine = WatchedEngine(["It is 4."])
    first = prompt_of(engine, ("user", "2+2?"))
    second = prompt_of(engine, ("user", "2+2?"), ("assistant", "It is 4."), ("user", "Sure?"))
    with Model(engine).session() as session:
        session.ask("2+2?", mode="chat")
        session.ask("Sure?", mode="chat")
        assert engine.take_encoded() == [len(first), len(second) - len(first)]
        assert session.prompt_tokens == len(second)
    assert session.messages[-1] == Message("assistant", "It is 4.")
    assert len(session.messages) == 4


def test_thinking_harder_encodes_no_prompt_token_again() -> None:
    engine = WatchedEngine([SAYS])
    with Model(engine).session() as session:
        session.ask("2+2?", mode="chat")
        engine.take_encoded()
        response = session.think_harder(streams=3)
        assert engine.take_encoded() == [OPENED]  # the opening, once for all streams
        assert (response.route, response.answer, len(response.candidates)) == (Route.THINK, "4", 3)


def test_chat_think_and_chat_again_share_one_prompt() -> None:
    engine = WatchedEngine([SAYS])
    with Model(engine).session() as session:
        first = session.ask("2+2?", mode="chat", max_tokens=200)
        session.think_harder()
        engine.take_encoded()
        again = session.think_harder(mode="chat")
        assert engine.take_encoded() == [1]  # the logits behind the prompt: its last token
        assert (again.route, again.text) == (first.route, first.text)
        assert session.messages == (Message("user", "2+2?"), Message("assistant", first.text))


def test_thinking_never_reaches_the_next_prompt_and_only_the_base_encodes_it(tmp_path: Path) -> None:
    engine = WatchedEngine([SAYS])
    asked = [("user", "2+2?"), ("assistant", "The final answer is 4."), ("user", "Sure?")]
    with with_bundle(engine, tmp_path).session() as session:
        session.ask("2+2?", mode="think", budget=100)
        session.ask("Sure?", mode="think", budget=100)
        assert session._prefix.sequence.encoder is None
        assert engine.tokens(session._prefix.sequence) == prompt_of(engine, *asked)


def test_a_session_says_what_a_request_with_the_same_messages_says() -> None:
    for mode in ("chat", "think"):
        with Model(WatchedEngine([SAYS, "Yes.", ENDLESS])).session(system="Be kind.") as session:
            session.ask("2+2?", mode=mode, seed=0)
            turn = session.ask("Sure?", mode=mode, streams=3, budget=80, seed=1, temperature=0)
            asked = session.messages[:-1]
        alone = Model(WatchedEngine([SAYS, "Yes.", ENDLESS])).ask(
            asked, mode=mode, streams=3, budget=80, seed=1, temperature=0
        )
        assert (turn.candidates, turn.answer) == (alone.candidates, alone.answer)
        assert replace(turn.usage, cached_tokens=0) == alone.usage
        assert turn.usage.cached_tokens > 0
        assert turn.kv_bytes == alone.kv_bytes


# Thinking harder by default


def limits(session: Session, **options: object) -> tuple[int, int]:
    """Most tokens of a stream, and how many streams, when the session thinks harder."""
    events = session.stream_harder(**options)  # type: ignore[arg-type]
    (routed,) = (event for event in events if isinstance(event, Routed))
    return routed.limit_tokens, routed.num_streams


def test_by_default_it_thinks_with_the_effort_above_the_last() -> None:
    engine = WatchedEngine(["hm " * 3000])
    with Model(engine).session() as session:
        session.ask("2+2?", mode="think", effort="minimal", max_tokens=50)
        assert limits(session) == (
            128,
            1,
        )  # max_tokens were for the first answer
        assert limits(session) == (256, 1)
        assert limits(session, budget=300) == (300, 1)
        assert limits(session) == (512, 1)
        assert limits(session, effort="xhigh") == (2048, 1)
        assert limits(session) == (4096, 1)
        assert limits(session) == (4096, 2)


def test_what_was_not_thought_about_is_thought_about_as_was_asked_for() -> None:
    engine = WatchedEngine(["hm " * 3000])
    with Model(engine).session() as session:
        session.ask("2+2?", mode="chat", budget=100)
        assert limits(session) == (100, 1)
        session.ask("2+2?", effort="none", max_tokens=9)
        assert limits(session) == (512, 1)  # the effort that is asked for when none is: medium
        session.ask("2+2?", effort="none", max_tokens=9)
        assert limits(session, effort="low") == (256, 1)


def test_seconds_are_doubled() -> None:
    model = Model(WatchedEngine([SAYS]))
    with model.session() as session:
        session.ask("2+2?", mode="think", budget="1.5s")
        assert session.think_harder().timing.budget_s == 3.0
        assert session.think_harder().timing.budget_s == 6.0


def test_beyond_the_highest_effort_a_larger_budget_stays_and_streams_double() -> None:
    with Model(WatchedEngine(["hm " * 9000])).session() as session:
        session.ask("2+2?", mode="think", budget=8000)
        assert limits(session) == (8000, 2)


# What errors leave behind


def test_a_failed_turn_leaves_the_session_as_it_was() -> None:
    engine = WatchedEngine(["It is 4."])
    with Model(engine).session() as session:
        session.ask("2+2?", mode="chat")
        before, step = session.messages, engine.step
        engine.step = lambda feeds: (_ for _ in ()).throw(EngineError("broken"))  # type: ignore[method-assign]
        for ask in (lambda: session.ask("Sure?", mode="chat"), lambda: session.think_harder()):
            with pytest.raises(EngineError):
                ask()
            assert session.messages == before
        engine.step = step  # type: ignore[method-assign]
        engine.take_encoded()
        assert session.ask("Sure?", mode="chat").text == "It is 4."
        # "Sure?" was encoded before the step failed and trimmed for the harder try: it is encoded anew.
        assert engine.take_encoded() == [
            len(prompt_of(engine, ("user", "2+2?"), ("assistant", "It is 4."), ("user", "Sure?")))
            - len(prompt_of(engine, ("user", "2+2?")))
        ]


def test_an_encoding_that_fails_is_made_up_for_by_the_next_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = WatchedEngine(["It is 4."])
    with Model(engine, switcher=FeatureSwitcher()).session() as session:
        session.ask("2+2?", mode="chat")
        monkeypatch.setattr(engine, "encode", lambda *_, **__: (_ for _ in ()).throw(EngineError("broken")))
        with pytest.raises(EngineError):
            session.think_harder(mode="chat")  # has to encode the prompt's last token again
        monkeypatch.undo()
        session.think_harder(mode="chat")
        assert engine.tokens(session._prefix.sequence) == prompt_of(engine, ("user", "2+2?"))


@pytest.mark.parametrize("leaves", ["stopped", "abandoned", "refused"])
def test_a_turn_that_does_not_end_adds_nothing_and_can_be_asked_again(leaves: str) -> None:
    engine = WatchedEngine([ENDLESS])
    with Model(engine).session() as session:
        told: list[Event] = []
        if leaves == "refused":
            with pytest.raises(RequestError, match="streams"):
                session.ask("2+2?", streams=65)
        else:
            events = session.stream(
                "2+2?", mode="think", should_stop=lambda: leaves == "stopped" and len(told) > 5
            )
            for event in events:
                told.append(event)
                if leaves == "abandoned" and isinstance(event, Text):
                    break
            events.close()  # type: ignore[attr-defined]
        assert session.messages == ()
        with pytest.raises(RequestError, match="no question to think harder"):
            session.think_harder()
        assert session.ask("2+2?", mode="think", budget=60).answer == "6"
        assert len(session.messages) == 2
    if leaves == "stopped":
        assert isinstance(told[-1], Answered)
        assert told[-1].response.stop is Stop.CANCELLED


def test_a_harder_try_that_is_stopped_keeps_the_old_answer() -> None:
    engine = WatchedEngine([SAYS, ENDLESS])
    with Model(engine).session() as session:
        session.ask("2+2?", mode="think", budget=100)
        before = session.messages
        told: list[Event] = []
        for event in session.stream_harder(seed=1, should_stop=lambda: len(told) > 5):
            told.append(event)
        assert session.messages == before


def test_one_answer_at_a_time() -> None:
    with Model(WatchedEngine([ENDLESS])).session() as session:
        events = session.stream("2+2?", mode="think")
        next(events)
        with pytest.raises(RequestError, match="still answering"):
            session.ask("3+3?")
        events.close()  # type: ignore[attr-defined]
        assert session.ask("3+3?", mode="think", budget=60).answer == "6"


def test_a_stream_that_the_conversation_has_overtaken_is_refused_and_loses_no_turn() -> None:
    with Model(WatchedEngine([SAYS])).session() as session:
        late = session.stream("3+3?", mode="think")
        session.ask("2+2?", mode="think")
        with pytest.raises(RequestError, match="has gone on"):
            next(late)
        assert [message.content for message in session.messages] == ["2+2?", "The final answer is 4."]


def test_turns_are_not_dropped_under_an_answer() -> None:
    with Model(WatchedEngine([SAYS])).session() as session:
        session.ask("2+2?", mode="think")
        events = session.stream("3+3?", mode="think")
        next(events)
        with pytest.raises(RequestError, match="still answering"):
            session.drop(1)
        list(events)
        session.drop(1)
        assert [message.content for message in session.messages] == ["3+3?", "The final answer is 4."]


def test_a_question_that_is_missing_or_there_already_is_refused() -> None:
    model = Model(WatchedEngine([SAYS]))
    with model.session() as session, pytest.raises(RequestError, match="no question"):
        session.ask()
    with model.session([Message("user", "2+2?")]) as session:
        with pytest.raises(RequestError, match="ends in a question already"):
            session.ask("3+3?")
        with pytest.raises(RequestError, match="system message"):
            session.ask(system="Be kind.")
        assert session.ask(mode="think", budget=100).answer == "4"
    with pytest.raises(RequestError, match="closed"):
        session.ask("3+3?")


def test_nothing_is_left_behind_and_cells_are_held_only_by_open_sessions() -> None:
    engine = WatchedEngine([SAYS], context_tokens=2000)
    model = Model(engine)
    session = model.session()
    session.ask("2+2?", mode="think", streams=4, budget=100)
    session.think_harder(budget=120)
    assert (engine.live_sequences, engine.used_cells) == (1, session.prompt_tokens)
    session.close()
    session.close()
    assert (engine.live_sequences, engine.used_cells) == (0, 0)
    engine.reserve(cells=2000, sequences=1).close()


# Room


def test_a_conversation_that_is_too_long_says_which_turns_to_drop() -> None:
    engine = WatchedEngine(["x" * 40], context_tokens=400)
    with Model(engine).session(system="Be kind.") as session:
        for number in range(3):
            session.ask(f"Question {number}?", mode="chat", max_tokens=40)
        turn_tokens = len(prompt_of(engine, ("user", "Question 0?"), ("assistant", "x" * 40))) - len(
            prompt_of(engine)
        )
        asked = [
            (message.role, message.content) for message in (*session.messages, Message("user", "y" * 190))
        ]
        needed = len(prompt_of(engine, *asked)) + OPENED + 50
        num_turns = -(-(needed - 400) // turn_tokens)
        assert num_turns == 2
        with pytest.raises(ContextOverflow) as caught:
            session.ask("y" * 190, mode="think", budget=50)
        advice = f"drop the first 2 turns ({2 * turn_tokens} tokens), or load with a larger context"
        assert str(caught.value).endswith(advice)
        assert len(session.messages) == 7
        session.drop(2)
        assert session.messages[0] == Message("system", "Be kind.")
        assert session.messages[1].content == "Question 2?"
        assert session.ask("y" * 190, mode="think", budget=50).text
        with pytest.raises(RequestError, match="turns to drop"):
            session.drop(9)


def test_a_question_that_is_too_long_by_itself_says_so_itself() -> None:
    with Model(WatchedEngine([SAYS], context_tokens=300)).session() as session:
        session.ask("2+2?", mode="chat", max_tokens=9)
        with pytest.raises(ContextOverflow, match=r"the prompt needs .* shorten the prompt"):
            session.ask("y" * 400)


def test_sessions_that_have_to_leave_the_context_come_back_without_being_encoded_again() -> None:
    engine = WatchedEngine(["It is 4."], context_tokens=300)
    model = Model(engine)
    with model.session() as first, model.session() as second:
        for session in (first, second):
            session.ask("x" * 100, mode="chat", max_tokens=60)
        model.ask("y" * 150, mode="chat", max_tokens=60)  # for this both have to leave the context
        engine.take_encoded()
        for session in (first, second, first):
            session.think_harder(budget=50)
        assert engine.take_encoded() == [OPENED] * 3
        for session in (first, second):
            assert session.ask("And?", mode="chat", max_tokens=20).text == "It is 4."
    assert (engine.live_sequences, engine.used_cells) == (0, 0)
    engine.reserve(cells=300, sequences=1).close()


def test_a_context_grows_under_an_open_session_and_keeps_its_tokens() -> None:
    engine = WatchedEngine(["It is 4."])
    with Model(engine).session() as session:
        session.ask("2+2?", mode="chat", max_tokens=10)
        engine.take_encoded()
        session.think_harder(budget=2000)  # far more cells than the first answer had
        assert engine.take_encoded() == [OPENED]
        held = engine.tokens(session._prefix.sequence) if session._prefix._sequence else []
        assert held == prompt_of(engine, ("user", "2+2?"))


def test_what_can_not_be_put_back_is_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = WatchedEngine(["It is 4."], context_tokens=200)
    model = Model(engine)
    with model.session() as session:
        session.ask("x" * 60, mode="chat", max_tokens=20)
        model.ask("y" * 100, mode="chat", max_tokens=60)  # the session leaves
        monkeypatch.setattr(engine, "restore", lambda *_: (_ for _ in ()).throw(EngineError("no")))
        engine.take_encoded()
        session.think_harder(budget=50)
        assert engine.take_encoded() == [len(prompt_of(engine, ("user", "x" * 60))), OPENED]


@pytest.mark.parametrize("error", [MemoryError("restore"), KeyboardInterrupt()])
def test_kv_that_was_not_put_back_is_never_taken_for_there(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    engine = WatchedEngine(["It is 4."], context_tokens=400)
    model = Model(engine)
    with model.session() as session:
        session.ask("x" * 60, mode="chat", max_tokens=20)
        model.ask("y" * 200, mode="chat", max_tokens=100)  # the session leaves
        with monkeypatch.context() as broken:
            broken.setattr(engine, "restore", lambda *_: (_ for _ in ()).throw(error))
            try:
                session.ask("Sure?", mode="chat", max_tokens=20)
            except KeyboardInterrupt:
                session.ask("Sure?", mode="chat", max_tokens=20)
        turns = (("user", "x" * 60), ("assistant", "It is 4."), ("user", "Sure?"))
        sequence = session._prefix.sequence
        assert engine.tokens(sequence) == prompt_of(engine, *turns) == list(session._prefix.ids)


def test_a_chat_with_hardly_any_room_is_refused_rather_than_cut() -> None:
    with Model(WatchedEngine(["It is four. " * 20], context_tokens=256)).session() as session:
        session.ask("x" * 40, mode="chat", max_tokens=64)
        with pytest.raises(ContextOverflow, match="drop the first turn"):
            session.ask("y" * 60, mode="chat", max_tokens=64)
        session.ask("y" * 60, mode="chat", max_tokens=5)


# The switcher


def p_thinks(session: Session, questions: list[str]) -> list[float | None]:
    return [session.ask(question, mode="auto", budget=60).p_think for question in questions]


def test_the_switcher_reads_a_turn_as_it_reads_the_whole_conversation() -> None:
    questions = ["What is 2+2? " * 20, "And 3+3?", "Sure? " * 30]
    with Model(WatchedEngine(["It is 4."]), switcher=FeatureSwitcher()).session() as session:
        in_turns = p_thinks(session, questions)
        asked = [session.messages[: 2 * n + 1] for n in range(3)]
    for messages, p_think in zip(asked, in_turns, strict=True):
        alone = Model(WatchedEngine(["It is 4."]), switcher=FeatureSwitcher())
        assert alone.ask(messages, mode="auto", budget=60).p_think == p_think


def test_the_switcher_has_read_what_was_asked_without_it_and_reads_no_token_twice() -> None:
    engine = WatchedEngine(["It is 4."])
    with Model(engine, switcher=FeatureSwitcher()).session() as session:
        session.ask("2+2?", mode="chat", max_tokens=30)
        engine.take_encoded()
        harder = session.think_harder(mode="auto", budget=60)
        assert sum(engine.take_encoded()) in (1, OPENED)
        fresh = Model(WatchedEngine(["It is 4."]), switcher=FeatureSwitcher())
        assert harder.p_think == fresh.ask("2+2?", mode="auto", budget=60).p_think


def test_a_prompt_that_leaves_the_old_one_goes_on_where_the_last_message_begins_that_it_shares() -> None:
    engine = WatchedEngine(["It is 4."])
    model = Model(engine, switcher=FeatureSwitcher())
    with model.session() as session:
        p_thinks(session, ["2+2?", "Sure?"])
        engine.take_encoded()
        session._messages = (*session.messages[:-2], Message("user", "Sorry?"))  # another second question
        answered = session.ask(mode="auto", budget=60)
        # "S" is the same, too, but the switcher's state is known where the message begins.
        assert engine.take_encoded()[0] == len("Sorry?") + len("E\nBassistant\n")  # a token ends, one begins
        fresh = Model(WatchedEngine(["It is 4."]), switcher=FeatureSwitcher())
        assert answered.p_think == fresh.ask(session.messages[:-1], mode="auto", budget=60).p_think


# Saved and loaded


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    with Model(WatchedEngine(["It is 4."])).session(system="Be kind.") as session:
        session.ask("2+2?", mode="chat", max_tokens=30)
        session.save(tmp_path / "talk.kv")
    return tmp_path / "talk.kv"


def test_a_saved_conversation_goes_on_where_it_was(saved: Path) -> None:
    engine = WatchedEngine([SAYS])
    with Model(engine).load_session(saved) as session:
        assert [message.content for message in session.messages] == ["Be kind.", "2+2?", "It is 4."]
        response = session.think_harder(budget=100)
        assert engine.take_encoded() == [OPENED]
        assert response.answer == "4"
    saved_again = saved.with_name("again.kv")
    with Model(engine).load_session(saved) as session:
        session.save(saved_again)  # untouched in between
    assert saved_again.read_bytes() == saved.read_bytes()


def test_the_switchers_state_is_saved_with_the_prompt(tmp_path: Path) -> None:
    with with_bundle(WatchedEngine(["It is 4."]), tmp_path).session() as session:
        p_think = session.ask("What is 2+2? " * 20, mode="auto", budget=60).p_think
        session.save(tmp_path / "talk.kv")
    engine = WatchedEngine(["It is 4."])
    with with_bundle(engine, tmp_path).load_session(tmp_path / "talk.kv") as session:
        assert session.think_harder(mode="auto", budget=60).p_think == p_think
        assert sum(engine.take_encoded()) in (1, len("<think>\n"))
        session.ask("Sure?", mode="auto", budget=60)
        assert session.prompt_tokens > engine.take_encoded()[0]


def test_a_cache_made_under_one_base_or_adapter_is_refused_under_another(tmp_path: Path) -> None:
    def model(**parts: object) -> Model:
        return with_bundle(WatchedEngine(["It is 4."]), tmp_path, **parts)  # type: ignore[arg-type]

    with model().session() as session:
        session.ask("2+2?", mode="chat", max_tokens=30)
        session.save(tmp_path / "talk.kv")
    model().load_session(tmp_path / "talk.kv").close()
    others = {
        f"another base: {'b' * 12}…, and this model has {'c' * 12}…": model(base="c" * 64),
        "another adapter: ": model(adapter=b"GGUF other"),
        "another heads: ": model(heads=b"others"),
        "another base: ": Model(WatchedEngine()),
    }
    for says, other in others.items():
        with pytest.raises(BundleError, match=f"talk.kv was saved with {says}"):
            other.load_session(tmp_path / "talk.kv")


def test_a_cache_of_another_engine_version_or_kv_type_is_refused(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScriptedEngine, "state_format", "scripted 128")
    with pytest.raises(BundleError, match=r"another engine: scripted 64, and this model has scripted 128"):
        Model(WatchedEngine()).load_session(saved)


def test_a_damaged_cache_is_refused_wherever_the_damage_is(saved: Path) -> None:
    whole, model = saved.read_bytes(), Model(WatchedEngine())
    for size in (0, 4, 8, 39, 40, 200, len(whole) - 1):
        saved.write_bytes(whole[:size])
        with pytest.raises(BundleError, match=r"truncated|not a saved conversation"):
            model.load_session(saved)
    for position in range(0, len(whole), 97):
        changed = bytearray(whole)
        changed[position] ^= 1
        saved.write_bytes(changed)
        with pytest.raises(BundleError, match=r"damaged|not a saved conversation"):
            model.load_session(saved)
    saved.write_bytes(MAGIC + hashlib.sha256(b"PK junk").digest() + b"PK junk")
    with pytest.raises(BundleError, match="no conversation that can be read"):
        model.load_session(saved)
    saved.unlink()
    with pytest.raises(BundleError, match="can't read a conversation"):
        model.load_session(saved)


def test_a_conversation_that_can_not_be_written_leaves_nothing(tmp_path: Path) -> None:
    with Model(WatchedEngine()).session() as session, pytest.raises(ConfigError, match="can't save"):
        session.save(tmp_path / "nowhere" / "talk.kv")
    with Model(WatchedEngine()).session(system="Be kind.") as session:
        session.save(tmp_path / "empty.kv")  # nothing is encoded yet
    with Model(WatchedEngine()).load_session(tmp_path / "empty.kv") as session:
        assert session.messages == (Message("system", "Be kind."),)
    assert [path.name for path in tmp_path.iterdir()] == ["empty.kv"]
