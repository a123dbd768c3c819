r"""Makes calculations, many to a row, written out with care: what small models get wrong in passing.

::

    72,800 - 52,000 = 20,800
    60 + 180 + 126 = 240 + 126 = 366                                 a running total
    195 × 15 = 195 × 10 + 195 × 5 = 1,950 + 975 = 2,925              a product taken apart
    15 % of 240 = 0.15 × 240 = 36

One in eight equations that the 0.5B writes on GSM8K is wrong, thinking or not (results/think/chat, sft).
Numbers are of the sizes that word problems have, in the ways people write them. The same arguments give the
same rows.

    python tools/data/calculations.py --count 450 --seed 1 -o calculations.jsonl
    edgereason train traces --from calculations.jsonl --format worked --model qwen2.5-coder-0.5b-w4 \
        -o calculations
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from edgereason.core.bundle import write_atomically

A_ROW = 9
"""Calculations of a row."""


@dataclass(frozen=True)
class Hand:
    """How somebody writes numbers and signs."""

    times: str
    over: str
    money: bool
    commas: bool

    @classmethod
    def of(cls, dice: random.Random) -> Hand:
        return cls(dice.choice("*×x*"), dice.choice("/÷//"), dice.random() < 0.3, dice.random() < 0.3)

    def __call__(self, value: Fraction | int) -> str:
        """A number of at least 0, with at most two decimals."""
        value = Fraction(value)
        places = next(p for p in (0, 1, 2) if (value * 10**p).denominator == 1)
        if self.money and places:
            places = 2
        return f"{'$' if self.money else ''}{float(value):{',' if self.commas else ''}.{places}f}"

    def sum(self, *values: Fraction | int) -> str:
        return " + ".join(map(self, values))


def size(dice: random.Random) -> int:
    """A number as word problems have them: small ones often, round ones often."""
    number = dice.randrange(2, dice.choice((13, 13, 50, 100, 100, 100, 400, 1000, 5000)))
    return number * dice.choice((1, 1, 1, 1, 10, 100)) if number < 100 else number


def amount(dice: random.Random) -> Fraction:
    """A price: whole, or with cents that end in 5 or 0."""
    return Fraction(size(dice)) if dice.random() < 0.5 else Fraction(dice.randrange(2, 400), 20)


Calculation = tuple[str, str, Fraction]
"""What is asked, the same written out to its result, and the result."""


def addition(dice: random.Random, write: Hand) -> Calculation:
    """Two to five terms, with a running total."""
    count = dice.choice((2, 2, 3, 3, 4, 5))
    terms = [amount(dice) if write.money else Fraction(size(dice)) for _ in range(count)]
    asked = write.sum(*terms)
    said, rest = [asked], terms
    while len(rest) > 1:
        rest = [rest[0] + rest[1], *rest[2:]]
        said.append(write.sum(*rest))
    return asked, " = ".join(said), sum(terms, Fraction())


def subtraction(dice: random.Random, write: Hand) -> Calculation:
    """One or two subtrahends, never below nothing."""
    taken = [amount(dice) if write.money else Fraction(size(dice)) for _ in range(dice.choice((1, 1, 2)))]
    total = sum(taken, Fraction()) + size(dice)
    asked = " - ".join(map(write, (total, *taken)))
    said = [asked]
    while taken:
        total -= taken.pop(0)
        said.append(" - ".join(map(write, (total, *taken))))
    return asked, " = ".join(said), total


def product(dice: random.Random, write: Hand) -> Calculation:
    """By one digit at once; by two digits taken apart into tens and ones."""
    left = amount(dice) if write.money else Fraction(size(dice))
    right = dice.choice((dice.randrange(2, 10), dice.randrange(11, 100), dice.randrange(2, 13) * 10))
    result = left * right
    said = [asked := f"{write(left)} {write.times} {right}"]
    tens, ones = right // 10 * 10, right % 10
    if tens and ones and left not in range(10):
        said += [f"{asked.removesuffix(str(right))}{tens} + {asked.removesuffix(str(right))}{ones}"]
        said += [write.sum(left * tens, left * ones)]
    return asked, " = ".join([*said, write(result)]), result


def division(dice: random.Random, write: Hand) -> Calculation:
    """Of what divides evenly, or ends within two decimals."""
    by = dice.choice((2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 25))
    result = Fraction(size(dice), dice.choice((1, 1, 1, 2)))
    asked = f"{write(result * by)} {write.over} {by}"
    return asked, f"{asked} = {write(result)}", result


def percentage(dice: random.Random, write: Hand) -> Calculation:
    """Of what gives no more than two decimals."""
    percent, whole = dice.choice((5, 10, 15, 20, 25, 30, 40, 50, 60, 75, 80)), size(dice)
    result = Fraction(percent * whole, 100)
    asked = f"{percent}% of {write(whole)}"
    return asked, f"{asked} = {percent / 100:g} {write.times} {write(whole)} = {write(result)}", result


def fraction(dice: random.Random, write: Hand) -> Calculation:
    """A few parts of what can be parted so."""
    parts = dice.choice((2, 3, 4, 5, 6, 8))
    some, each = dice.randrange(1, parts), size(dice)
    asked = f"{some}/{parts} of {write(parts * each)}"
    said = f"{asked} = {write(parts * each)} {write.over} {parts}"
    if some > 1:
        said += f" {write.times} {some} = {write(each)} {write.times} {some}"
    return asked, f"{said} = {write(some * each)}", Fraction(some * each)


def two_steps(dice: random.Random, write: Hand) -> Calculation:
    """A product and a sum or a difference, the product first."""
    left = amount(dice) if write.money else Fraction(size(dice))
    times, other = dice.randrange(2, 10), size(dice)
    made = left * times
    sign, result = ("+", made + other) if dice.random() < 0.5 or made < other else ("-", made - other)
    asked = f"{write(left)} {write.times} {times} {sign} {write(other)}"
    return asked, f"{asked} = {write(made)} {sign} {write(other)} = {write(result)}", result


KINDS: tuple[Callable[[random.Random, Hand], Calculation], ...] = (
    *(addition, addition, addition, subtraction, subtraction, product, product, product),
    *(division, division, percentage, fraction, two_steps),
)


def rows(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Questions of several calculations each, solved."""
    dice = random.Random(seed)
    for number in range(count):
        write = Hand.of(dice)
        found = [dice.choice(KINDS)(dice, write) for _ in range(A_ROW)]
        asked, said, results = zip(*found, strict=True)
        answer = write(results[-1])
        yield {
            "id": f"calculations-{seed}-{number:05d}",
            "question": f"Work these out one by one: {'; '.join(asked)}. What is the last result?",
            "answer": answer,
            "solution": "\n".join(said) + f"\n#### {answer}",
            "source": "calculations",
        }


def main() -> None:
    """Makes and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=450)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows(arguments.count, arguments.seed))
    write_atomically(arguments.output, "".join(lines))
    print(f"{arguments.output}: {arguments.count} rows of {A_ROW} calculations")


if __name__ == "__main__":
    main()
