"""Which texts end with an expression that is computed, what it comes to, and which are left alone."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
import sympy
from hypothesis import example, given
from hypothesis import strategies as st

from edgereason.core.arithmetic import MAX_CHARACTERS, exact_result

# Every text stands before an equals sign; the results were found by hand.
COMPUTED = [
    ("12 eggs a day * 7 days", "84"),
    ("Pam rode 2 times * 6 tickets/ride", "12"),
    ("so a 3 + 4", "7"),
    ("3 + 4", "7"),
    ("24/3", "8"),
    ("So he pays 3 shirts * $1,250", "3,750"),
    ("3 apples * $2", "6"),
    ("He runs 3 x 60", "180"),
    ("3x60", "180"),
    ("3 × 60", "180"),
    ("12 ÷ 4", "3"),
    ("12 · 4", "48"),
    ("\\[ 4 \\times 3", "12"),
    ("\\[ \\frac{48}{2}", "24"),
    ("\\( 48 + 24", "72"),
    ("\\[ 3 \\text{ pages/letter} \\times 2 \\text{ letters/friend} \\times 2 \\text{ friends}", "12"),
    ("The total number is 12 letters/week × 52 weeks/year", "624"),
    ("1. Large pizzas: 2 large pizzas × 16 slices per large pizza", "32"),
    ("3. Total slices: 32 slices (from large pizzas) + 16 slices (from small pizzas)", "48"),
    ("Half the white fiber = 1/2 * 2", "1"),
    ("150/100*80000", "120000"),
    ("So the profit is 80000-12000", "68000"),
    ("0.6 * $0.648", "0.3888"),
    ("She sold 5-7/2", "1.5"),
    ("20 - 40", "-20"),
    ("$10 * 40 + $12 * 45", "940"),
    ("(3 + 4) * 2", "14"),
    ("2(3 + 4)", "14"),
    ("2(10) + 3(5)", "35"),
    ("(2)(3)", "6"),
    ("-5 + 3", "-2"),
    ("3 * -2", "-6"),
    ("100% - 20%", "80%"),
    ("20% * 50", "10"),
    ("50 * 20%", "10"),
    ("$5 * 60%", "3"),
    ("1,200 + 34", "1,234"),
    ("1200 + 34", "1234"),
    ("1{,}200 + 34", "1{,}234"),
    ("x = 10 - 3", "7"),
    ("f(3) = 2*3 + 1", "7"),
    ("So she needs (3 + 4", "7"),
    ("- 5 + 3", "8"),
    ("* 5 + 3", "8"),
    ("2) 5 + 3", "8"),
    ("Step 1: 5 + 3", "8"),
    ("**3 + 4", "7"),
    ("$12 + 6", "18"),
    ("$50,000/year * 40 years", "2,000,000"),
    ("14 hours/week * $10/hour", "140"),
    ("24/3=<<24/3", "8"),
    ("a total of 5 * 3", "15"),
    ("5 2-legged birds * 2 legs", "10"),
    ("She has 5 apples and 3 + 4", "7"),
    ("1 - 1/2", "0.5"),
    (".5 * 10", "5"),
    ("2 hours * 60 minutes/hour", "120"),
    ("10 – 5", "5"),
    ("10 − 5", "5"),
    ("€5 + €3", "8"),
    ("5€ + 3€", "8"),
    ("\\$3 \\times 4", "12"),
    ("50\\% \\times 80", "40"),
    ("$3 \\times 4", "12"),
    ("$5$ + $3$", "8"),
    ("5cm + 3cm", "8"),
    ("2 hours + 3 hours", "5"),
    ("(5 + 3) apples * 2", "16"),
    ("((1 + 2) * (3 + 4)) / 7", "3"),
    ("10 / 4", "2.5"),
    ("\\frac{3}{4} \\times 8", "6"),
    ("\\dfrac{10 + 2}{4}", "3"),
    ("15 x 3/4", "11.25"),
    ("earns $18.50 * 4 hours", "74"),
    ("0.1 + 0.2", "0.3"),
    ("2 friends x 3 letters x 52 weeks", "312"),
    ("a &= 3 + 4", "7"),
    ("| 3 + 4", "7"),
    ("increases by 5 * 3", "15"),
    ("3\\left(4 + 5\\right)", "27"),
    ("80 + 0.25 x 80", "100"),
    ("Pam rode 2 times * 6 tickets/ride", "12"),
]

LEFT_ALONE = [
    "y 3 + 4",
    "x",
    "2x + 3",
    "x + 3",
    "3 + x",
    "3 + 4x",
    "4*x+4*x",
    "number of apples + 3",
    "Step 2 - 3",
    "pages 10-15",
    "10–15",
    "12/25/2020",
    "2020-12-25",
    "10:30 - 9:15",
    "3:2",
    "The ratio 3:2 + 1",
    "a 12-hour shift * $10",
    "2-legged",
    "12-hour",
    "40% of 200 GB",
    "60% of $5",
    "1/2 of her money + 3",
    "2/3 of 9 hours",
    "20 more than 5 * 3",
    "half of 20 + 4",
    "twice 5 + 3",
    "2 1/2 * 4",
    "1 200 + 3",
    "5 million + 500,000",
    "80k + 50k",
    "2 hours + 30 minutes",
    "$2 + 50 cents",
    "10/3",
    "1/0",
    "7",
    "5 apples",
    "total == 3 + 4 ? a",
    "120 units / 3/4",
    "60% * 1%",
    "100% - 1",
    "60% / 3",
    "3^2 + 1",
    "3**2",
    "2**3 + 1",
    "5! + 3",
    "\\sqrt{4} + 3",
    "\\pi * 2",
    "\\sin 3 + 4",
    "log 3 + 4",
    "007 + 1",
    "1.2.3 + 4",
    "1,2 + 3",
    "v2 + 3",
    "Q1 + 2",
    "5 dozen + 3",
    "3 + 4 apples. Total",
    "She has 3 + 4 and",
    "if 3 > 2 + 1",
    "3 times the number of video games - 5",
    "6 : 2 + 1",
    "a - 1",
    "https://x.com/10/5",
    "555-1234 is 3x",
    "John - 5",
    "the product of 5 and 3 + 4",
    "5 to 7 - 3",
    "2 and 1/2 + 3",
    "3 + 4 *",
    "* 3",
    "(3 + 4 =)",
    "3 + 4)",
    "the 2nd + 3",
    "A1 + 3",
    "1/3 + 1/3",
    "ages 10-15",
    "Day 1 – 5 miles + 3 miles",
    "5 apples she ate on the way home from school yesterday + 3",
    "20 minutes to download 40 GB",
    "2 + 6x",
    "3a + 4b",
    "1e5 + 3",
    "0x10 + 3",
    "#3 + 4",
    "@3 + 4",
    "~3 + 4",
    "√4 + 5",
    "|x| + 3",
    "5 + 3 = 8 and so x",
]


def written(text: str) -> str | None:
    """The result as it would be written with its sign."""
    if (result := exact_result(text)) is None:
        return None
    return f"{'-' if result.value < 0 else ''}{result.digits}{'%' if result.is_percent else ''}"


@pytest.mark.parametrize(("text", "result"), COMPUTED)
def test_an_expression_is_computed(text: str, result: str) -> None:
    assert written(text) == result
    assert written(text + " ") == result


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_what_is_not_for_certain_an_expression_is_left_alone(text: str) -> None:
    assert exact_result(text) is None


def test_only_the_current_line_is_read() -> None:
    assert exact_result("3 + 4\n5") is None
    assert written("x * 3 +\n4 + 5") == "9"


def test_only_what_follows_on_the_last_equals_sign_is_read() -> None:
    assert written("5 + 3 = 8 * 2") == "16"


def test_an_expression_that_begins_beyond_what_is_read_is_left_alone() -> None:
    long = "1 + " * MAX_CHARACTERS + "1"
    assert exact_result(long) is None
    assert written("word " * MAX_CHARACTERS + "1 + 1") == "2"


def test_a_result_of_more_than_four_decimals_is_left_alone() -> None:
    assert written("1 / 16") == "0.0625"
    assert exact_result("1 / 32") is None


def test_thousands_are_separated_where_the_expression_separates_its_own() -> None:
    assert written("1,000 * 3000") == "3000000"  # one of each: the plain one
    assert written("1,000 * 30") == "30,000"
    assert written("100 * 30") == "3000"


HOSTILE = [
    "1+",
    "(",
    "(1+",
    "1+(",
    "1,",
    "1.",
    "9",
    "$ ",
    "-",
    "1x",
    "a ",
    "1 apple * ",
    "\\frac{1}{",
    "{,}",
    "(a ",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_text_a_thousand_times_as_long_takes_no_longer(piece: str) -> None:
    short = piece * (2 * MAX_CHARACTERS)
    long = short * 1000

    def seconds(text: str) -> float:
        start = time.perf_counter()
        exact_result(text + "1")
        return time.perf_counter() - start

    assert min(seconds(long) for _ in range(5)) < 20 * min(seconds(short) for _ in range(5)) + 0.01


numbers = st.one_of(
    st.integers(0, 99_999).map(str),
    st.tuples(st.integers(0, 999), st.integers(0, 99)).map(lambda n: f"{n[0]}.{n[1]:02}"),
)


def joined(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Two expressions and a sign, in brackets."""
    return st.tuples(parts, st.sampled_from("+-*/"), parts).map(lambda p: f"({p[0]} {p[1]} {p[2]})")


expressions = st.recursive(numbers, joined, max_leaves=6).filter(lambda text: text[0] == "(")


@given(expressions)
@example("(1 / 3 + 2 / 3)")
@example("(0.1 + 0.2)")
def test_any_expression_comes_to_what_sympy_says(text: str) -> None:
    value = sympy.sympify(text, rational=True)
    result = exact_result(text)
    is_written = value.is_finite and (value * 10_000).is_integer and abs(value) < 10**15
    if not is_written:
        assert result is None
    else:
        assert result is not None
        assert result.value == Fraction(int(value.p), int(value.q))
        assert Fraction(result.digits) == abs(result.value)


@given(st.text(alphabet="0123456789+-*/x×÷()$%,. =\\{}abfrc:–\n", max_size=60))
def test_no_text_makes_it_fail(text: str) -> None:
    result = exact_result(text)
    assert result is None or any(sign in text for sign in "+-*/x×÷–(f")
