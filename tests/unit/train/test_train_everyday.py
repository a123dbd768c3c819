"""Everyday prompts: the same ones every time, half of each label, and none that a switcher is judged by."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from edgereason.train.data import everyday
from edgereason.train.data.decontaminate import Evaluations, normalised

PROMPTS = Path(__file__).parents[3] / "benchmarks" / "prompts"
LANGUAGES = {
    "Danke", "Merci", "Gracias", "Grazie", "Obrigado", "Bedankt!", "Dziękuję", "Teşekkürler", "Спасибо",
    "谢谢", "ありがとう", "감사합니다", "شكرا", "धन्यवाद",
}  # fmt: skip


def asked(row: dict) -> str:
    return row["prompt"] if "prompt" in row else row["messages"][-1]["content"]


def held_out(name: str) -> list[dict]:
    return [json.loads(line) for line in (PROMPTS / name).read_text("utf-8").splitlines()]


def test_the_same_seed_gives_the_same_prompts_and_another_gives_others() -> None:
    first, again, other = (list(everyday.rows(300, seed)) for seed in (5, 5, 6))
    assert first == again
    assert len({asked(row) for row in first} & {asked(row) for row in other}) < 100


@pytest.mark.parametrize(("count", "think"), [(2400, 1200), (301, 150), (2, 1)])
def test_half_of_the_prompts_need_thinking_and_none_stands_twice(count: int, think: int) -> None:
    rows = list(everyday.rows(count, 0))
    assert Counter(row["label"] for row in rows) == {0: count - think, 1: think}
    assert len({json.dumps(row.get("messages", row.get("prompt"))) for row in rows}) == count
    assert [row["id"] for row in rows[:2]] == ["everyday-0000", "everyday-0001"]


def test_every_template_is_used_before_one_is_used_again() -> None:
    chat = [one for one in everyday.templates() if one.label == 0]
    rows = [row for row in everyday.rows(2 * len(chat), 0) if row["label"] == 0]
    assert Counter(row["source"] for row in rows) == Counter(one.source for one in chat)


def test_no_slot_of_a_template_is_left_open() -> None:
    chance = random.Random(0)
    slot = re.compile(r"\{(\d[\d.]*\.\.[^}]*|[a-z_]+(:\w+)?|[A-Z])\}")
    code = ("{ return", "{snippet}")
    left = [
        text
        for one in everyday.templates()
        if slot.search(text := everyday.filled(one.text, chance)) and not any(part in text for part in code)
    ]
    assert left == []


@pytest.mark.parametrize(
    ("template", "pattern"),
    [
        ("{2..4}", "[234]"),
        ("{10..30*10}", "10|20|30"),
        ("{11..30*10}", "20|30"),
        ("{1.5..1.6}", r"1\.[56]"),
        ("{weekday:w} and {weekday:w}", r"(\w+day) and \1"),
        ("{A} and {A}", r"(\w+) and \1"),
        ("{A} and {B} and {name}", r"(\w+) and (?!\1)(\w+) and (?!\1|\2)\w+"),
        ("{city} or {city}", r"(\w+) or (?!\1).+"),
    ],
)
def test_slots_are_drawn_as_the_file_says(template: str, pattern: str) -> None:
    for seed in range(50):
        assert re.fullmatch(pattern, everyday.filled(template, random.Random(seed)))


def test_thanks_are_there_in_every_language() -> None:
    assert {one.text for one in everyday.templates() if one.kind == "thanks"} >= LANGUAGES


def test_what_comes_before_and_behind_a_request_tells_nothing_of_its_label() -> None:
    rows = list(everyday.rows(4000, 0))
    for text in ("Hi! ", "Quick question: ", "Hey, can you help me"):
        labels = [
            row["label"] for row in rows if asked(row).startswith(text) and row["source"][9:13] != "talk"
        ]
        assert 0.25 < sum(labels) / len(labels) < 0.75, text
    conversations = [row["label"] for row in rows if "messages" in row]
    assert 0.4 < sum(conversations) / len(conversations) < 0.6


@pytest.mark.parametrize("name", ["everyday-120.jsonl", "everyday-tuning.jsonl"])
def test_no_template_asks_what_a_switcher_is_judged_by(name: str) -> None:
    judged = held_out(name)
    assert not {normalised(row["prompt"]) for row in judged} & {
        normalised(asked(row)) for seed in range(3) for row in everyday.rows(2400, seed)
    }


def test_the_prompts_that_are_judged_are_half_of_each_label_and_of_many_kinds() -> None:
    rows = held_out("everyday-120.jsonl")
    assert Counter(row["label"] for row in rows) == {0: 60, 1: 60}
    assert len({row["source"] for row in rows}) > 50
    tuning = Evaluations.of(row["prompt"] for row in held_out("everyday-tuning.jsonl"))
    assert not any(tuning.know(row["prompt"]) for row in rows)
