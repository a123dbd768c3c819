"""Chat with a model that thinks by itself: its draft is neither its answer nor shown as one."""

from __future__ import annotations

import dataclasses
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgereason.core.chat import ChatTemplate, ClosingFinder, NativeThinking, find_closing, split_chat
from edgereason.core.types import Message, Response, Stop
from edgereason.engine.scripted import ScriptedEngine
from edgereason.reasoning.control import Phase, TextSplitter
from edgereason.reasoning.events import Answered, Text
from edgereason.reasoning.model import Model

CODE = "```\n</think>\n```\n"
ASKS = (
    "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
)
OPENS = ASKS.replace("{% endif %}", "{% else %}<think>\n{% endif %}")


def chat(reply: str, *, template: str = "", **options: object) -> tuple[Response, dict[Phase, str]]:
    engine = ScriptedEngine([reply])
    if template:
        engine._info = dataclasses.replace(engine.info, chat_template=template)
        options = {"enable_thinking": True} | options  # chat leaves thinking out unless it is asked for
    said = dict.fromkeys(Phase, "")
    for event in Model(engine).stream("2+2?", mode="chat", **options):  # type: ignore[arg-type]
        if isinstance(event, Text):
            said[event.phase] += event.text
        if isinstance(event, Answered):
            response = event.response
    return response, said


@pytest.mark.parametrize(
    ("text", "is_open", "parts"),
    [
        ("It is 4.", False, (None, "It is 4.")),
        ("<think>\nSo 3?\n</think>\n\nIt is 4.", False, ("So 3?", "It is 4.")),
        ("\n<think>So 3?</think>It is 4.", False, ("So 3?", "It is 4.")),
        ("<thinking>3</thinking>\n4", False, ("3", "4")),
        ("<thought>3</thought>4", False, ("3", "4")),
        ("<reasoning>\n3\n</reasoning>\n\n4", False, ("3", "4")),
        ("<think>\n\n</think>\n\n4", False, ("", "4")),
        ("<think>\n\\boxed{3}", False, ("\\boxed{3}", None)),
        ("So 3?\n</think>\n\nIt is 4.", True, ("So 3?", "It is 4.")),
        ("<think>\nSo 3?\n</think>\n\nIt is 4.", True, ("So 3?", "It is 4.")),
        ("still thinking", True, ("still thinking", None)),
        (f"<think>\n{CODE}So 3?\n</think>\n4", False, (f"{CODE}So 3?", "4")),
        ("<think>It ends with `</think>`, so 3?</think>4", False, ("It ends with `</think>`, so 3?", "4")),
        (f"{CODE}So 3?\n</think>\n4", True, (f"{CODE}So 3?", "4")),
        ("```html\n<think>3</think>\n```", False, (None, "```html\n<think>3</think>\n```")),
        ("The tag is <think>3</think>.", False, (None, "The tag is <think>3</think>.")),
    ],
)
def test_leading_thinking_is_split_off_in_chat_and_any_other_tag_is_text(
    text: str, is_open: bool, parts: tuple[str | None, str | None]
) -> None:
    assert split_chat(text, is_open=is_open) == parts


@pytest.mark.parametrize(
    ("reply", "template", "answer", "thinking"),
    [
        ("<think>\nIt is 3.\n</think>\n\nIt is 4.", "", "4", "It is 3."),
        ("<think>\nSo \\boxed{3}.\n</think>\n\nThe answer is 4.", "", "4", "So \\boxed{3}."),
        ("<think>\nSo \\boxed{3}.\n</think>\n\nPerhaps.", "", "Perhaps", "So \\boxed{3}."),
        ("So \\boxed{3}.\n</think>\n\nThe answer is 4.", OPENS, "4", "So \\boxed{3}."),
        ("<thinking>The answer is 3.</thinking>The answer is 4.", "", "4", "The answer is 3."),
        (f"<think>\n{CODE}The answer is 3.\n</think>\n4", "", "4", f"{CODE}The answer is 3."),
        # A turn that ends in thought, or behind it, is asked for its answer: the script then draws "?".
        ("<think>\nSo \\boxed{3}. And", "", "?", "So \\boxed{3}. And"),
        ("The answer is 3. And then", OPENS, "?", "The answer is 3. And then"),
        ("<think>\nSo \\boxed{3}.\n</think>", "", "?", "So \\boxed{3}."),
        ("<reasoning>\n```\n3", "", "?", "```\n3\n```"),
        ("<thi", "", "", None),
        ("The answer is 4.", ASKS, "4", None),
    ],
)
def test_the_answer_of_a_chat_is_never_taken_from_the_draft(
    reply: str, template: str, answer: str, thinking: str | None
) -> None:
    response, said = chat(reply, template=template)
    assert (response.answer, response.thinking) == (answer, thinking)
    assert said[Phase.ANSWER] == response.text
    assert ("3" in said[Phase.ANSWER]) is False


