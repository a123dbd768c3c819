"""Calculations to learn from are right, every step of them, however they are written."""

from __future__ import annotations

import re
from fractions import Fraction

from tool_scripts import load_tool

calculations = load_tool("data/calculations.py")


def value(text: str) -> Fraction:
    """What a written expression comes to, by Python's own arithmetic on exact fractions."""
    text = text.replace("$", "").replace(",", "").replace("×", "*").replace("x", "*").replace("÷", "/")
    text = re.sub(r"(\d+)% of", r"\1/100*", text).replace(" of ", "*")
    result = eval(re.sub(r"\d+(\.\d+)?", lambda number: f"Fraction('{number[0]}')", text))
    assert isinstance(result, Fraction)
    return result


def test_all_sides_of_every_equation_are_equal() -> None:
    lines = [line for row in calculations.rows(300, seed=3) for line in row["solution"].splitlines()[:-1]]
    assert len(lines) == 300 * calculations.A_ROW
    for line in lines:
        first, *others = map(value, line.split(" = "))
        assert others and all(other == first for other in others), line


def test_a_row_asks_what_it_works_out_and_answers_with_the_last_result() -> None:
    for row in calculations.rows(50, seed=3):
        lines = row["solution"].splitlines()
        asked = row["question"].removeprefix("Work these out one by one: ").split(". What is")[0].split("; ")
        assert [line.split(" = ")[0] for line in lines[:-1]] == asked
        assert lines[-2].endswith(f"= {row['answer']}") and lines[-1] == f"#### {row['answer']}"


def test_the_same_seed_gives_the_same_rows_and_another_one_others() -> None:
    first, again, other = (list(calculations.rows(20, seed)) for seed in (1, 1, 2))
    assert first == again != other
