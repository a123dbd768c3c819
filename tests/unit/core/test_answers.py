"""Answers are extracted, canonicalised and compared by one set of rules. Expected values are by hand."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgereason.core.answer_math import _bounded
from edgereason.core.answers import Answer, Kind, canonical, classes, extract, grade, same

HOW_MANY = "How many eggs does Janet sell every day?"
CAPITAL = "What is the capital of France?"
OPTIONS = "Which city is the capital of France?\nA. Lyon\nB. Paris\nC. Nice\nD. Lille"


# ── canonical ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", 18),
        ("-3", -3),
        ("−3", -3),
        ("+3", 3),
        ("007", 7),
        ("3.50", Fraction(7, 2)),
        (".5", Fraction(1, 2)),
        (".0000672", Fraction(672, 10**7)),
        ("1,234.50", Fraction(2469, 2)),
        ("58,500", 58500),
        (r"10,\!080", 10080),
        (r"10\,080", 10080),
        ("1{,}000", 1000),
        ("1e3", 1000),
        ("2.5e-1", Fraction(1, 4)),
        (r"1.5 \times 10^{3}", 1500),
        ("10^6", 10**6),
        ("5 million", 5_000_000),
        ("$1.5 million", 1_500_000),
        ("2 billion dollars", 2 * 10**9),
        ("1/2", Fraction(1, 2)),
        ("-3 / 4", Fraction(-3, 4)),
        (r"\frac{3}{4}", Fraction(3, 4)),
        (r"\dfrac{3}{4}", Fraction(3, 4)),
        (r"\frac43", Fraction(4, 3)),
        (r"\frac 59", Fraction(5, 9)),
        (r"\frac9{19}", Fraction(9, 19)),
        (r"\frac{270}7\text{ degrees}", Fraction(270, 7)),
        (r"-\frac{35}{9}", Fraction(-35, 9)),
        (r"\frac{-35}{9}", Fraction(-35, 9)),
        ("2 1/2", Fraction(5, 2)),
        ("-2 1/2", Fraction(-5, 2)),
        ("2½", Fraction(5, 2)),
        (r"1\frac{4}{5}", Fraction(9, 5)),
        (r"137 \frac{1}{2}", Fraction(275, 2)),
        ("50%", 50),
        (r"50\%", 50),
        ("50 percent", 50),
        ("$18", 18),
        (r"\$18", 18),
        ("$-18$", -18),
        ("-$18", -18),
        ("€5", 5),
        ("USD 18", 18),
        ("18 dollars", 18),
        ("18 dollars and 50 cents", Fraction(37, 2)),
        ("$1,234.50", Fraction(2469, 2)),
        ("18 eggs", 18),
        ("18 eggs per day.", 18),
        ("5 km/h", 5),
        ("5km", 5),
        ("12 hours", 12),
        ("5 m", 5),
        ("20 m^2", 20),
        (r"864 \mbox{ inches}^2", 864),
        (r"15\mbox{ cm}^2", 15),
        (r"5.4 \text{ cents}", Fraction(27, 5)),
        (r"90^\circ", 90),
        (r"90^{\circ}", 90),
        ("25 °C", 25),
        ("5th", 5),
        ("about 18", 18),
        ("**18**", 18),
        ("`18`", 18),
        ("18.", 18),
        (r"\boxed{18}", 18),
        (r"\(18\)", 18),
        ("9 * 2 = 18", 18),
        (r"\frac{36}{2} = 18", 18),
    ],
)
def test_a_number_has_its_exact_value_whatever_its_dress(text: str, value: Fraction | int):
    answer = canonical(text)
    assert (answer.kind, answer.value, answer.key) == (Kind.NUMBER, value, str(Fraction(value)))


@pytest.mark.parametrize(
    ("text", "kind", "key"),
    [
        ("2 and a half", Kind.PROSE, "2 and a half"),
        ("2 cats and 3 dogs", Kind.PROSE, "2 cats and 3 dogs"),
        ("3 to 5", Kind.PROSE, "3 to 5"),
        ("5:30 pm", Kind.PROSE, "5:30 pm"),
        ("5:30PM", Kind.PROSE, "5:30 pm"),
        ("3 p.m.", Kind.PROSE, "3 pm"),
        ("5 May", Kind.PROSE, "5 may"),
        ("3 hundredths", Kind.PROSE, "3 hundredths"),
        ("Apollo 11", Kind.PROSE, "apollo 11"),
        ("COVID-19", Kind.PROSE, "covid-19"),
        ("1/0", Kind.EXPRESSION, "1/0"),
        ("2k", Kind.EXPRESSION, "2k"),
        ("5 x", Kind.EXPRESSION, "5x"),
        (r"7\pi", Kind.EXPRESSION, r"7\pi"),
        ("7π", Kind.EXPRESSION, r"7\pi"),
        (r"3\sqrt{13}", Kind.EXPRESSION, r"3\sqrt{13}"),
        ("40_9", Kind.EXPRESSION, "40_9"),
        ("5!", Kind.EXPRESSION, "5!"),
        ("3, 5, 7", Kind.EXPRESSION, "3,5,7"),
        (r"\left( 3, \frac{\pi}{2} \right)", Kind.EXPRESSION, r"(3,\frac{\pi}{2})"),
        ("p - q", Kind.EXPRESSION, "p-q"),
        (r"\cot x", Kind.EXPRESSION, r"\cot x"),
        ("cot x", Kind.EXPRESSION, r"\cot x"),
        ("x^{2} + 1", Kind.EXPRESSION, "x^2+1"),
    ],
)
def test_what_is_no_plain_number_is_not_read_as_one(text: str, kind: Kind, key: str):
    answer = canonical(text)
    assert (answer.kind, answer.key, answer.value) == (kind, key, None)


def test_an_equation_for_a_letter_keeps_its_value_and_stays_an_expression():
    assert canonical("x = 5") == Answer("x = 5", Kind.EXPRESSION, "x=5", Fraction(5))


@pytest.mark.parametrize(
    "text",
    ["B", "(B)", "B.", "B)", "**B**", "B) Paris", "B. Paris", "(b)", "option B", r"\text{(B)}", "B: no"],
)
def test_a_letter_is_a_choice_with_or_without_its_option(text: str):
    assert (canonical(text).kind, canonical(text).key) == (Kind.CHOICE, "B")


@pytest.mark.parametrize("text", ["b", "A cat", "D. H. Lawrence", "(A) and (B)", "(a)(b)", "F", "Bad"])
def test_what_only_looks_like_a_letter_is_no_choice(text: str):
    assert canonical(text).kind is not Kind.CHOICE


@pytest.mark.parametrize(
    ("text", "kind", "key"),
    [
        ("Yes.", Kind.YES_NO, "yes"),
        ("YES", Kind.YES_NO, "yes"),
        ("No, it is not.", Kind.YES_NO, "no"),
        ("yes it does", Kind.YES_NO, "yes"),
        ("No problem", Kind.PROSE, "no problem"),
        ("Nobody", Kind.PROSE, "nobody"),
    ],
)
def test_yes_and_no_are_read_from_the_first_word(text: str, kind: Kind, key: str):
    assert (canonical(text).kind, canonical(text).key) == (kind, key)


@pytest.mark.parametrize(
    "text", ["paris", "PARIS.", " Paris ", '"Paris"', "the Paris", r"\text{Paris}", "*Paris*"]
)
def test_prose_is_compared_by_its_words_alone(text: str):
    assert (canonical(text).kind, canonical(text).key) == (Kind.PROSE, "paris")


# ── same ─────────────────────────────────────────────────────────────────────────────────────────


def both_ways(a: str, b: str) -> bool:
    forward, backward = same(canonical(a), canonical(b)), same(canonical(b), canonical(a))
    assert forward is backward
    return forward


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("$1,234.50", "1234.5"),
        ("0.5", r"\frac{1}{2}"),
        ("50%", "50"),
        ("18 eggs", "$18"),
        ("x = 5", "5"),
        (r"x \in [-2,7]", "[-2,7]"),
        (r"(a+5)(b+2)", "ab + 2a + 5b + 10"),
        (r"3 \pm 2\sqrt{2}", r"3+2\sqrt{2}, 3-2\sqrt{2}"),
        ("7, 5, 3", "3, 5 and 7"),
        (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt 3}"),
        (r"\sqrt{16}", "4"),
        (r"2^{10}", "1024"),
        ("sqrt(51)", r"\sqrt{51}"),
        (r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}", r"\begin{bmatrix} -\frac13 \\ \frac23 \end{bmatrix}"),
        (r"\begin{pmatrix} -2 \\ -14 \end{pmatrix}", r"\begin{pmatrix}-2\\-14\end{pmatrix}"),
        (r"(-\infty, 2) \cup (3, \infty)", "(-∞,2)∪(3,∞)"),
        (r"y = 2x + 3", "y=3+2x"),
        ("40_9", "40_{9}"),
        (r"11\sqrt{5} + 11 \text{ cm}", r"11 + 11\sqrt5"),
    ],
)
def test_two_spellings_of_one_answer_are_the_same(a: str, b: str):
    assert both_ways(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("50%", "0.5"),
        ("0.33", "1/3"),
        ("18", "18.0001"),
        ("x = 5", "y = 5"),
        ("x = 5", "6"),
        ("40_9", "40_8"),
        ("40_9", "40"),
        ("2t", "2"),
        (r"\sqrt{2}", "1.414214"),
        (r"\pi", "3.14"),
        ("(1,2)", "(2,1)"),
        ("[1,2]", "(1,2)"),
        ("A", "B"),
        ("A", "a cat"),
        ("yes", "no"),
        ("Paris", "London"),
        ("Apollo 11", "11"),
    ],
)
def test_different_answers_are_not_the_same(a: str, b: str):
    assert not both_ways(a, b)


# ── extract ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "shown", "key"),
    [
        # boxes
        (r"So \boxed{\frac{1}{2}} it is.", r"\frac{1}{2}", "1/2"),
        (r"First \boxed{3}, then \boxed{18}.", "18", "18"),
        (r"The answer is 5. \boxed{18}", "18", "18"),
        (r"\boxed{18 \text{ eggs}}", r"18 \text{ eggs}", "18"),
        (r"\boxed{18} and then \boxed{2", "18", "18"),
        (r"We get $x = \boxed{}$. The answer is 18.", "18", "18"),
        # markers
        ("The final answer is 18 eggs per day.", "18 eggs per day", "18"),
        ("The answer is 3.5.", "3.5", "7/2"),
        ("The answer is $1,234.50. That is a lot.", "$1,234.50", "2469/2"),
        ("The answer is $18$.", "18", "18"),
        ("The answer is: **18**.", "18", "18"),
        ("**Answer**: 18", "18", "18"),
        ("**Answer:** 18 because 9 * 2 is 18", "18", "18"),
        ("**Final answer: 18**", "18", "18"),
        ("## Answer\n\n18 eggs", "18 eggs", "18"),
        ("ANSWER: 18", "18", "18"),
        ("9 * 2 = 18\n#### 18", "18", "18"),
        ("The answer is:\n\\[\n18\n\\]\nas it should be 7.", "18", "18"),
        ("The answer is 5. No: the answer is 18.", "18", "18"),
        ("The final answer is The final answer is 18", "18", "18"),
        ("Janet makes $18. The final answer is", "$18", "18"),
        ("The answer is 18. So the final answer is", "18", "18"),
        ("The answer is that Janet makes $18 per day.", "$18", "18"),
        ("The answer is 5 + 13 = 18 eggs", "18", "18"),
        ("The final answer to the question is 18.", "18", "18"),
        ("#### Step 1\n9 * 2 = 18", "18", "18"),
        ("Answer: Let's think step by step. She has 9 * 2 = 18 eggs.", "18", "18"),
        # worked answers without a marker
        ("18", "18", "18"),
        ("She has 16 - 7 = 9 eggs.\nSo she makes 9 * 2 = $18 every day for 7 days.", "$18", "18"),
        ("So in total she sells 18 eggs. That is all.", "18", "18"),
        ("2 * 9 = 18 spoons. So 18 spoons are enough for 4 muffins.", "18", "18"),
        ("So the average temperature is -10 degrees.", "-10", "-10"),
        ("Thus the speed is 1.2*60 = 72Mb per hour.", "72", "72"),
        (r"Thus we find $x = \frac{3}{4}$.", r"\frac{3}{4}", "3/4"),
        ("- 9 eggs\n- 9 more\n\n**18 eggs**", "18 eggs", "18"),
    ],
)
def test_the_number_that_a_response_ends_in_is_its_answer(text: str, shown: str, key: str):
    for question in (None, HOW_MANY):
        answer = extract(text, question=question)
        assert answer is not None
        assert (answer.text, answer.kind, answer.key) == (shown, Kind.NUMBER, key)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("Paris", "paris"),
        ("The answer is Paris. It has 2 million people.", "paris"),
        ("The answer is Paris, because the king lived there.", "paris"),
        ("The answer is J. K. Rowling. She wrote it.", "j. k. rowling"),
        ("The answer is Apollo 11.", "apollo 11"),
        (r"\boxed{\text{Evelyn}}", "evelyn"),
        ("The capital of France has 2 million people", "capital of france has 2 million people"),
    ],
)
def test_prose_stays_prose_where_no_quantity_is_asked_for(text: str, key: str):
    for question in (None, CAPITAL):
        answer = extract(text, question=question)
        assert answer is not None
        assert (answer.kind, answer.key, answer.value) == (Kind.PROSE, key, None)


def test_the_question_decides_whether_a_number_in_prose_is_the_answer():
    text = "Paris has 2 million people."
    asked_for = extract(text, question="How many people live in the capital of France?")
    not_asked_for = extract(text, question=CAPITAL)
    assert asked_for is not None and not_asked_for is not None
    assert (asked_for.kind, asked_for.value) == (Kind.NUMBER, 2_000_000)
    assert (not_asked_for.kind, not_asked_for.key) == (Kind.PROSE, "paris has 2 million people")


def test_two_quantities_joined_by_and_are_not_cut_to_one():
    answer = extract("The answer is 2 hours and 30 minutes.", question=HOW_MANY)
    assert answer == Answer("2 hours and 30 minutes", Kind.PROSE, "2 hours and 30 minutes")


@pytest.mark.parametrize(
    "text",
    [
        "B",
        "The answer is B.",
        "The answer is (B).",
        "The answer is B. Paris",
        "The correct option is B, because the king lived there.",
        "The answer is Paris.",
        "Paris",
        "B. Paris has been the capital since 987.",
        "Option B is correct.",
        "Lyon is large, but I choose option B here",
        "A is wrong and (C) is too.\n\nB",
        r"\boxed{B}",
        "**B) Paris**",
    ],
)
def test_an_option_is_found_by_its_letter_or_its_words(text: str):
    answer = extract(text, question=OPTIONS)
    assert answer is not None
    assert (answer.kind, answer.key) == (Kind.CHOICE, "B")


def test_options_of_numbers_in_one_line_are_found_by_value():
    answer = extract("So the cost is $5,604.", question="What was the cost? (A) $5,434 (B) $5,484 (C) $5,604")
    assert answer == Answer("$5,604", Kind.CHOICE, "C")


def test_an_option_is_quoted_whole_before_its_numbers_and_reasons_are_looked_at():
    question = "How much is left? A. 10 g since some escapes B. 20 g because no matter is lost"
    for text in ("20 g because no matter is lost.", "The answer is 20 g because no matter is lost."):
        answer = extract(text, question=question)
        assert answer is not None
        assert (answer.kind, answer.key) == (Kind.CHOICE, "B")


def test_a_time_of_day_is_no_number():
    answer = extract("So the train leaves at 9:03:36.", question=HOW_MANY)
    assert answer is not None
    assert (answer.kind, answer.value) == (Kind.PROSE, None)


def test_a_reply_that_begins_with_yes_or_no_is_that():
    answer = extract("No, they don't. 4 is less than 5.", question="Do cats have wings?")
    assert answer is not None
    assert (answer.kind, answer.key) == (Kind.YES_NO, "no")


@pytest.mark.parametrize("text", ["", "   \n\t ", "**", "The final answer is", "The final answer is **"])
def test_nothing_said_is_no_answer(text: str):
    assert extract(text) is None


# ── decimal commas, other scripts, upright letters, tags ─────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12,50 €", Fraction(25, 2)),
        ("3,5 Liter", Fraction(7, 2)),
        ("1.234,50", Fraction(2469, 2)),
        ("1.234.567,8 €", Fraction(12345678, 10)),
        ("€12,50", Fraction(25, 2)),
        ("$0,99", Fraction(99, 100)),
        ("0,25 %", Fraction(1, 4)),
        ("-7,5 °C", Fraction(-15, 2)),
        ("0,500 kg", Fraction(1, 2)),
        ("3,1416 m", Fraction(31416, 10000)),
        (r"1,5 \times 10^{3}", 1500),
        ("2,5 Millionen", Fraction(5, 2)),
        ("12,500", 12500),
        ("1,234,567 eggs", 1234567),
        ("1,234.50", Fraction(2469, 2)),
    ],
)
def test_a_comma_before_any_number_of_digits_but_three_is_decimal(text: str, value: Fraction | int):
    answer = canonical(text)
    assert (answer.kind, answer.value) == (Kind.NUMBER, value)


@pytest.mark.parametrize("text", ["3, 5", "3,5,7", "1,23,456", "1234,567", "1.234.567", "(3,5)", "[1,5]"])
def test_a_comma_that_may_be_a_lists_gives_no_number(text: str):
    assert canonical(text).kind is Kind.EXPRESSION
    assert canonical(text).value is None


def test_two_numbers_with_a_bare_comma_are_the_list_and_the_decimal():
    assert both_ways("3,5", "3, 5")
    assert both_ways("3,5", "3.5")
    assert both_ways("12,50", "12,50 €")
    assert not both_ways("12,50", "13,50")
    assert not both_ways("3,5", "5")
    assert not both_ways("(3,5)", "3.5")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Das macht 12,50 €.", Fraction(25, 2)),
        ("So braucht sie 3,5 Liter.", Fraction(7, 2)),
        ("The total = 1.234,50 €", Fraction(2469, 2)),
        ("So each of the 4 gets 0,75 kg.", Fraction(3, 4)),
        ("The answer is 12,50 €.", Fraction(25, 2)),
        ("So there are 12,500 people.", 12500),
        ("The factors are 1,2,3,6, so there are 4.", 4),
    ],
)
def test_a_decimal_comma_is_read_in_a_sentence(text: str, value: Fraction | int):
    answer = extract(text, question=HOW_MANY)
    assert answer is not None
    assert (answer.kind, answer.value) == (Kind.NUMBER, value)


@pytest.mark.parametrize(
    "text", ["We get x = 3. So the vertex is (3,5).", "It is 2 + 2. So we see 1,2,3,6.", "So it is 1,23,456."]
)
def test_a_list_in_the_last_sentence_gives_no_number_and_no_earlier_one(text: str):
    answer = extract(text, question=HOW_MANY)
    assert answer is not None
    assert (answer.kind, answer.value) == (Kind.PROSE, None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("一共有12个", 12),
        ("小明有 5 个，小红有7个，一共有12个苹果。", 12),
        ("答案是12。", 12),
        ("所以每人得到3.5元。", Fraction(7, 2)),
        ("她一共付了1,234元。", 1234),
        ("全部で12個です。", 12),
        ("5 + 7 = 12。よって、答えは12人です。", 12),
        ("モモは 3 個、合計は1万5千円です", 15000),
        ("모두 12개입니다.", 12),
        ("사과 5 개와 배 7 개, 모두 12개", 12),
        ("12명", 12),
        ("12個のりんご", 12),
        ("1億2000万円", 120_000_000),
        ("3분의 2", Fraction(2, 3)),
        ("3分の2", Fraction(2, 3)),
        ("5千万", 50_000_000),
        ("12 万", 120_000),
    ],
)
def test_digits_beside_han_kana_and_hangul_are_seen(text: str, value: Fraction | int):
    answer = extract(text, question="小明和小红一共有多少个苹果？")
    assert answer is not None
    assert (answer.kind, answer.value) == (Kind.NUMBER, value)


@pytest.mark.parametrize("text", ["3兆", "2个半", "12月", "3月5日", "12和", "3千5万", "十二"])
def test_what_follows_a_number_in_han_and_is_not_understood_gives_no_number(text: str):
    assert canonical(text).kind is not Kind.NUMBER


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10⁻³", Fraction(1, 1000)),
        ("6.02×10²³", 602 * 10**21),
        ("1.5×10⁻³", Fraction(3, 2000)),
        ("－5", -5),
        ("‐5", -5),
        ("➖5", -5),
        ("﹣5", -5),
        ("4⅞", Fraction(39, 8)),
        ("⅐", Fraction(1, 7)),
        ("2⅖ cups", Fraction(12, 5)),
        ("¹⁄₂", Fraction(1, 2)),
        ("3⁄4", Fraction(3, 4)),
        ("１．５", Fraction(3, 2)),
        ("１，２３４", 1234),
        ("１２％", 12),
        ("￥１２００", 1200),
        ("۱۲٫۵", Fraction(25, 2)),
        ("۱٬۲۳۴", 1234),
        ("٣٫١٤", Fraction(157, 50)),
        ("३.५", Fraction(7, 2)),
        ("𝟏𝟐", 12),
        ("25℃", 25),
        ("20 m²", 20),
        ("5 ㎏", 5),
    ],
)
def test_a_number_in_unicode_has_its_value_alone_and_in_a_sentence(text: str, value: Fraction | int):
    answer = canonical(text)
    assert (answer.kind, answer.value) == (Kind.NUMBER, value)
    said = extract(f"So we know that it is {text}.", question=HOW_MANY)
    assert said is not None
    assert said.value == value


@pytest.mark.parametrize("text", ["①", "Paris¹", "x₁", "40₉", "x¹²", "³√8", "2⁻⁹⁸"])
def test_raised_lowered_and_circled_digits_are_not_digits_of_the_number(text: str):
    assert canonical(text).value is None


def test_unicode_formulas_are_their_latex():
    assert canonical("40₉").key == "40_9"
    assert canonical("x¹²").key == "x^{12}"
    assert both_ways("2⁻⁹⁸", r"\frac{1}{2^{98}}")
    assert both_ways("x²＋１", "x^2+1")


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (r"2+\mathrm{i}", "2"),
        (r"2+\text{i}", "2"),
        (r"2+3\mathrm{i}", "2+3"),
        (r"3\,\mathrm{i}", "3"),
        (r"2\mathrm{e}", "2"),
        (r"2\mathrm{x}", "2"),
        (r"1+\mathrm{m}", "1"),
        (r"2\,\mathrm{d}x", "2x"),
        (r"2\operatorname{ln}(3)", "6"),
        (r"5\operatorname{sin}(x)", "5x"),
        (r"4\mathrm{j}", "4"),
    ],
)
def test_an_upright_letter_or_function_is_not_a_unit(a: str, b: str):
    assert not both_ways(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (r"3\,\mathrm{m}", "3"),
        (r"5\,\mathrm{min}", "5"),
        (r"9.8\,\mathrm{m/s^2}", "9.8"),
        (r"4\,\mathrm{V}", "4"),
        (r"12\,\mathrm{kg}", "12"),
        (r"5\,\mathrm{kg}\cdot\mathrm{m}", "5"),
        (r"2+3\mathrm{i}", "2+3i"),
        (r"\mathrm{e}^{2}", "e^2"),
        (r"x\mathrm{e}^{x}", "xe^x"),
        (r"\pi\mathrm{i}", r"\pi i"),
        (r"2\operatorname{ln}(3)", r"2\ln 3"),
        (r"\mathrm{e}^{\mathrm{i}\pi}", r"e^{i\pi}"),
    ],
)
def test_an_upright_unit_is_one_and_an_upright_letter_is_its_variable(a: str, b: str):
    assert both_ways(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("2^{-98}", "2^{-99}"),
        ("2⁻⁹⁸", "2⁻⁹⁹"),
        ("2^{-98}", "-2^{-98}"),
        (r"\frac{1}{3^{50}}", r"\frac{1}{3^{51}}"),
        ("e^{-50}", "e^{-51}"),
        ("x=2^{-98}", "x=2^{-99}"),
        (r"\{2^{-98},1\}", r"\{2^{-99},1\}"),
        ("(0,2^{-98})", "(0,2^{-99})"),
        ("(0,3^{-60}]", "(0,3^{-61}]"),
        (r"\frac{\pi}{10^{17}}", r"\frac{2\pi}{10^{17}}"),
        ("2^{-60}", "0"),
        ("1+2^{-98}", "1"),
        ("10⁻¹⁶", "-10⁻¹⁶"),
    ],
)
def test_tiny_values_and_their_signs_differ(a: str, b: str):
    assert not both_ways(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("2^{-98}", r"\frac{1}{2^{98}}"),
        ("2^{-98}", "4^{-49}"),
        (r"\frac{\pi}{10^{17}}", r"10^{-17}\pi"),
        (r"\sqrt{2}-\frac{2}{\sqrt2}", "0"),
        (r"\{1,2^{-98}\}", r"\{4^{-49},1\}"),
        (r"\sin(\pi/6)", "1/2"),
    ],
)
def test_tiny_values_that_are_equal_are_the_same(a: str, b: str):
    assert both_ways(a, b)


TAGS = [
    "</think>", "<think>", "</THINK>", "< / think >", "<\\/think>", "</thinking>", "</answer>", "<|im_end|>",
    "<|endoftext|>", "</s>", "<end_of_turn>", "[/INST]",
]  # fmt: skip
CUT_TAGS = ["</thinking", "</think", "</thi", "</t", "</"]


@pytest.mark.parametrize("tag", [*TAGS, *CUT_TAGS])
def test_a_tag_is_never_an_answer(tag: str):
    for form in ("{}", "**{}**", "\n\n{}\n", "The final answer is {}", "Answer: {}."):
        assert extract(form.format(tag), question=HOW_MANY) is None


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_in_a_box_or_twice_is_no_answer(tag: str):
    for form in (r"\boxed{{{}}}", "Answer: {0}.{0}", "{0}{0}\n\n{0}"):
        assert extract(form.format(tag), question=HOW_MANY) is None


@pytest.mark.parametrize("tag", [*TAGS, *CUT_TAGS])
def test_an_answer_before_a_stray_tag_is_read_as_without_it(tag: str):
    for form in ("18 {}", "The final answer is 18 {}", "So she has 18 eggs.\n{}", r"\boxed{{18}} {}"):
        answer = extract(form.format(tag), question=HOW_MANY)
        assert answer is not None
        assert (answer.kind, answer.value) == (Kind.NUMBER, 18)


def test_an_answer_behind_or_between_tags_is_read():
    for text in ("</think>\n\n18", "<answer>18</answer>", "The final answer is </think>\n18 eggs", "</s>18"):
        answer = extract(text, question=HOW_MANY)
        assert answer is not None
        assert answer.value == 18


@pytest.mark.parametrize("text", ["a<b>c", "x < 5", "a<b", "1 < x < s"])
def test_an_inequality_is_not_a_tag(text: str):
    answer = extract(text)
    assert answer is not None
    assert answer.text == text


# ── classes ──────────────────────────────────────────────────────────────────────────────────────


def test_classes_are_numbered_by_first_appearance_and_none_stays_none():
    answers = [
        canonical("18"),
        None,
        canonical("Paris"),
        canonical("$18"),
        canonical("yes"),
        canonical("PARIS"),
    ]
    assert classes(answers) == [0, None, 1, 0, 2, 1]


def test_an_expression_joins_the_number_that_it_equals():
    assert classes([canonical(r"\sqrt{16}"), canonical("4"), canonical("5"), canonical("2^2")]) == [
        0,
        0,
        1,
        0,
    ]


def test_a_chain_of_expressions_never_joins_two_numbers(monkeypatch: pytest.MonkeyPatch):
    # The worst comparison that can be: every two formulas are equal.
    monkeypatch.setattr("edgereason.core.answers.are_equal", lambda left, right: True)
    answers = [canonical(text) for text in ("2k", "5", "6", "3k", "6", "5")]
    # 5 anchors the class of 2k, so 6 opens its own; 3k joins the first.
    assert classes(answers) == [0, 0, 1, 0, 1, 0]


def test_a_late_answer_never_merges_two_classes(monkeypatch: pytest.MonkeyPatch):
    # z is the same as x and as y, which differ: merging would give y's class a vote more than was cast.
    monkeypatch.setattr("edgereason.core.answers.are_equal", lambda left, right: "z^2" in (left, right))
    answers = [canonical(text) for text in ("x^2", "y^2", "z^2")]
    assert classes(answers) == [0, 1, 0]
    assert classes(answers)[:2] == classes(answers[:2])


answer_texts = st.one_of(
    st.integers(-30, 30).map(str),
    st.sampled_from(["$5", "5.0", "10/2", "Paris", "paris.", "London", "A", "(A)", "B", "yes", "No."]),
)
formulas = st.sampled_from(["x+1", "1+x", "x = 5", "y = 5", r"\sqrt{25}", "5", "2k", "k+k", "6", "x=6"])


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), answer_texts), max_size=12), st.randoms(use_true_random=False))
def test_without_expressions_the_partition_does_not_depend_on_order(texts: list[str | None], random):
    answers = [None if text is None else canonical(text) for text in texts]
    order = list(range(len(answers)))
    random.shuffle(order)
    numbered, shuffled = classes(answers), classes([answers[index] for index in order])
    for place, i in enumerate(order):
        for other_place, j in enumerate(order):
            assert (shuffled[place] == shuffled[other_place]) == (numbered[i] == numbered[j])
            if answers[i] is not None and answers[j] is not None:
                assert (numbered[i] == numbered[j]) == same(answers[i], answers[j])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.one_of(st.none(), formulas, answer_texts), max_size=8))
def test_classes_of_a_prefix_are_a_prefix_of_the_classes_and_have_one_anchor(texts: list[str | None]):
    answers = [None if text is None else canonical(text) for text in texts]
    numbered = classes(answers)
    for length in range(len(answers)):
        assert classes(answers[:length]) == numbered[:length]
    anchors: dict[int, set[tuple[Kind, str]]] = {}
    for number, answer in zip(numbered, answers, strict=True):
        if number is not None and answer is not None and answer.kind is not Kind.EXPRESSION:
            anchors.setdefault(number, set()).add((answer.kind, answer.key))
    assert all(len(keys) == 1 for keys in anchors.values())
    assert all(same(answer, answer) for answer in answers if answer is not None)


# ── grade ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("She makes 9 * 2 = $18 every day.", "18"),
        ("The final answer is $18.00.", "18"),
        (r"Hence $\boxed{0.75}$.", r"\frac{3}{4}"),
        ("The answer is 3/4.", r"\frac{3}{4}"),
        (r"\boxed{x^2+2x+1}", r"(x+1)^2"),
        (r"The answer is $\left(3, \frac{\pi}{2}\right)$.", r"\left( 3, \frac{\pi}{2} \right)"),
        ("B) Paris", "B"),
        ("The answer is B.", "B"),
        ("I think option B is right.", "B"),
        ("Yes, they do.", "yes"),
        (r"\boxed{\text{Evelyn}}", r"\text{Evelyn}"),
        ("The answer is east.", r"\text{east}"),
        ("The angle is $145^\\circ$, so the answer is 145 degrees.", r"145^\circ"),
    ],
)
def test_a_right_response_is_graded_right(prediction: str, reference: str):
    assert grade(prediction, reference)


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("She makes 9 * 2 = $18 every day.", "9"),
        ("The answer is 18.5.", "18"),
        ("A) Lyon", "B"),
        ("No.", "yes"),
        ("", "18"),
        (None, "18"),
        (r"\boxed{x^2+1}", r"(x+1)^2"),
    ],
)
def test_a_wrong_or_missing_response_is_graded_wrong(prediction: str | None, reference: str):
    assert not grade(prediction, reference)


def test_an_answer_extracted_before_is_graded_like_its_text():
    assert grade(canonical("$18"), "18")
    assert not grade(canonical("$18"), "19")


# ── properties, threads and hostile input ────────────────────────────────────────────────────────


@given(st.one_of(st.integers(), st.fractions(), st.decimals(allow_nan=False, allow_infinity=False, places=3)))
def test_every_number_is_its_own_right_answer(x):
    assert grade(str(x), str(x))
    assert canonical(str(x)).value == Fraction(str(x))


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_numbers_are_the_same_exactly_when_they_are_equal(x: int, y: int):
    assert same(canonical(f"${x:,}$"), canonical(f"{y} eggs")) == (x == y)


PIECES = r"""
\boxed { } $ \frac \text \( \) \[ \] ** __ ` #### answer is : = . 5 1/2 , - ( ) A) (B) yes \\ ^ _ x % € ½ ²
"""
pieces = st.sampled_from([*PIECES.split(), "\n", " ", "the final ", "\u0664", "\x00"])


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(st.text(max_size=200), st.lists(pieces, max_size=25).map("".join)),
    st.sampled_from([None, HOW_MANY, OPTIONS]),
)
def test_extraction_and_reading_never_raise(text: str, question: str | None):
    answer = extract(text, question=question)
    assert answer is None or answer.key == str(answer.value) or answer.kind is not Kind.NUMBER
    assert same(canonical(text), canonical(text))


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9",
        "9^9^9",
        r"10^{10^{10}}",
        r"((10^{999})^{999})^{999}",
        r"10^{10 \cdot 10 \cdot 10 \cdot 10 \cdot 10 \cdot 10 \cdot 10}",
        "100000000!",
        "((9!)!)!",
        r"\binom{1000000000}{500000000}",
        r"\sum_{k=1}^{1000000000} k!",
        "1e999999999",
        "9" * 5000,
        "(" * 3000,
        r"\frac{" * 2000,
        r"(x^2-1)^{999}",
        r"(x+1)^{99} (x-1)^{99} + 1",
    ],
)
def test_a_monstrous_formula_is_refused_and_not_computed(text: str):
    start_s = time.monotonic()
    monster = canonical(text)
    for other in ("7", "x+1", r"(x-1)^{999}(x+1)^{999}+1", r"\sqrt{2}"):
        assert not same(monster, canonical(other))
    assert same(monster, canonical(text))
    # Each comparison has a second's worth of calls; a machine that is busy may take a few times that.
    assert time.monotonic() - start_s < 60


def test_work_without_end_is_given_up_after_a_number_of_calls():
    def nothing() -> None: ...

    def endless() -> None:
        while True:
            nothing()

    assert _bounded(endless) is None
    assert _bounded(lambda: 18) == 18


def test_long_texts_are_read_in_time_proportional_to_their_length():
    start_s = time.monotonic()
    for piece in ("**a ", r"\(", r"\[", "$5 ", r"\boxed{", "answer is ", "\n", "1,", "the answer to ", "'a"):
        extract(piece * (100_000 // len(piece)), question=HOW_MANY)
    # About a second together; what is quadratic takes minutes.
    assert time.monotonic() - start_s < 30


def test_formulas_compare_outside_the_main_thread_as_in_it():
    verdicts: list[bool] = []

    def work():
        # Not compared anywhere else here, so nothing is cached.
        verdicts.append(same(canonical("(u+3)^2"), canonical("u^2+6u+9")))
        verdicts.append(same(canonical("(u+3)^2"), canonical("u^2+6u+8")))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert verdicts == [True, False]


def test_the_trace_hook_is_given_back_after_a_comparison():
    before = sys.gettrace()
    assert same(canonical("(v+3)^2"), canonical("v^2+6v+9"))
    assert sys.gettrace() is before


def test_a_formula_that_can_not_be_parsed_logs_nothing(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        assert not same(canonical(r"\frac{w}{"), canonical(r"\frac{}{w}"))
    assert caplog.records == []


def test_reading_numbers_and_prose_does_not_load_math_verify():
    code = (
        "import sys; from edgereason.core.answers import grade; assert grade('so 18', '18');"
        "assert not grade('Paris', 'x+1'); sys.exit('math_verify' in sys.modules or 'sympy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
