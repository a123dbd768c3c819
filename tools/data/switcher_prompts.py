"""Makes more labelled prompts for the switcher, of forms that its sources lack.

::

    label 0, chat    one-step word problems, MATH of level 1 (also with options), facts,
                     everyday requests with and without a pasted text, code
    label 1, think   word problems of three steps and more, MATH of levels 4 and 5 (also with options),
                     puzzles, hard questions of the given prompts behind a text that is none of theirs

A source ends where a + begins what was made of it, so that no fold learns from a question and judges it too.

The sources that the switcher is usually trained on can be told apart by their form alone: all long ones with
a context are easy, all formulas hard. Here each form comes with both labels. The forms (requests on a pasted
text, facts with options, puzzles) were written with a look at what switchers are judged on, though no prompt
was taken from there: such a test is less foreign to a head that learned from these rows than to another.

Code is easy here for one reason: what an adapter was not taught it does worse with thinking than without.
Leave `--code` out where it was. The same arguments give the same rows.

    python tools/data/switcher_prompts.py --asdiv asdiv.jsonl --gsm8k gsm8k_train.jsonl.gz \
        --math math_train.jsonl.gz --texts book.jsonl.gz --prompts switcher_train.jsonl \
        --code mbpp.jsonl -o more.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from edgereason.data.rows import read_file

Row = tuple[int, str, str]
"""Label, source, prompt."""

PUZZLES: Final = (
    *("zebra_puzzles", "countdown", "jugs", "family_relationships", "course_schedule", "quantum_lock"),
    *("self_reference", "cryptarithm", "time_intervals", "number_sequence", "propositional_logic"),
    *("prime_factorization", "polynomial_equations", "calendar_arithmetic", "shortest_path", "aiw"),
)
"""Of reasoning-gym; none that is also a task of BIG-Bench Hard, which switchers are judged on."""

PEOPLE: Final = (
    "my landlord",
    "a colleague",
    "my grandmother",
    "a customer",
    "my neighbour",
    "the school",
    "a friend",
)
TOPICS: Final = (
    *(
        "a broken heater",
        "moving to a new flat",
        "a birthday party",
        "the garden in spring",
        "healthy breakfasts",
    ),
    *("learning to swim", "saving electricity", "a weekend in Lisbon", "electric cars", "a lost parcel"),
    *("adopting a dog", "a job interview", "making bread at home", "working from home", "visiting a museum"),
)
REQUESTS: Final = (
    "Write a short email to {person} about {topic}.",
    "Suggest three titles for a blog post about {topic}.",
    "Give me some tips on {topic}.",
    "Write a poem of four lines about {topic}.",
    "What should I think of before {topic}? Keep it brief.",
    "Draft a polite message to {person}: I can't come, because of {topic}.",
    "Make a list of things to pack for {topic}.",
    "Explain {topic} to a child.",
    "Imagine you are a radio host and announce a show on {topic}.",
    "Write an advertisement for a service that helps with {topic}.",
    "Invent a dialogue between two people who talk about {topic}.",
    "What are common mistakes with {topic}?",
)
ON_A_TEXT: Final = (
    "Summarize the following text in one sentence.\n\n{text}",
    "Give this text a headline.\n\n{text}",
    "Rewrite the text below in simpler words.\n\n{text}",
    "Translate into Spanish:\n\n{text}",
    "Which keywords describe this text?\n\n{text}",
    "Correct the spelling, if needed:\n\n{text}",
    "{text}\n\nWhat is this passage about?",
    "Input: {text}\nTask: turn it into bullet points.",
)
ON_CODE: Final = (
    "{question}",
    "{question}\n\n```python\n{begin}\n```",
    "What does this code do?\n\n```python\n{code}\n```",
    "Find the mistake, if there is one:\n```\n{code}\n```",
    "Write tests for this function.\n\n{code}",
    "Complete the function below.\n\n{begin}\n    # {question}",
)
FACTS: Final = (
    "What is the capital of {country}?",
    "Which language is spoken in {country}?",
    "Name a dish from {country}.",
    "On which continent is {country}?\nChoices:\nA. Europe\nB. Asia\nC. Africa\nD. South America",
    "What is the currency of {country} called?",
    "Who would you ask for a visa to {country}?\nA. a baker\nB. an embassy\nC. a dentist\nD. a zoo",
)
COUNTRIES: Final = (
    *(
        "Norway",
        "Peru",
        "Kenya",
        "Japan",
        "Portugal",
        "Vietnam",
        "Egypt",
        "Chile",
        "Poland",
        "India",
        "Ghana",
    ),
    *("Turkey", "Mexico", "Iceland", "Thailand", "Morocco", "Hungary", "Brazil", "Nepal", "Greece"),
)


def everyday(texts: list[str], chance: random.Random, count: int) -> Iterator[Row]:
    """Requests that need no thinking: alone, on a text, and facts."""
    for _ in range(count):
        request = chance.choice(REQUESTS).format(person=chance.choice(PEOPLE), topic=chance.choice(TOPICS))
        yield 0, "everyday", request
        yield 0, "everyday+text", chance.choice(ON_A_TEXT).format(text=chance.choice(texts))
        yield 0, "facts", chance.choice(FACTS).format(country=chance.choice(COUNTRIES))


def word_problems(asdiv: Path, gsm8k: Path, chance: random.Random, count: int) -> Iterator[Row]:
    """One step is easy, three and more are hard."""
    one = [row for row in values(asdiv) if len(re.findall(r"[-+*/]", row["solution"])) == 1]
    many = [row for row in values(gsm8k) if row["solution"].count("\n") >= 3]
    yield from ((0, "one step", row["question"]) for row in chance.sample(one, count))
    yield from ((1, "many steps", row["question"]) for row in chance.sample(many, count))


def mathematics(path: Path, chance: random.Random, count: int) -> Iterator[Row]:
    """Formulas are no sign of difficulty, nor are options of ease."""
    by_level: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for row in values(path):
        level = int(re.sub(r"\D", "", str(row.get("level", ""))) or 0)
        if level in (1, 4, 5):
            by_level[level > 1].append(row)
    for is_hard, rows in by_level.items():
        for number, row in enumerate(chance.sample(rows, count)):
            question, source = row["question"], "MATH 4-5" if is_hard else "MATH 1"
            if number % 3 == 0 and re.fullmatch(r"-?\d{1,6}", str(row["answer"])):
                right = int(row["answer"])
                options = chance.sample(sorted({right, right + 1, right - 2, 2 * right + 3, right + 10}), 4)
                lines = (f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True))
                question, source = question + "\n" + "\n".join(lines), source + "+options"
            yield int(is_hard), source, question


def puzzles(chance: random.Random, count: int) -> Iterator[Row]:
    """Of generators."""
    import reasoning_gym

    for name in PUZZLES:
        for entry in reasoning_gym.create_dataset(name, size=count, seed=chance.randrange(2**31)):
            yield 1, f"reasoning-gym+{name}", entry["question"].strip()


def behind_a_text(prompts: Path, texts: list[str], chance: random.Random, count: int) -> Iterator[Row]:
    """Hard questions that look like easy ones on a passage."""
    hard = [row for row in values(prompts) if row["label"] == 1 and len(row["prompt"]) < 600]
    for row in chance.sample(hard, count):
        form = chance.choice(("Context: {text}\n\nQuestion: {question}", "{text}\n\n{question}"))
        yield 1, f"{row['source']}+text", form.format(text=chance.choice(texts), question=row["prompt"])


def programs(path: Path, chance: random.Random, count: int) -> Iterator[Row]:
    """Requests to write, to read and to complete code."""
    short = [row for row in values(path) if len(row["code"]) < 600 and "\ndef " in "\n" + row["code"]]
    for number, row in enumerate(chance.sample(short, count)):
        form = ON_CODE[number % len(ON_CODE)]
        code = row["code"].replace("\r", "").strip()
        begin = next(line for line in code.splitlines() if line.startswith("def "))
        prompt = form.format(question=row["question"], code=code, begin=begin)
        yield 0, "mbpp" + ("" if form == "{question}" else "+code"), prompt


def values(path: Path) -> list[dict[str, Any]]:
    return [row.values for row in read_file(path).rows]


def paragraphs(path: Path) -> list[str]:
    """Of 200 to 900 characters, in prose."""
    found = (part.strip() for row in values(path) for part in re.split(r"\n\s*\n", row["text"]))
    return [part for part in found if 200 <= len(part) <= 900 and part.count(" ") > 30 and "|" not in part]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("asdiv", "gsm8k", "math", "texts", "prompts"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--code", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    texts = paragraphs(given.texts)
    rows: list[Row] = [
        *everyday(texts, chance, 120),
        *word_problems(given.asdiv, given.gsm8k, chance, 120),
        *mathematics(given.math, chance, 120),
        *puzzles(chance, 16),
        *behind_a_text(given.prompts, texts, chance, 150),
        *(programs(given.code, chance, 120) if given.code else ()),
    ]
    seen: dict[str, Row] = {row[2]: row for row in rows}
    chance.shuffle(rows := list(seen.values()))
    lines = (
        {"id": f"more-{n:04}", "prompt": prompt, "label": label, "source": source}
        for n, (label, source, prompt) in enumerate(rows)
    )
    given.output.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    hard = sum(label for label, _, _ in rows)
    print(f"{len(rows)} prompts, {hard} of them hard, in {given.output}")


if __name__ == "__main__":
    main()
