"""Evaluations compared question by question."""

from __future__ import annotations

import json
from itertools import product
from math import exp, fsum, lgamma, log
from pathlib import Path

import pytest
from eval_rows import sample

from edgereason.errors import ConfigError
from edgereason.evals.compare import compare, compare_folders, sign_test
from edgereason.evals.samples import Sample


def write(
    folder: Path, samples: list[Sample], *, data: str | dict[str, str] = "d1", task: str = "gsm8k"
) -> Path:
    folder.mkdir()
    entry = data if isinstance(data, dict) else {"sha256": data}
    summary = {"format": "edgereason-eval", "task": task, "data": entry}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "samples.jsonl").write_text("".join(json.dumps(row.to_json()) + "\n" for row in samples))
    return folder


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (1, 0), (3, 1), (2, 2), (5, 0), (1, 6)])
def test_the_sign_test_counts_the_flips_at_least_as_uneven(won: int, lost: int) -> None:
    # Every outcome of the flips, one by one: how many lie as far from even as what was seen.
    outcomes = [sum(flips) for flips in product((0, 1), repeat=won + lost)]
    uneven = sum(abs(2 * heads - won - lost) >= abs(won - lost) for heads in outcomes)
    assert sign_test(won, lost) == uneven / len(outcomes)


@pytest.mark.parametrize(("won", "lost"), [(520, 510), (700, 650), (5000, 4800), (1100, 100)])
def test_the_sign_test_holds_for_thousands_of_flips(won: int, lost: int) -> None:
    # Logarithms of factorials, which no number of flips overflows.
    def log_ways(heads: int) -> float:
        return lgamma(won + lost + 1) - lgamma(heads + 1) - lgamma(won + lost - heads + 1)

    log_half = (won + lost) * log(2)
    tail = fsum(exp(log_ways(heads) - log_half) for heads in range(min(won, lost) + 1))
    assert sign_test(won, lost) == pytest.approx(min(1.0, 2 * tail), rel=1e-8, abs=0)


def test_questions_are_paired_and_only_those_of_both_count() -> None:
    base = {"q1": [1.0], "q2": [0.0], "q3": [0.0], "q4": [1.0], "only here": [1.0]}
    other = {"q4": [1.0], "q3": [1.0], "q2": [1.0], "q1": [0.0], "only there": [0.0]}
    found = compare(base, other)
    assert (found.num_questions, found.won, found.lost) == (4, 2, 1)
    assert (found.base_accuracy, found.accuracy, found.difference) == (0.5, 0.75, 0.25)
    assert found.p_value == 1.0  # 2 : 1 is as even as three flips can be


def test_repetitions_are_one_question() -> None:
    found = compare({"q1": [1.0, 0.0], "q2": [0.0]}, {"q1": [1.0, 1.0, 1.0, 0.0], "q2": [0.0]})
    assert (found.base_accuracy, found.accuracy, found.difference) == (0.25, 0.375, 0.125)
    assert (found.won, found.lost) == (1, 0)


def test_the_interval_is_of_the_difference_and_not_of_two_accuracies() -> None:
    # 400 questions, half of them right in both, of the rest 40 won and none lost: each gain is 0.1 ± 0.3, so
    # the mean's standard error is 0.3/20 = 0.015, where two unpaired accuracies near ½ would have 0.035.
    base = {f"q{i}": [float(i < 200)] for i in range(400)}
    other = {f"q{i}": [float(i < 240)] for i in range(400)}
    found = compare(base, other)
    low, high = found.ci95
    assert low == pytest.approx(0.1 - 1.96 * 0.015, abs=0.004)
    assert high == pytest.approx(0.1 + 1.96 * 0.015, abs=0.004)
    assert found.p_value == 2 / 2**40


def test_equal_evaluations_differ_by_nothing() -> None:
    scores = {"q1": [1.0], "q2": [0.0], "q3": [0.5]}
    found = compare(scores, scores)
    assert (found.difference, found.ci95, found.won, found.lost, found.p_value) == (
        0.0,
        (0.0, 0.0),
        0,
        0,
        1.0,
    )


def test_one_question_says_nothing_about_others() -> None:
    assert compare({"q": [0.0]}, {"q": [1.0]}).ci95 == (-1.0, 1.0)


def test_evaluations_without_a_common_question_are_refused() -> None:
    with pytest.raises(ConfigError, match="no question in common"):
        compare({"a": [1.0]}, {"b": [1.0]})


def test_folders_are_compared_with_the_first(tmp_path: Path) -> None:
    base = write(tmp_path / "base", [sample("q1", 1.0), sample("q2", 0.0)])
    better = write(tmp_path / "better", [sample("q1", 1.0), sample("q2", 1.0)])
    worse = write(tmp_path / "worse", [sample("q1", 0.0), sample("q2", 0.0)])
    assert [one.difference for one in compare_folders(base, [better, worse])] == [0.5, -0.5]


@pytest.mark.parametrize("other", [{"data": "d2"}, {"task": "math500"}])
def test_another_task_or_data_set_is_refused(tmp_path: Path, other: dict[str, str]) -> None:
    base = write(tmp_path / "base", [sample()])
    with pytest.raises(ConfigError, match="of one task on one data set"):
        compare_folders(base, [write(tmp_path / "other", [sample()], **other)])


