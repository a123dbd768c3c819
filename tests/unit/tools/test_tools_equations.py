"""Equations are found in what a model says, and judged as a reader would."""

from __future__ import annotations

import pytest

from tool_scripts import load_tool

equations = load_tool("study/equations.py").equations


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so 20 + 8 * 3 = 44 eggs", [("20 + 8 * 3 = 44", True)]),
        ("72,800 - 52,000 = 20,600.", [("72,800 - 52,000 = 20,600", False)]),
        ("$4.50 x 2 = $9 and 3 × 3 = 6", [("$4.50 x 2 = $9", True), ("3 × 3 = 6", False)]),
        ("64/1.5=42.67", [("64/1.5=42.67", True)]),  # rounded to what is written
        ("64/1.5=42", [("64/1.5=42", True)]),
        ("64/1.5=44", [("64/1.5=44", False)]),
        ("007 + 1 = 8", [("007 + 1 = 8", True)]),
        ("$1.05 * 2 = $2.10", [("$1.05 * 2 = $2.10", True)]),  # a zero behind the point counts
        (
            "60 + 180 + 126 = 240 + 126 = 366",
            [("240 + 126 = 366", True)],  # of a running total, the last side
        ),
        ("x = 5, 12 people, 5 / 0 = 1", []),
        ("20% of 50 = 10", []),  # no sign that is understood: left alone
    ],
)
def test_what_holds_is_told_from_what_does_not(text: str, expected: list[tuple[str, bool]]) -> None:
    assert list(equations(text)) == expected
