"""Which training questions an evaluation asks too."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from edgereason.errors import ConfigError
from edgereason.train.data.decontaminate import Evaluations, normalised

ALPHABET = [letter * 3 for letter in "abcdefghijklmn"]


def test_thirteen_words_in_a_row_are_too_many_and_twelve_are_not() -> None:
    known = Evaluations.of([" ".join(ALPHABET)])
    assert known.know("Before that: " + " ".join(ALPHABET[:13]) + ", and so on?")
    assert known.know(" ".join(["well", *ALPHABET[1:14]]))
    assert not known.know("Before that: " + " ".join(ALPHABET[:12]) + ", and so on?")
    assert not known.know(" ".join([*ALPHABET[:12], "ooo", *ALPHABET[12:]]))


def test_case_punctuation_and_spelling_of_characters_do_not_matter() -> None:
    assert normalised("**It's** 1,000 – “ﬁne” A_b?") == "it s 1 000 fine a b"
    known = Evaluations.of(["Aaa, bbb; CCC – " + " ".join(ALPHABET[3:])])
    assert known.know("aaa bbb ccc\n" + "  ".join(ALPHABET[3:]).upper() + "!!")


def test_a_short_question_is_known_if_it_is_the_same() -> None:
    known = Evaluations.of(["What is 2 + 2?", " ".join(ALPHABET)])
    assert known.know("what is  2+2")
    assert not known.know("What is 2 + 3?")
    assert not known.know(" ".join(ALPHABET[:12]))  # a part of a long one


SHORT = [
    "What is the capital of France?",  # 6 words
    "Which gas do plants absorb from the air during the day?",  # 11 words
    "Compute $\\sin 60^\\circ$.",  # 4 words
    "What is 2 + 2?",
    "Factor 1001.",  # 2 words
    "水的沸点是多少？",  # one run of letters
]
INSTRUCTIONS = [
    "Answer the following question. {}",
    "Solve the problem step by step.\n\n{}",
    "Question: {}\nAnswer:",
    "{} Think step by step.",
    "{}\nPut your final answer within \\boxed{{}}.",
    "You are a helpful assistant.\n{}\nA) one B) two C) three D) four",
    "**Problem**\n{}",
    "(1) {}",
    "Please reason step by step, and be brief! {}",
    "Q: {} A:",
]


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("question", SHORT[:4])
def test_a_short_question_does_not_hide_behind_instructions(question: str, instructions: str) -> None:
    assert Evaluations.of([question]).know(instructions.format(question))


@pytest.mark.parametrize("instructions", ["Answer the following question. {}", "Q: {}", "Be brief!\n\n{}"])
@pytest.mark.parametrize("question", SHORT[4:])
def test_a_question_of_one_or_two_words_is_known_as_the_last_sentence(
    question: str, instructions: str
) -> None:
    assert Evaluations.of([question]).know(instructions.format(question))


@pytest.mark.parametrize(
    "text",
    [
        "Please tell me what is the capital of France, and nothing else.",
        "I wonder, what is the capital of France",
        "Tell me what is 2 + 2.",
        "What is 2 + 2, in words?",
    ],
)
def test_instructions_may_stand_in_the_same_sentence(text: str) -> None:
    assert Evaluations.of(SHORT).know(text)


@pytest.mark.parametrize(
    "text",
    [
        "If x is 3, what is 2 + 2x?",
        "So what is 2 + 2 times 3?",
        "What is the capital of Germany?",
        "Let $\\log_{4}3=x$. Find x.",
        "The ratio is 1:4:3. How many are red?",
        "Mary has 4/3 of a pie. How much does Tom have?",
        "What is $\\cos 60^\\circ$? Then compute $\\tan 60^\\circ$.",
        "He paid $4.3 for it.",
        "Can you factor 1001 and 77?",
        "Factor 1001. Then factor 77.",
    ],
)
def test_words_that_a_sentence_has_by_chance_are_not_a_question(text: str) -> None:
    assert not Evaluations.of([*SHORT, "4 : 3"]).know(text)


def test_no_evaluation_knows_nothing() -> None:
    assert not Evaluations.read([]).know(" ".join(ALPHABET))


@pytest.mark.parametrize("seed", range(5))
def test_long_questions_agree_with_a_search_for_substrings(seed: int) -> None:
    chance = random.Random(seed)

    def text() -> list[str]:
        return chance.choices(ALPHABET[:3], k=chance.randrange(13, 400))

    asked = [text() for _ in range(4)]
    known = Evaluations.of(" ".join(words) for words in asked)
    verdicts = set()
    for _ in range(40):
        words = chance.choices(ALPHABET[:3], k=chance.randrange(13, 30))
        if chance.random() < 0.5:
            start = chance.randrange(len(asked[0]) - 12)
            words[3:3] = asked[0][start : start + chance.choice([12, 13])]
        shares = any(
            f" {' '.join(words[i : i + 13])} " in f" {' '.join(other)} "
            for other in asked
            for i in range(len(words) - 12)
        )
        assert known.know(" ".join(words)) is shares
        verdicts.add(shares)
    assert verdicts == {True, False}


def test_questions_are_found_in_any_evaluations_fields_and_files_are_named(tmp_path: Path) -> None:
    rows = [
        {"question": "One?"},
        {"problem": "Two?"},
        {"prompt": "def three():"},
        {"Body": "Four pigs", "Question": "How many?"},
    ]
    path = tmp_path / "eval.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    known = Evaluations.read([path])
    assert known.short == {"one", "two", "def three", "four pigs how many"}
    (entry,) = known.files
    assert (entry["name"], entry["rows"], len(entry["sha256"])) == ("eval.jsonl", 4, 64)


def test_an_evaluation_without_questions_is_named_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "eval.jsonl"
    path.write_text('{"text": "x"}\n')
    with pytest.raises(ConfigError, match=r"^eval.jsonl, line 1: question is missing"):
        Evaluations.read([path])
