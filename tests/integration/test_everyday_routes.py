"""Where the bundle that ships sends what people type: small talk is answered, problems are thought about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import edgereason
from edgereason.bundles.calibrate import probabilities
from edgereason.core.types import Message, Request
from edgereason.data.questions import label_of, prompt_of
from edgereason.data.rows import read_file
from edgereason.heads.file import read_heads
from edgereason.hub.catalog import DEFAULT_BUNDLE
from edgereason.hub.pull import resolve
from edgereason.reasoning.model import Model

pytestmark = [pytest.mark.model, pytest.mark.slow]

PROMPTS = Path(__file__).parents[2] / "benchmarks" / "prompts" / "everyday-120.jsonl"
TALK = (
    *(
        "Hi!",
        "Hello",
        "hey",
        "Good morning!",
        "Hi there, how are you?",
        "Good evening",
        "Hallo!",
        "Bonjour",
        "Hola",
    ),
    *(
        "Ciao, come stai?",
        "Привет",
        "你好",
        "こんにちは",
        "Thanks!",
        "thank you so much",
        "Thanks a lot for your help.",
    ),
    *("Danke schön", "Merci beaucoup", "Gracias", "谢谢"),
)
PROBLEMS = (
    "What is 15% of 240?",
    "A jacket costs 80 dollars and is 25% off. What is the new price?",
    "How much is an 18 percent tip on 50 dollars?",
    "Tom is twice as old as Sue, and together they are 27. How old is Sue?",
    "In four years I will be 40. How old was I seven years ago?",
    "A film starts at 19:45 and takes 110 minutes. When does it end?",
    "What is the angle between the hands of a clock at 4 o'clock?",
    "If today is Tuesday, what day is it in 45 days?",
    "Solve 3x + 7 = 25.",
    "Find x if x² - 5x + 6 = 0.",
    "A train goes 240 km in 3 hours. How fast is it?",
    "How many minutes are 3.5 hours?",
    "What is 2/3 + 1/4?",
    "What is the area of a triangle with base 10 and height 6?",
    "What is the probability of two sixes with two dice?",
    "In how many ways can 5 people stand in a row?",
    "What comes next: 2, 6, 12, 20, 30?",
    "Ann is taller than Bob, and Bob is taller than Cid. Who is the shortest?",
    "4 pens cost 6 dollars. What do 10 pens cost?",
    "Six workers need 8 days. How long do four workers need?",
)


@pytest.fixture(scope="module")
def bundle() -> Iterator[Model]:
    """The bundle that ships, on its base."""
    with edgereason.load(base=resolve("qwen2.5-coder-0.5b-w4")) as model:
        yield model


def thinking(bundle: Model, requests: Sequence[Request]) -> list[bool]:
    """Which requests its switcher lets think."""
    assert bundle.bundle is not None
    heads = bundle.bundle.heads
    assert heads is not None
    switcher = read_heads(DEFAULT_BUNDLE / heads.file).switcher
    assert switcher is not None
    said = probabilities(bundle, requests)
    assert said is not None
    return [p is not None and p >= switcher.threshold for p in said]


@pytest.mark.parametrize(("texts", "thinks"), [(TALK, False), (PROBLEMS, True)])
def test_greetings_and_thanks_chat_and_one_line_problems_think(
    bundle: Model, texts: tuple[str, ...], thinks: bool
) -> None:
    routes = thinking(bundle, [Request(messages=(Message("user", text),)) for text in texts])
    assert [text for text, route in zip(texts, routes, strict=True) if route is not thinks] == []


def test_hi_is_answered_at_once(bundle: Model) -> None:
    assert bundle.ask("Hi!", max_tokens=48, budget=48).route == "chat"


def test_everyday_prompts_of_either_label_go_the_right_way(bundle: Model) -> None:
    rows = read_file(PROMPTS).rows
    labels = [label_of(row) for row in rows]
    routes = thinking(bundle, [Request(messages=prompt_of(row)) for row in rows])
    for label in (False, True):
        right = [route is label for route, own in zip(routes, labels, strict=True) if own is label]
        assert sum(right) / len(right) >= 0.92
