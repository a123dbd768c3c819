"""The rows of a recipe's data: where from, and which of them count."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from edgereason.errors import ConfigError
from edgereason.recipe.data import DataConfig, Source, write_task_questions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A file of twelve rows: row n has n % 4 steps, and every fifth is near an evaluation."""
    rows = [
        {
            "id": f"q{n}",
            "question": f"How many are {n}?",
            "answer": str(n),
            "solution": "".join(f"step {k}\n" for k in range(n % 4)) + f"#### {n}",
            "near_eval": n % 5 == 0,
        }
        for n in range(12)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "book.txt").write_text("Once upon a time.")
    return tmp_path


def ids(folder: Path, **config: object) -> list[str]:
    source = Source.of("x", DataConfig(file="rows.jsonl", **config), [folder])
    return [row["id"] for row in source.rows()]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"rows": (2, 5)}, "q2 q3 q4"),
        ({"leave_out": ("near_eval",), "rows": (4, 8)}, "q4 q6 q7"),
        ({"most_steps": 1}, "q0 q1 q4 q5 q8 q9"),
        ({"most_steps": 1, "every": 2}, "q0 q4 q8"),
        ({"first": 2, "every": 3}, "q0 q3"),
        ({"limit": 4}, "q0 q3 q6 q9"),  # at 0, 3, 6 and 9 of 12
        ({"limit": 5, "first": 7}, "q0 q1 q2 q4 q5"),  # 7n/5, rounded down
        ({"limit": 50, "rows": (10, 99)}, "q10 q11"),
    ],
)
def test_rows_are_chosen_in_this_order(folder: Path, config: dict, expected: str) -> None:
    assert ids(folder, **config) == expected.split()


def test_gsm8ks_own_rows_have_their_steps_in_the_answer(tmp_path: Path) -> None:
    rows = [{"question": "?", "answer": "one\ntwo\n#### 2"}, {"question": "?", "answer": "one\n#### 1"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Source.of("x", DataConfig(file="rows.jsonl", most_steps=1), [tmp_path])
    assert source.rows() == rows[1:]


def test_labelled_rows_become_prompts_of_a_source(folder: Path) -> None:
    source = Source.of("hard", DataConfig(file="rows.jsonl", first=1, label=1), [folder])
    assert source.rows() == [{"id": "q0", "prompt": "How many are 0?", "label": 1, "source": "hard"}]


def test_everyday_prompts_bring_their_labels_of_which_one_can_be_chosen() -> None:
    of_both = Source.of("everyday", DataConfig(generate="everyday:60"), []).rows()
    assert Counter(row["label"] for row in of_both) == {0: 30, 1: 30}
    for label in (0, 1):
        chosen = Source.of("some", DataConfig(generate="everyday:60", label=label), []).rows()
        assert chosen == [row for row in of_both if row["label"] == label]
    assert len(Source.of("everyday", DataConfig(generate="everyday"), []).rows()) == 2800
    assert Source.of("everyday", DataConfig(generate="everyday:60", seed=1), []).rows() != of_both


def test_the_first_folder_that_has_the_file_counts(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "rows.jsonl").write_text('{"question": "?"}\n')
    assert Source.of("x", DataConfig(file="rows.jsonl"), [other, folder]).path == other / "rows.jsonl"
    with pytest.raises(
        ConfigError, match=r"\[data.x\]: no.jsonl is not beside the recipe: say .* \(--data\)"
    ):
        Source.of("x", DataConfig(file="no.jsonl"), [folder])
    assert Source.of("x", DataConfig(file="no.jsonl", hub="a/b"), [folder]).path is None  # the hub's then


def test_a_source_is_told_by_its_bytes_and_not_by_its_place(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "again.jsonl").write_bytes((folder / "rows.jsonl").read_bytes())
    one, other = (
        Source.of("x", DataConfig(file=name), [folder]).identity() for name in ("rows.jsonl", "again.jsonl")
    )
    assert one == other
    assert len(one["sha256"]) == 64


def test_a_text_is_taken_as_it_is_and_has_no_rows_to_choose(folder: Path, tmp_path: Path) -> None:
    source = Source.of("book", DataConfig(file="book.txt"), [folder])
    target = tmp_path / "out"
    target.mkdir()
    assert source.write(target) is None
    assert (target / "book.txt").read_text() == "Once upon a time."
    with pytest.raises(ConfigError, match="is a text and has no rows to choose"):
        Source.of("book", DataConfig(file="book.txt", first=3), [folder]).write(target)


@pytest.mark.parametrize(
    "spec", ["worked-sums", "worked-sums:0", "everyday:0", "everyday:3:4", "reasoning-gym:chain_sum"]
)
def test_a_generator_without_its_counts_is_refused(spec: str) -> None:
    with pytest.raises(ConfigError, match="is not understood; expected everyday:COUNT, worked-sums:COUNT"):
        Source.of("x", DataConfig(generate=spec), []).rows()


def test_worked_sums_are_right_and_of_so_many_terms() -> None:
    for row in Source.of("x", DataConfig(generate="worked-sums:40:3"), []).rows():
        terms = row["question"].rpartition(":")[2].removesuffix("=").split()
        assert len(terms[::2]) <= 3
        signs = dict(zip(terms[1::2], terms[2::2], strict=True)) if len(terms) == 3 else None
        assert signs is None or int(row["answer"]) == int(terms[0]) + int("".join(terms[1:]))


def test_what_an_evaluation_makes_up_is_written_down_for_training_to_leave_out(tmp_path: Path) -> None:
    assert write_task_questions("gym:chain_sum", 3, 0, tmp_path / "asked.jsonl") == 3
    asked = [json.loads(line) for line in (tmp_path / "asked.jsonl").read_text().splitlines()]
    assert [row["id"] for row in asked] == ["chain_sum-0001", "chain_sum-0002", "chain_sum-0003"]
