"""Schemas by their fields, and scores by hand."""

from __future__ import annotations

import pytest

from edgereason.data.rows import Row
from edgereason.errors import ConfigError
from edgereason.evals.tasks.base import Output
from edgereason.evals.tasks.questions import choice_item, item_id, numeric_item, open_item


def row(**values) -> Row:
    return Row("data.jsonl", 17, values)


def said(answer: str | None) -> Output:
    return Output(text="whatever stands around it", answer=answer)


def error_of(action) -> str:
    with pytest.raises(ConfigError) as caught:
        action()
    return str(caught.value)


# ── open questions ───────────────────────────────────────────────────────────────────────────────

OPEN_SCHEMAS = {
    "ours": ({"id": "g-1", "question": "Q?", "answer": "18", "solution": "…"}, ("g-1", "Q?", "18")),
    "gsm8k": ({"question": "Q?", "answer": "2 + <<2*8=16>>16 = 18\n#### 18"}, ("t-0017", "Q?", "18")),
    "gsm8k with commas": ({"question": "Q?", "answer": "…\n#### 1,234,567"}, ("t-0017", "Q?", "1234567")),
    "MATH-500": (
        {"problem": "Q?", "solution": "…", "answer": r"\frac{1}{2}", "unique_id": "test/algebra/1.json"},
        ("test/algebra/1.json", "Q?", r"\frac{1}{2}"),
    ),
    "AIME24": ({"id": 60, "problem": "Q?", "solution": "…", "answer": "204"}, ("60", "Q?", "204")),
    "AIME25": ({"problem": "Q?", "answer": 70, "id": "0"}, ("0", "Q?", "70")),
    "AMC23": ({"id": 0, "question": "Q?", "answer": 27.0, "url": "…"}, ("0", "Q?", "27")),
    "SVAMP": (
        {"ID": "chal-1", "Body": "A pack costs 76 dollars", "Question": "How much?", "Answer": "51.0"},
        ("chal-1", "A pack costs 76 dollars. How much?", "51.0"),
    ),
}


@pytest.mark.parametrize("schema", OPEN_SCHEMAS)
def test_an_open_schema_is_known_by_its_fields(schema):
    values, expected = OPEN_SCHEMAS[schema]
    item = open_item("t", row(**values))
    assert (item.id, item.question, item.reference) == expected
    assert item.score(said(item.reference)) == 1.0


def test_a_story_that_ends_with_a_stop_gets_no_second_one():
    item = open_item("svamp", row(Body="He has 3 eggs. ", Question=" How many?", Answer="3.0"))
    assert item.question == "He has 3 eggs. How many?"


@pytest.mark.parametrize(
    ("answer", "score"), [("18", 1), ("$18.00", 1), ("18 eggs", 1), ("17", 0), ("", 0), (None, 0)]
)
def test_an_open_answer_is_right_if_it_is_the_same_to_the_vote(answer, score):
    item = numeric_item("gsm8k", row(question="Q?", answer="#### 18"))
    assert item.score(said(answer)) == score


def test_a_formula_is_compared_as_mathematics():
    # 1/(1+1) of a half: \frac{2}{4} and 0.5 are one half, 0.33 is no third.
    half, third = (open_item("math500", row(problem="Q?", answer=rf"\frac{{1}}{{{n}}}")) for n in (2, 3))
    assert [half.score(said(a)) for a in (r"\frac{2}{4}", "0.5", "1/2", "2")] == [1, 1, 1, 0]
    assert third.score(said("0.33")) == 0


def test_only_the_answer_counts_and_not_the_text_around_it():
    item = open_item("t", row(question="Q?", answer="18"))
    assert item.score(Output(text="The answer is 18.", answer=None)) == 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"question": "Q?"}, "answer is missing; fields here: question"),
        ({"answer": "1"}, "question is missing; fields here: answer"),
        ({"question": " ", "answer": "1"}, "question is empty"),
        ({"question": "Q?", "answer": ["1"]}, "answer is a list"),
        ({"question": "Q?", "answer": True}, "answer is true or false"),
        ({"question": "Q?", "answer": float("nan")}, "answer is nan; expected a finite number"),
        ({"question": "Q?", "answer": "so it is\n####  "}, "answer ends with '####' and nothing after it"),
        ({"question": "Q?", "answer": "eighteen or so"}, "answer is 'eighteen or so'; expected a number"),
        ({"id": True, "question": "Q?", "answer": "1"}, "id is true or false"),
        ({"id": "", "question": "Q?", "answer": "1"}, "id is empty"),
        ({"Body": "B.", "Question": "", "Answer": "1"}, "Question is empty"),
        ({"problem": None, "answer": "1"}, "problem is null"),
    ],
)
def test_a_broken_open_row_names_file_line_and_field(values, expected):
    assert error_of(lambda: numeric_item("t", row(**values))).startswith(f"data.jsonl, line 17: {expected}")


# ── questions with options ───────────────────────────────────────────────────────────────────────

CITIES = ["London", "Paris", "Rome"]
ASKED = "Capital?\n\nA. London\nB. Paris\nC. Rome\n\nAnswer with the letter of the right option."


@pytest.mark.parametrize(
    "values",
    [
        {"question": "Capital?", "choices": CITIES, "answer": "B"},
        {"question": "Capital?", "choices": CITIES, "answer": 1, "subject": "geography"},
        {"question": "Capital?", "choices": {"text": CITIES, "label": ["A", "B", "C"]}, "answerKey": "B"},
        {"question": "Capital?", "choices": {"text": CITIES, "label": ["1", "2", "3"]}, "answerKey": "2"},
    ],
    ids=["ours", "MMLU", "ARC", "ARC with numbers"],
)
def test_a_choice_schema_is_known_by_its_fields(values):
    item = choice_item("t", row(**values))
    assert (item.id, item.question, item.reference) == ("t-0017", ASKED, "B")