DRAFT = "So \\boxed{3}. And " * 30
ANSWERS = "\n\nIt is 4, " + "and 4 it is " * 20
CLOSED = "the limit closed the model's own thinking so that it could answer"
ENDED = "the limit ended the model's own thinking before it could answer"


@pytest.mark.parametrize("max_tokens", [20, 33, 64, 100, 300])
@pytest.mark.parametrize(
    ("tag", "template", "draft"),
    [
        ("think", "", DRAFT),
        ("thinking", "", DRAFT),
        ("thought", "", DRAFT),
        ("reasoning", "", DRAFT),
        ("think", OPENS, DRAFT),
        ("think", "", "```\n" + DRAFT),
        ("think", OPENS, "  ~~~python\n" + DRAFT),
        ("think", "", "hm\n" * 200),
        ("think", "", "`</think>` ends it. " * 30),
        ("think", OPENS, "\n" + "αβγ" * 80),
    ],
)
def test_thinking_that_runs_into_max_tokens_is_closed_and_the_model_answers_within_them(
    tag: str, template: str, draft: str, max_tokens: int
) -> None:
    opening = "" if template else f"<{tag}>"
    reply = f"{opening}{draft}</{tag}>{ANSWERS}"
    if max_tokens < 2 * len(opening) + len(f"\n```\n</{tag}>\n\n"):
        return  # the next test
    response, said = chat(reply, template=template, max_tokens=max_tokens)
    trace = response.candidates[0].trace
    assert trace.num_tokens <= max_tokens
    assert response.stop is Stop.LENGTH
    assert response.finish_reason == "length"
    assert response.answer and response.text.strip()
    assert response.thinking is not None
    assert "4" not in response.thinking
    assert "3" not in response.text
    assert said[Phase.ANSWER] == response.text
    assert response.notices[-1].startswith(CLOSED)


@pytest.mark.parametrize("max_tokens", [8, 10, 12, 17])
def test_where_no_closing_fits_into_max_tokens_the_answer_is_empty_and_that_is_told(max_tokens: int) -> None:
    response, _ = chat(f"<think>{DRAFT}</think>{ANSWERS}", max_tokens=max_tokens)
    assert (response.answer, response.text) == ("", "")
    assert response.stop is Stop.LENGTH
    assert DRAFT.startswith(response.thinking or "?") or response.thinking == ""
    assert response.notices[-1].startswith(ENDED)


def test_three_quarters_of_the_limit_are_for_thinking_and_what_is_closed_in_time_is_left_alone() -> None:
    response, _ = chat(f"<think>{'x' * 5000}</think>\n\n{'y' * 5000}", max_tokens=1000)
    assert len(response.thinking or "") == 750 - len("<think>")
    assert len(response.text) == 1000 - 750 - len("\n</think>\n\n")
    response, _ = chat(f"<think>{'x' * 700}</think>{'y' * 200}", max_tokens=1000)
    assert (response.thinking, response.text) == ("x" * 700, "y" * 200)
    assert response.stop is Stop.NATURAL
    assert response.notices == ()


def test_a_budget_closes_native_thinking_as_max_tokens_does() -> None:
    response, _ = chat(f"<think>{DRAFT}</think>{ANSWERS}", budget=100)
    assert response.stop is Stop.BUDGET
    assert response.text.startswith("It is 4")
    assert response.candidates[0].trace.num_tokens == 100


def test_stop_strings_are_not_looked_for_in_native_thinking() -> None:
    response, _ = chat("<think>\nA. B.\n</think>\n\nIt is 4. Yes.", stop=".")
    assert response.text == "It is 4"


def test_enable_thinking_goes_to_the_template() -> None:
    hi = (Message("user", "Hi?"),)
    template = ChatTemplate(OPENS)
    assert template.opens_thinking(hi)
    assert template.opens_thinking(hi, enable_thinking=True)
    assert not template.opens_thinking(hi, enable_thinking=False)
    response, _ = chat("The answer is 4.", template=OPENS, enable_thinking=False)
    assert (response.answer, response.thinking) == ("4", None)
    closed, _ = chat("So.\n</think>\n4", template=OPENS, enable_thinking=True)
    assert (closed.answer, closed.thinking) == ("4", "So.")


