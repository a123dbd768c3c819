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


def test_a_short_question_is_known_if_it_is_the_same_and_not_if_it_is_a_part() -> None:
    known = Evaluations.of(["What is 2 + 2?", " ".join(ALPHABET)])
    assert known.know("what is  2+2")
    assert not known.know("What is 2 + 3?")
    assert not known.know("What is 2 + 2? And then tell me what is 3 + 3, and what is 4 + 4 + 5, please?")
    assert not known.know(" ".join(ALPHABET[:12]))


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