@pytest.mark.parametrize(
    ("answer", "score"),
    [("B", 1), ("(B)", 1), ("B. Paris", 1), ("option B", 1), ("Paris", 1), ("Paris.", 1), ("paris", 1),
     ("A", 0), ("London", 0), ("Berlin", 0), ("Paris or Rome", 0), (None, 0)],
)  # fmt: skip
def test_a_choice_is_right_by_its_letter_or_by_its_text(answer, score):
    item = choice_item("t", row(question="Capital?", choices=CITIES, answer="B"))
    assert item.score(said(answer)) == score


def test_a_text_that_two_options_share_is_neither():
    item = choice_item("t", row(question="How many?", choices=["687", "687", "12"], answer="A"))
    assert [item.score(said(answer)) for answer in ("687", "A")] == [0, 1]


def test_options_that_are_one_number_to_the_vote_are_told_apart_word_for_word():
    item = choice_item("t", row(question="How far?", choices=["25 meters", "25 kilometers"], answer="B"))
    assert [item.score(said(answer)) for answer in ("25 kilometers", "25 meters")] == [1, 0]


def test_a_letter_alone_is_the_letter_even_where_an_option_says_it():
    item = choice_item("t", row(question="Which follows?", choices=["A", "~A", "B"], answer="B"))
    assert [item.score(said(answer)) for answer in ("B", "~A", "C")] == [1, 1, 0]


def test_letters_in_the_question_do_not_hide_an_option():
    question = "Of vitamin A. Or vitamin B. What is in carrots?"
    item = choice_item("t", row(question=question, choices=["retinol", "thiamine"], answer="A"))
    assert [item.score(said(answer)) for answer in ("retinol", "thiamine")] == [1, 0]


def test_an_option_is_one_line():
    item = choice_item("t", row(question="Q?", choices=["one\n  and two ", "three"], answer="A"))
    assert "\nA. one and two\nB. three\n" in item.question


GPQA = {
    "Question": "Which?",
    "Correct Answer": "right",
    "Incorrect Answer 1": "wrong 1",
    "Incorrect Answer 2": "wrong 2",
    "Incorrect Answer 3": "wrong 3",
}


def test_gpqa_options_stand_in_an_order_of_their_own_that_never_changes():
    items = [choice_item("gpqa-diamond", row(**GPQA, **{"Record ID": f"rec{n}"})) for n in range(200)]
    for item in items:
        assert f"\n{item.reference}. right\n" in item.question
        assert [item.score(said(answer)) for answer in (item.reference, "right", "wrong 1")] == [1, 1, 0]
    # Each letter is right in about 50 of 200: outside 25 … 75 with probability 3e-4, were they drawn.
    counts = {letter: sum(item.reference == letter for item in items) for letter in "ABCD"}
    assert all(25 < count < 75 for count in counts.values())
    # By sha256sum, "rec0\n…" is 73f6…, 8836…, 632f… and 4014… for right, wrong 1, wrong 2 and wrong 3.
    assert "A. wrong 3\nB. wrong 2\nC. right\nD. wrong 1" in items[0].question


def test_gpqa_options_do_not_depend_on_the_order_of_the_wrong_ones():
    swapped = GPQA | {"Incorrect Answer 1": "wrong 3", "Incorrect Answer 3": "wrong 1"}
    assert choice_item("g", row(**swapped)).question == choice_item("g", row(**GPQA)).question


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"choices": CITIES, "answer": "D"}, "answer is 'D'; expected one of A, B, C, the options' labels"),
        ({"choices": CITIES, "answer": 3}, "answer is 3; expected 0 to 2, as there are 3 options"),
        ({"choices": CITIES, "answer": -1}, "answer is -1; expected 0 to 2"),
        ({"choices": CITIES}, "answer is missing"),
        ({"choices": [*CITIES, ""], "answer": "A"}, "choices[3] is empty"),
        ({"choices": ["one"], "answer": "A"}, "choices has 1 options; expected 2 to 5"),
        ({"choices": list("uvwxyz"), "answer": "A"}, "choices has 6 options; expected 2 to 5"),
        ({"choices": "A. one B. two", "answer": "A"}, "choices is a text; expected a list of texts"),
        ({"answer": "A"}, "choices is missing"),
        ({"choices": {"text": CITIES}, "answerKey": "A"}, "choices.label is missing"),
        ({"choices": {"text": CITIES, "label": ["A", "B"]}, "answerKey": "A"}, "choices.label is ['A', 'B']"),
        ({"choices": {"text": CITIES, "label": ["A", "B", "C"]}, "answerKey": "4"}, "answerKey is '4'"),
        ({"choices": {"text": CITIES, "label": ["A", "B", "C"]}}, "answerKey is missing"),
    ],
)
def test_a_broken_choice_row_names_file_line_and_field(values, expected):
    message = error_of(lambda: choice_item("t", row(question="Q?", **values)))
    assert message.startswith(f"data.jsonl, line 17: {expected}")


def test_a_gpqa_row_without_one_of_its_answers_says_which():
    broken = {field: value for field, value in GPQA.items() if field != "Incorrect Answer 2"}
    message = error_of(lambda: choice_item("g", row(**broken)))
    assert message.startswith("data.jsonl, line 17: Incorrect Answer 2 is missing")


def test_ids_are_the_rows_own_whatever_they_are_called():
    fields = ({"id": "a"}, {"unique_id": "b"}, {"task_id": 11}, {"ID": "c"}, {"Record ID": "d"}, {})
    assert [item_id("t", row(**values)) for values in fields] == ["a", "b", "11", "c", "d", "t-0017"]
