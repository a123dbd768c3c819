"""What a row asks, its right answer and its id."""

from __future__ import annotations

import pytest

from edgereason.data.questions import id_of, prompt_of, question_of, reference_of, turns, without_thousands
from edgereason.data.rows import Row
from edgereason.errors import ConfigError
from edgereason.evals.tasks.questions import open_item
from edgereason.train.data.questions import answered


def row(**values: object) -> Row:
    return Row("a.jsonl", 3, values)


def asked(**values: object) -> list[tuple[str, str]]:
    return [(one.role, one.content) for one in prompt_of(row(**values))]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"question": " How many?\n"}, "How many?"),
        ({"problem": "Find $x$."}, "Find $x$."),
        ({"prompt": "def f():"}, "def f():"),
        ({"Question": "How many?"}, "How many?"),
        ({"Body": "Tom has 3 pens", "Question": "How many?"}, "Tom has 3 pens. How many?"),
        ({"Body": "Tom has 3 pens.", "Question": "How many?"}, "Tom has 3 pens. How many?"),
        ({"question": "Q", "prompt": "P", "choices": []}, "Q"),
    ],
)
def test_a_question_is_found_under_whatever_name_a_data_set_gives_it(values, text):
    assert asked(**values) == [("user", text)]


def test_a_conversation_is_asked_as_it_stands():
    said = [("system", " S "), ("user", "U"), ("assistant", "A"), ("user", "V")]
    messages = [{"role": role, "content": content} for role, content in said]
    assert asked(messages=messages, question="not this") == said
    talk = row(talk=[{"from": "human", "value": "U"}])
    (turn,) = turns(talk, "talk", role="from", content="value", roles={"human": "user"})
    assert (turn.role, turn.content) == ("user", "U")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"answer": "4"}, "question is missing; fields here: answer"),
        ({"question": "Which?", "choices": {"text": ["a", "b"]}}, "choices are not in the question"),
        ({"messages": []}, "messages is not a conversation"),
        ({"messages": ["U"]}, r"messages\[0\] is not a turn"),
        ({"messages": [{"role": "me", "content": "U"}]}, r"messages\[0\].role is 'me'; expected system"),
        ({"messages": [{"role": "user", "content": " "}]}, r"messages\[0\].content is empty"),
        ({"messages": [{"role": "assistant", "content": "A"}]}, "messages end with another's turn"),
    ],
)
def test_a_row_that_asks_nothing_is_refused_by_its_place(values, said):
    with pytest.raises(ConfigError, match=rf"^a.jsonl, line 3: {said}"):
        asked(**values)


@pytest.mark.parametrize(
    ("value", "reference"),
    [
        ("18", "18"),
        (" a rose \n", "a rose"),
        ("2 + 16 = 18\n#### 18", "18"),
        ("…\n#### 1,234,567", "1234567"),
        ("(1,234)", "(1,234)"),  # a pair, perhaps: only GSM8K's answers are known to be numbers
        ("so it is\n####  ", ""),
        (70, "70"),
        (27.0, "27"),
        (0.5, "0.5"),
        (-3, "-3"),
    ],
)
def test_a_reference_is_the_answer_that_a_text_or_number_states(value: object, reference: str) -> None:
    assert reference_of(row(answer=value), "answer") == reference


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "answer is null"),
        (" ", "answer is empty"),
        (True, "answer is true or false"),
        ([1], "answer is a list"),
        (float("nan"), "answer is nan; expected a finite number"),
        (float("-inf"), "answer is -inf; expected a finite number"),
    ],
)
def test_what_states_no_answer_is_refused_by_its_place(value: object, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^a.jsonl, line 3: {said}"):
        reference_of(row(answer=value), "answer")


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("1,234", "1234"),
        ("1,234,567.5", "1234567.5"),
        ("1,23", "1,23"),
        ("1,2345", "1,2345"),
        ("a,bcd", "a,bcd"),
    ],
)
def test_only_separators_of_thousands_are_taken_out(text: str, plain: str) -> None:
    assert without_thousands(text) == plain


def test_an_id_is_a_text_or_a_whole_number() -> None:
    assert [id_of(row(id=value), "id") for value in ("x/1.json", 7, 0)] == ["x/1.json", "7", "0"]
    for value, said in ((True, "true or false"), (1.5, "a number"), ("", "empty"), (None, "null")):
        with pytest.raises(ConfigError, match=f"^a.jsonl, line 3: id is {said}"):
            id_of(row(id=value), "id")


ROWS = [
    {"question": "Q?", "answer": "2 + 16 = 18\n#### 1,800"},
    {"problem": "Q?", "answer": 27.0, "unique_id": "x"},
    {"Body": "A pack costs 76 dollars", "Question": "How much?", "Answer": "51.0"},
    {"prompt": "Q?", "answer": r"\frac{1}{2}"},
]


@pytest.mark.parametrize("values", ROWS)
def test_training_and_evaluation_read_one_question_and_one_reference(values: dict[str, object]) -> None:
    trained, asked = answered(row(**values)), open_item("t", row(**values))
    assert trained is not None
    assert (trained.text, trained.reference) == (asked.question, asked.reference)
    assert asked.question == question_of(row(**values))