def test_an_unfinished_evaluation_is_refused(tmp_path: Path) -> None:
    base = write(tmp_path / "base", [sample()])
    (tmp_path / "new").mkdir()
    with pytest.raises(ConfigError, match="finished evaluation"):
        compare_folders(base, [tmp_path / "new"])


def write_sweep(path: Path, scores: dict[int, dict[str, float]], data: str | dict[str, str] = "d1") -> Path:
    rows = [
        {"id": id_, "limit_tokens": limit, "score": score}
        for limit, of_question in scores.items()
        for id_, score in of_question.items()
    ]
    record = {
        "format": "edgereason-sweep",
        "budgets": {"whole": {"budgets": list(scores), "rows": rows}},
        "runs": {"whole": {"data": data if isinstance(data, dict) else {"sha256": data}}},
    }
    path.write_text(json.dumps(record))
    return path


def under(folder: Path, budget: str) -> Path:
    (folder / "run.toml").write_text(f"[eval]\nbudget = {budget}\n")
    return folder


def test_each_evaluation_meets_the_traces_that_were_cut_at_its_own_budget(tmp_path: Path) -> None:
    cut = write_sweep(tmp_path / "cut.json", {64: {"q1": 0.0, "q2": 0.0}, 128: {"q1": 1.0, "q2": 0.0}})
    rows = [sample("q1", 1.0), sample("q2", 0.0)]
    runs = [under(write(tmp_path / name, rows), name) for name in ("64", "128")]
    assert [one.difference for one in compare_folders(cut, runs)] == [0.5, 0.0]


def test_a_data_set_of_the_hub_is_known_by_its_revision(tmp_path: Path) -> None:
    first, second = ({"name": "openai/gsm8k", "revision": revision} for revision in "ab")
    cut = write_sweep(tmp_path / "cut.json", {64: {"q1": 0.0}}, first)
    same, other = (
        under(write(tmp_path / entry["revision"], [sample("q1", 1.0)], data=entry), "64")
        for entry in (first, second)
    )
    assert compare_folders(cut, [same])[0].difference == 1.0
    with pytest.raises(ConfigError, match="of one task on one data set"):
        compare_folders(cut, [other])


@pytest.mark.parametrize(
    ("budget", "data", "message"),
    [
        ("96", "d1", r"did not cut at 96 tokens, but at \[64\]"),
        ('"5s"', "d1", r"no hard budget in tokens, but '5s'"),
        ("64", "d2", "of one task on one data set"),
    ],
)
def test_what_was_not_cut_alike_is_refused(tmp_path: Path, budget: str, data: str, message: str) -> None:
    cut = write_sweep(tmp_path / "cut.json", {64: {"q1": 0.0}})
    run = under(write(tmp_path / "run", [sample("q1", 1.0)], data=data), budget)
    with pytest.raises(ConfigError, match=message):
        compare_folders(cut, [run])


def test_a_file_that_cut_nothing_is_refused(tmp_path: Path) -> None:
    run = under(write(tmp_path / "run", [sample("q1", 1.0)]), "64")
    (tmp_path / "votes.json").write_text('{"format": "edgereason-sweep", "budgets": null}')
    with pytest.raises(ConfigError, match="cuts the traces of 0 evaluations"):
        compare_folders(tmp_path / "votes.json", [run])
    (tmp_path / "old.json").write_text('{"budgets": {"whole": {"budgets": [64]}}, "runs": {}}')
    with pytest.raises(ConfigError, match=r"old.json is not of this version: it lacks 'whole'"):
        compare_folders(tmp_path / "old.json", [run])


def test_likelihoods_over_cyclic_orders_are_not_compared_with_others(tmp_path: Path) -> None:
    row = {"id": "q", "gold": 0, "logprobs": [-1.0, -2.0], "num_bytes": [1, 1], "num_tokens": [1, 1]}
    row |= {"is_greedy": [True, False], "pred": 0, "pred_norm": 0}

    def weighed(name: str, **config: object) -> Path:
        (folder := tmp_path / name).mkdir()
        summary = {"format": "edgereason-eval", "task": "mmlu", "acc": 1.0, "config": config}
        (folder / "summary.json").write_text(json.dumps(summary | {"data": {"sha256": "d1"}}))
        (folder / "samples.jsonl").write_text(json.dumps(row) + "\n")
        return folder

    # A record of an older version has one prompt a row, and names no orders.
    old, given = weighed("old"), weighed("given", orders="given", shots=0)
    cyclic, five = weighed("cyclic", orders="cyclic", shots=0), weighed("five", orders="cyclic", shots=5)
    (found,) = compare_folders(old, [given])
    assert (found.num_questions, found.difference) == (1, 0.0)
    with pytest.raises(ConfigError, match=r"cyclic differs from .* in its orders, 'cyclic' for 'given'"):
        compare_folders(old, [cyclic])
    with pytest.raises(ConfigError, match=r"five differs from .* in its shots, 5 for 0"):
        compare_folders(cyclic, [five])
