"""How many of the equations that a model wrote are wrong: what it miscalculates, not what it misunderstands.

::

    … so she has 20 + 8 * 3 = 44 eggs, and 72,800 - 52,000 = 20,600 …        2 equations, 1 wrong

Of records of `edgereason eval`, first traces only. An equation is a chain of numbers and signs, an equals
sign and a number; what is rounded to what was written counts as right. Some of the wrong ones are no slips:
who writes "12/12 = $1680" had something else in mind.

    python tools/study/equations.py results/think/chat results/think/sft/gsm8k-512
"""

from __future__ import annotations

import argparse
import ast
import operator
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

from edgereason.evals.samples import read_samples

NUMBER = r"\$?\d[\d,]*(?:\.\d+)?"
EQUATION = re.compile(
    rf"(?<![\w.,/*+×÷=$%)-])\s*({NUMBER}(?:\s*[-+*/x×÷]\s*{NUMBER})+)\s*=\s*(-?{NUMBER})(?![\d%]|\s*[-+*/×÷]\s*\d)"
)
SIGNS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def equations(text: str) -> Iterator[tuple[str, bool]]:
    """Each equation of a text, and whether it holds; what divides by zero is none."""
    for found in EQUATION.finditer(text):
        left, right = found.groups()
        result = right.replace("$", "").replace(",", "")
        try:
            value = _value(left)
        except ZeroDivisionError:
            continue
        places = len(result.partition(".")[2])
        yield found[0].strip(), abs(value - Fraction(result)) < Fraction(1, 10**places)


def _value(expression: str) -> Fraction:
    """What numbers and signs come to, products before sums."""
    for written, meant in (("$", ""), (",", ""), ("x", "*"), ("×", "*"), ("÷", "/")):
        expression = expression.replace(written, meant)
    plain = re.sub(r"(?<![\d.])0+(?=\d)", "", expression)
    return _node(ast.parse(plain.strip(), mode="eval").body)


def _node(node: ast.expr) -> Fraction:
    match node:
        case ast.BinOp(left, sign, right):
            return SIGNS[type(sign)](_node(left), _node(right))
        case ast.Constant(int() | float() as value):
            return Fraction(str(value))
    raise ValueError(f"no number or sign: {ast.dump(node)}")


def main() -> None:
    """Counts, a line a record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of evaluations")
    for run in parser.parse_args().runs:
        samples = read_samples(run)
        found = {
            sample.key: list(equations(f"{sample.traces[0].thinking}\n{sample.traces[0].text}"))
            for sample in samples
        }
        holds = [is_right for of_one in found.values() for _, is_right in of_one]
        spoilt = [s for s in samples if s.score < 1 and not all(right for _, right in found[s.key])]
        print(
            f"{run}: {holds.count(False)} of {len(holds)} equations wrong "
            f"({holds.count(False) / max(1, len(holds)):.1%}), in {len(spoilt)} of "
            f"{sum(s.score < 1 for s in samples)} wrong answers"
        )


if __name__ == "__main__":
    main()
