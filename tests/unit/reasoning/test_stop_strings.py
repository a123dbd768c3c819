"""How a stream's text is split into thinking and answer, and where stop strings end the answer."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgereason.core.types import Response, Route, Stop
from edgereason.engine.scripted import ScriptedEngine
from edgereason.reasoning.control import Phase, TextSplitter
from edgereason.reasoning.events import Answered, Ended, Text
from edgereason.reasoning.model import Model

THINKS = "First.\nSecond.\n</think>\n\nIt is 4.\nAnd so on."


def said(replies: list[str], **options: object) -> tuple[Response, dict[int, str]]:
    """The response, and what each stream was heard to say."""
    heard: dict[int, str] = {}
    for event in Model(ScriptedEngine(replies)).stream("2+2?", **options):
        if isinstance(event, Text):
            heard[event.stream] = heard.get(event.stream, "") + event.text
        if isinstance(event, Answered):
            return event.response, heard
    raise AssertionError


def test_a_chat_answer_ends_before_its_stop_string_and_nothing_of_it_is_heard() -> None:
    response, heard = said(["It is 4. Next: 5"], mode="chat", stop=" Next:")
    assert (response.text, heard[0], response.stop) == ("It is 4.", "It is 4.", Stop.STOP_STRING)
    assert response.finish_reason == "stop"
    # The stop string was generated, byte by byte, and is paid for.
    assert response.usage.answer_tokens == len("It is 4. Next:")


def test_what_only_began_like_a_stop_string_is_said_after_all() -> None:
    response, heard = said(["It is 4. Nexus. Ne"], mode="chat", stop=["Next", "Nemo"])
    assert (response.text, heard[0], response.stop) == ("It is 4. Nexus. Ne",) * 2 + (Stop.NATURAL,)


def test_what_is_held_back_is_said_when_the_limit_cuts() -> None:
    response, heard = said(["It is 4. Next"], mode="chat", stop="Next", max_tokens=len("It is 4. Nex"))
    assert (response.text, heard[0], response.stop) == ("It is 4. Nex",) * 2 + (Stop.LENGTH,)


def test_thinking_and_the_line_breaks_of_its_closing_are_not_searched() -> None:
    response, heard = said([THINKS], mode="think", budget=200, stop="\n")
    assert (response.thinking, response.text) == ("First.\nSecond.", "It is 4.")
    assert (response.route, response.stop, response.answer) == (Route.THINK, Stop.STOP_STRING, "4")
    assert heard[0] == "First.\nSecond.\n</think>\n\nIt is 4."


def test_each_of_several_streams_ends_by_itself_and_votes_with_what_it_said() -> None:
    answers = ["The answer is 4. STOP 5", "The answer is 5.", "4 STOP"]
    replies = [f"\n</think>\n\n{answer}" for answer in answers]
    response, heard = said(replies, mode="think", budget=200, streams=3, stop="STOP")
    assert [candidate.answer for candidate in response.candidates] == ["4", "5", "4"]
    stops = [candidate.trace.stop for candidate in response.candidates]
    assert stops == [Stop.STOP_STRING, Stop.NATURAL, Stop.STOP_STRING]
    assert response.answer == "4"
    assert all("STOP" not in text for text in heard.values())


def test_a_forced_answer_is_searched_too() -> None:
    # Thinking is cut; the stub and what follows it are the answer: "The final answer is 4. Done."
    reply = "hm " * 200 + "\n</think>\n\nThe final answer is 4. Done."
    response, heard = said([reply], mode="think", budget=100, stop=" Done")
    assert (response.text, response.stop) == ("The final answer is 4.", Stop.STOP_STRING)
    assert heard[0].endswith("</think>\n\nThe final answer is 4.")


def test_an_answer_may_be_empty_and_everything_is_given_back() -> None:
    engine = ScriptedEngine(["2\n</think>\n\n4"])
    response = Model(engine).ask("2+2?", mode="think", budget=100, stop="4")
    # Where the text has no answer, one is looked for in the thinking, as ever.
    assert (response.text, response.answer, response.stop) == ("", "2", Stop.STOP_STRING)
    assert (engine.live_sequences, engine.used_cells) == (0, 0)
    assert all(sampler.closed for sampler in engine.samplers)


def test_a_turn_that_a_stop_string_ended_goes_on_with_what_was_said() -> None:
    with Model(ScriptedEngine(["It is 4.\nNo, 5."])).session() as session:
        session.ask("2+2?", mode="chat", stop="\n")
        assert session.messages[-1].content == "It is 4."
        assert session.harder_turn({}).request.stop == ("\n",)


def test_a_trace_ends_where_its_text_does() -> None:
    events = list(Model(ScriptedEngine([THINKS])).stream("2+2?", mode="think", budget=200, stop=".\nAnd"))
    (ended,) = [event for event in events if isinstance(event, Ended)]
    assert ended.candidate.trace.text == "It is 4"
    whole = bytes(ended.candidate.trace.token_ids).decode()  # the engine's tokens are bytes
    assert whole.endswith("It is 4.\nAnd")


def first_stop(text: str, strings: list[str]) -> str | None:
    """What is left of `text`, looked at letter by letter from the start; None if no string is in it."""
    for end in range(1, len(text) + 1):
        ending = [string for string in strings if text[:end].endswith(string)]
        if ending:
            return text[: end - max(map(len, ending))]
    return None


@given(
    st.text("ab\n", max_size=30),
    st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_in_whatever_pieces_a_text_comes_it_is_split_and_ends_at_the_same_place(
    answer: str, strings: list[str], seed: int, thinks: bool
) -> None:
    before = "ab</thin\nb</think>\n\n" if thinks else ""
    answer = answer.lstrip("\n") if thinks else answer
    text, draw, splitter = before + answer, random.Random(seed), TextSplitter(thinks=thinks, stop=strings)
    expected = first_stop(answer, strings)
    ends_as = answer if expected is None else expected
    thinking = shown = ""
    while text:
        length = draw.randint(1, 5)
        more_thinking, more = splitter.push(text[:length])
        thinking, shown, text = thinking + more_thinking, shown + more, text[length:]
        assert ends_as.startswith(shown)
        assert strings or thinking + shown + text == before + answer  # nothing is held without need
    shown += splitter.flush()
    assert splitter.is_stopped == (expected is not None)
    assert (thinking, shown) == (before, ends_as)


@pytest.mark.parametrize("budget", [60, 200])
def test_the_texts_of_each_phase_make_up_thinking_and_answer(budget: int) -> None:
    said = {Phase.THINKING: "", Phase.ANSWER: ""}
    for event in Model(ScriptedEngine([THINKS])).stream("2+2?", mode="think", budget=budget):
        if isinstance(event, Text):
            said[event.phase] += event.text
        if isinstance(event, Answered):
            response = event.response
    assert said[Phase.ANSWER] == response.text
    assert said[Phase.THINKING] == f"{response.thinking}\n</think>\n\n"