def test_a_template_that_takes_parts_is_told_whether_to_think_as_well() -> None:
    hi = (Message("user", "Hi?"),)
    template = ChatTemplate(OPENS.replace("m.content", "m.content[0].text"))
    assert template.opens_thinking(hi)
    assert not template.opens_thinking(hi, enable_thinking=False)


@pytest.mark.parametrize(
    ("reply", "template", "stop"),
    [
        ("", OPENS, Stop.EMPTY),
        ("So 3.\n</think>\n\n4", OPENS, Stop.NATURAL),
        ("<think>\n3\n</think>", "", Stop.NATURAL),
    ],
)
def test_a_turn_is_empty_where_not_even_thinking_is_said(reply: str, template: str, stop: Stop) -> None:
    assert chat(reply, template=template)[0].stop is stop


@given(
    st.sampled_from(["", "<think>", "\n<think>\n", "<thought>", "<th", "<b>"]),
    st.text("ab\n`<", max_size=20),
    st.sampled_from(["</think>", "</thought>", CODE]),
    st.text("ab\n", max_size=10),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_in_whatever_pieces_a_chat_comes_it_is_split_at_the_same_place(
    opening: str, draft: str, closing: str, answer: str, is_open: bool, seed: int
) -> None:
    whole = text = opening + draft + closing + answer
    draw, splitter = random.Random(seed), TextSplitter(thinks=is_open, is_chat=True)
    thinking = shown = ""
    while text:
        length = draw.randint(1, 5)
        more_thinking, more = splitter.push(text[:length])
        thinking, shown, text = thinking + more_thinking, shown + more, text[length:]
    shown += splitter.flush()
    assert thinking + shown == whole
    assert (split_chat(whole, is_open=is_open)[1] or "") == shown

    native, left, heard = NativeThinking(is_open=is_open), whole, ""
    while left:
        length = draw.randint(1, 5)
        heard, left = heard + native.push(left[:length]), left[length:]
    heard += native.head if native.finder is None else ""
    assert heard.lstrip() == shown.lstrip()
    assert (native.finder is not None) == (split_chat(whole, is_open=is_open)[1] is None)


def by_counting(thinking: str, closing: str) -> int | None:
    """Where thinking is closed, by looking back from every tag at all fences before it."""
    for match in re.finditer(rf"(?<!`){re.escape(closing)}", thinking):
        if len(re.findall(r"^[ \t]*(?:```|~~~)", thinking[: match.start()], re.MULTILINE)) % 2 == 0:
            return match.start()
    return None


@given(
    st.lists(
        st.sampled_from(
            [*"ab \t\n`~<", "```", "~~~", "``~", "\n```\n", "</think>", "</thin", "`</think>", "<</think>"]
        ),
        max_size=20,
    ),
    st.integers(0, 2**32),
)
def test_thinking_is_closed_where_looking_back_at_all_fences_says(pieces: list[str], seed: int) -> None:
    text, draw = "".join(pieces), random.Random(seed)
    wanted = by_counting(text, "</think>")
    assert find_closing(text, "</think>") == wanted
    finder, found, rest = ClosingFinder("</think>"), None, text
    while rest and found is None:
        length = draw.randint(1, 9)
        found, rest = finder.push(rest[:length]), rest[length:]
    assert found == wanted


@pytest.mark.parametrize(
    "hostile",
    [
        "```\n" + "</think>\n" * 2000,
        "```\n</think>\n```\n" * 1000 + "```",
        "`</think>" * 2000,
        "</think" * 2000,
    ],
)
def test_every_character_of_a_draft_is_looked_at_once(hostile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked, look = 0, ClosingFinder._look_for_fence

    def count(self: ClosingFinder, character: str) -> None:
        nonlocal looked
        looked += 1
        look(self, character)

    monkeypatch.setattr(ClosingFinder, "_look_for_fence", count)
    assert find_closing(hostile, "</think>") is None
    assert looked == len(hostile)
    looked, splitter = 0, TextSplitter(thinks=True, is_chat=True)
    for start in range(0, len(hostile), 4):
        splitter.push(hostile[start : start + 4])
    assert looked == len(hostile)
