"""`edgereason eval` on the real engine: killed and resumed, and no slower than the engine lets it be."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgereason.evals.likelihood.loglik import ChoiceRow
from edgereason.evals.samples import read_samples
from edgereason.records.journal import read_rows

pytestmark = pytest.mark.model

SUMS = [(17, 5), (8, 9), (31, 12), (6, 7), (45, 15), (22, 33), (12, 12), (90, 1), (3, 4), (50, 25)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    rows = [{"id": f"{a}+{b}", "question": f"What is {a} + {b}?", "answer": str(a + b)} for a, b in SUMS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def command(data: Path, folder: Path, *more: str, model: str | Path = "smollm2-135m") -> list[str]:
    options = ["--model", str(model), "--mode", "think", "--budget", "64", "--temperature", "0"]
    return [
        *[sys.executable, "-m", "edgereason", "eval", "gsm8k", "--data", str(data), "-o", str(folder)],
        *options,
        *more,
    ]


@pytest.mark.slow
def test_a_run_killed_again_and_again_has_every_row_exactly_once(
    data: Path, tmp_path: Path, smollm2: Path
) -> None:
    chance, folder, kills = random.Random(1), tmp_path / "run", 0
    while True:
        process = subprocess.Popen(
            command(data, folder, "--repeats", "3", "--parallel", "4"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            code = process.wait(timeout=4 + 8 * chance.random())
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            assert kills < 60
    assert code == 0
    assert kills > 0
    rows = read_samples(folder)
    assert sorted(row.key for row in rows) == sorted((f"{a}+{b}", r) for a, b in SUMS for r in range(3))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["n"] == 30


def test_an_interrupted_run_says_how_to_go_on_and_does(data: Path, tmp_path: Path, real_model: Path) -> None:
    folder = tmp_path / "run"
    ask = command(data, folder, "--parallel", "2", "--json", model=real_model)  # five pairs
    process = subprocess.Popen(ask, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    samples = folder / "samples.jsonl"
    while process.poll() is None and not (samples.is_file() and samples.read_text().count("\n")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    if process.returncode == 0:
        pytest.skip("the run ended before it could be interrupted")
    assert process.returncode == 130
    assert f"-o {folder} goes on" in errors
    done = subprocess.run(ask, capture_output=True, text=True, timeout=250, check=True)
    assert json.loads(done.stdout)["n"] == len(SUMS)


def test_answers_of_the_same_questions_are_the_same_however_the_run_is_split(
    data: Path, tmp_path: Path, real_model: Path
) -> None:
    """One stream at a time, greedy: nothing of a batch's arithmetic is left to differ."""
    whole, split = tmp_path / "whole", tmp_path / "split"
    how = ("--parallel", "1", "--limit", "4")
    ask_whole, ask_split = (command(data, folder, *how, model=real_model) for folder in (whole, split))
    subprocess.run(ask_whole, check=True, capture_output=True, timeout=250)
    process = subprocess.Popen(ask_split, stderr=subprocess.DEVNULL)
    samples = split / "samples.jsonl"
    while process.poll() is None and not (samples.is_file() and samples.read_text().count("\n") >= 2):
        time.sleep(0.02)
    process.kill()
    process.wait()
    subprocess.run(ask_split, check=True, capture_output=True, timeout=250)
    left, right = read_samples(whole), read_samples(split)
    assert [(row.key, row.traces) for row in left] == [(row.key, row.traces) for row in right]


def test_likelihoods_of_letters_end_in_a_sentence_with_the_letters_shares(
    tmp_path: Path, smollm2: Path
) -> None:
    data, folder = tmp_path / "mmlu.jsonl", tmp_path / "run"
    rows = [{"id": str(n), "question": f"Is it {n}?", "choices": list("123"), "answer": n} for n in range(3)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [sys.executable, "-m", "edgereason", "eval", "mmlu", "--score", "loglik"]
    asked += ["--model", "smollm2-135m", "--data", str(data), "--shots", "1", "--kv", "q8_0"]
    done = subprocess.run([*asked, "-o", str(folder)], capture_output=True, text=True, check=True)
    summary = json.loads((folder / "summary.json").read_text())
    config = {key: summary["config"][key] for key in ("orders", "shots", "kv")}
    assert config == {"orders": "cyclic", "shots": 1, "kv": "q8_0"}
    shares = ", ".join(f"{letter} {share:.0%}" for letter, share in summary["letters"].items())
    assert done.stdout.endswith(f"2 questions); likeliest letter in the given order: {shares}\n")
    # The scores are of the cache that is recorded: another cache gives others.
    subprocess.run([*asked[:-1], "f16", "-o", str(tmp_path / "f16")], capture_output=True, check=True)
    scores = [[row.logprobs for row in read_rows(one, ChoiceRow)] for one in (folder, tmp_path / "f16")]
    assert scores[0] != scores[1]
    assert scores[0] == [pytest.approx(row, abs=0.5) for row in scores[1]]


@pytest.mark.slow
def test_an_evaluation_costs_no_more_than_a_seventh_above_prefill_and_decode(
    data: Path, tmp_path: Path, smollm2: Path
) -> None:
    done = subprocess.run(
        command(data, tmp_path / "run", "--repeats", "6", "--parallel", "8", "--json"),
        capture_output=True,
        text=True,
        timeout=900,
        check=True,
    )
    summary = json.loads(done.stdout)
    assert summary["mean_streams"] > 6
    assert summary["wall_ratio"] <= 1.15
