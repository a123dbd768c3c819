"""Makes everyday questions whose answers can be checked: what does thinking gain on each kind?

::

    python tools/data/everyday_questions.py --each 10 -o questions.jsonl
    edgereason eval gsm8k --data questions.jsonl --bundle … --mode chat -o runs/chat      and --mode think
    python tools/data/everyday_questions.py --compare runs/chat runs/think                a table by kind

Answers are numbers, so that they are graded as GSM8K's are. The same arguments give the same rows.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from edgereason.evals.samples import read_samples

Question = tuple[str, Fraction]
Draw = Callable[[random.Random], Question]


def sums(r: random.Random) -> Question:
    a, b, c = r.randrange(12, 99), r.randrange(12, 99), r.randrange(3, 12)
    return r.choice([(f"What is {a} + {b}?", Fraction(a + b)), (f"{a} * {c} = ?", Fraction(a * c))])


def percent(r: random.Random) -> Question:
    p, n = r.randrange(5, 96, 5), r.randrange(40, 900, 20)
    return f"What is {p}% of {n}?", Fraction(p * n, 100)


def discount(r: random.Random) -> Question:
    p, n = r.randrange(10, 60, 10), r.randrange(40, 400, 10)
    return f"A coat costs {n} dollars and is {p}% off. What does it cost now?", Fraction(n * (100 - p), 100)


def average(r: random.Random) -> Question:
    a, b, mean = r.randrange(10, 60), r.randrange(10, 60), r.randrange(20, 50)
    return f"What is the average of {a}, {b} and {3 * mean - a - b}?", Fraction(mean)


def ages(r: random.Random) -> Question:
    times, young = r.randrange(2, 5), r.randrange(5, 16)
    total = young * (times + 1)
    question = f"Mia is {times} times as old as Leo. Together they are {total}. How old is Leo?"
    return question, Fraction(young)


def clocks(r: random.Random) -> Question:
    start, minutes = r.randrange(60 * 7, 60 * 12, 5), r.randrange(40, 300, 5)
    end = start + minutes
    clock = [f"{time // 60}:{time % 60:02}" for time in (start, end)]
    return f"How many minutes are there from {clock[0]} to {clock[1]}?", Fraction(minutes)


def dates(r: random.Random) -> Question:
    first, last = r.randrange(1, 29), r.randrange(1, 29)
    return f"How many days are there from {first} April to {last} May?", Fraction(30 - first + last)


def speed(r: random.Random) -> Question:
    rate, hours = r.randrange(40, 120, 10), r.randrange(2, 9)
    return f"A car drives {rate * hours} km in {hours} hours. What is its speed in km/h?", Fraction(rate)


def units(r: random.Random) -> Question:
    hours, minutes = r.randrange(2, 9), r.randrange(5, 60, 5)
    question = f"How many minutes are {hours} hours and {minutes} minutes?"
    return question, Fraction(hours * 60 + minutes)


def equations(r: random.Random) -> Question:
    a, x, b = r.randrange(2, 9), r.randrange(2, 15), r.randrange(2, 30)
    return f"Solve {a}x + {b} = {a * x + b}.", Fraction(x)


def geometry(r: random.Random) -> Question:
    a, b = r.randrange(3, 30), r.randrange(3, 30)
    question = f"A rectangle is {a} cm long and has a perimeter of {2 * (a + b)} cm. What is its area?"
    return question, Fraction(a * b)


def number_theory(r: random.Random) -> Question:
    a, b = r.randrange(24, 97, 12), r.randrange(36, 181, 18)
    question = f"What is the greatest common divisor of {a} and {b}?"
    return question, Fraction(math.gcd(a, b))


def prices(r: random.Random) -> Question:
    few, cents, many = r.randrange(3, 9), r.randrange(20, 95, 5), r.randrange(10, 24)
    question = f"{few} pens cost {few * cents / 100:.2f} dollars. How much do {many} pens cost?"
    return question, Fraction(many * cents, 100)


def stories(r: random.Random) -> Question:
    there, first, second = r.randrange(30, 90), r.randrange(3, 12), r.randrange(3, 12)
    question = f"Ana has {there} stamps, gives {first} to Ben and loses {second}. How many are left?"
    return question, Fraction(there - first - second)


def seats(r: random.Random) -> Question:
    rows, places, people = r.randrange(5, 12), r.randrange(8, 20), r.randrange(10, 40)
    question = f"A hall has {rows} rows of {places} seats, and {people} people sit. How many seats are free?"
    return question, Fraction(rows * places - people)


def handshakes(r: random.Random) -> Question:
    people = r.randrange(5, 20)
    question = f"{people} people all shake hands with each other once. How many handshakes are that?"
    return question, Fraction(people * (people - 1) // 2)


KINDS: Final[tuple[Draw, ...]] = (
    *(sums, percent, discount, average, ages, clocks, dates, speed),
    *(units, equations, geometry, number_theory, prices, stories, seats, handshakes),
)


def questions(each: int, seed: int) -> list[dict[str, Any]]:
    """So many of every kind, each once."""
    chance, rows = random.Random(seed), []
    for kind in KINDS:
        made: dict[str, Fraction] = {}
        while len(made) < each:
            made.update([kind(chance)])
        for number, (question, answer) in enumerate(made.items()):
            value = str(answer) if answer.denominator == 1 else f"{float(answer):g}"
            rows.append({"id": f"{kind.__name__}-{number}", "question": question, "answer": value})
    return rows


def compare(chat: Path, think: Path) -> str:
    """A table by kind: right in chat and in think, and tokens; of questions that both were asked."""
    table: dict[str, dict[str, list[tuple[float, int]]]] = defaultdict(lambda: {"chat": [], "think": []})
    rows = {"chat": read_samples(chat), "think": read_samples(think)}
    both = set.intersection(*({sample.id for sample in of_route} for of_route in rows.values()))
    for route, of_route in rows.items():
        for sample in (one for one in of_route if one.id in both):
            entry = (sample.score, sample.num_tokens)
            table[sample.id.rpartition("-")[0]][route].append(entry)
            table["all"][route].append(entry)
    lines = [
        "| kind | n | chat right | think right | chat tokens | think tokens |",
        "|---|---|---|---|---|---|",
    ]
    for kind, routes in table.items():
        right, tokens = (
            [sum(entry[place] for entry in routes[route]) for route in ("chat", "think")] for place in (0, 1)
        )
        num = len(routes["chat"])
        lines.append(
            f"| {kind} | {num} | {right[0]:g} | {right[1]:g} "
            f"| {tokens[0] / num:.0f} | {tokens[1] / num:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--each", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("CHAT", "THINK"))
    given = parser.parse_args()
    if given.compare:
        print(compare(*given.compare))
        return
    if not given.output:
        parser.error("give -o FILE, or --compare CHAT THINK")
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in questions(given.each, given.seed))
    given.output.write_text("".join(lines), "utf-8")


if __name__ == "__main__":
    main()
