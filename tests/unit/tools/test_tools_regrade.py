"""Records are graded again by the code that is here, and the rows that change are told."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgereason.core.types import Mode
from edgereason.engine.scripted import ScriptedEngine
from edgereason.evals.evaluate import EvalConfig
from edgereason.evals.run import run_task
from edgereason.evals.samples import read_samples
from edgereason.evals.tasks.catalog import load_task
from edgereason.reasoning.model import Model
from tool_scripts import load_tool

regrade = load_tool("study/regrade.py")

REPLIES = [f"I count {n}.\n</think>\n\nThe final answer is {n}." for n in range(5)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    rows = [{"id": f"q{n}", "question": f"How many is {n}?", "answer": str(n % 5)} for n in range(8)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


@pytest.mark.parametrize(("mode", "streams"), [(Mode.THINK, 1), (Mode.THINK, 5), (Mode.CHAT, 1)])
def test_a_record_of_this_code_changes_nowhere(
    data: Path, tmp_path: Path, mode: Mode, streams: int, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    config = EvalConfig(task="gsm8k", model="scripted", mode=mode, budget=100, streams=streams)
    summary = run_task(
        config, tmp_path / "run", data=data, load_model=lambda *_: Model(ScriptedEngine(REPLIES))
    )
    assert summary is not None
    monkeypatch.setattr("sys.argv", ["regrade", str(tmp_path / "run"), "--data", str(data)])
    assert regrade.main() == 0
    right = f"{summary['accuracy'] * 8:g}"
    assert capsys.readouterr().out == f"{tmp_path / 'run'}: {right} → {right} of 8, 0 rows change\n"


def test_a_row_that_is_graded_otherwise_is_told_with_both_answers(data: Path, tmp_path: Path) -> None:
    config = EvalConfig(task="gsm8k", model="scripted", mode=Mode.THINK, budget=100, temperature=0.0)
    run_task(
        config,
        tmp_path / "run",
        data=data,
        load_model=lambda *_: Model(ScriptedEngine(["Hm.\n</think>\n\nIt is 12,50 €."])),
    )
    samples = read_samples(tmp_path / "run")
    items = {item.id: item for item in load_task("gsm8k", data=data).items}
    items["q3"] = replace(items["q3"], score=lambda output: float(output.answer is not None))
    assert list(regrade.regrade(samples, items, None)) == [
        regrade.Change(
            id="q3",
            repeat=0,
            before=0.0,
            after=1.0,
            answer_before=samples[3].answer,
            answer_after=samples[3].answer,
            reference="3",
            winner=0,
        )
    ]


@pytest.mark.parametrize("is_packed", [False, True])
def test_writing_changes_the_row_and_the_figures_alone(data: Path, tmp_path: Path, is_packed: bool) -> None:
    config = EvalConfig(task="gsm8k", model="scripted", mode=Mode.THINK, budget=100, temperature=0.0)
    run = tmp_path / "run"
    summary = run_task(config, run, data=data, load_model=lambda *_: Model(ScriptedEngine(REPLIES)))
    assert summary is not None
    rows = (run / "samples.jsonl").read_bytes().splitlines()
    if is_packed:
        (run / "samples.jsonl.gz").write_bytes(gzip.compress((run / "samples.jsonl").read_bytes()))
        (run / "samples.jsonl").unlink()
    samples = read_samples(run)
    wrong = next(number for number, sample in enumerate(samples) if sample.score == 0)
    change = regrade.Change(
        id=samples[wrong].id,
        repeat=0,
        before=0.0,
        after=1.0,
        answer_before="",
        answer_after="neu",
        reference="",
        winner=0,
    )
    regrade.rewrite(run, [change], None)
    after = read_samples(run)
    assert (after[wrong].score, after[wrong].answer, after[wrong].traces[0].score) == (1.0, "neu", 1.0)
    assert [s for n, s in enumerate(after) if n != wrong] == [s for n, s in enumerate(samples) if n != wrong]
    path = run / ("samples.jsonl.gz" if is_packed else "samples.jsonl")
    lines = (gzip.decompress(path.read_bytes()) if is_packed else path.read_bytes()).splitlines()
    assert [line for line in lines if line not in rows] == [lines[wrong]]
    written = json.loads((run / "summary.json").read_text())
    assert written["accuracy"] == summary["accuracy"] + 1 / 8
    assert written["regraded"] == [f"{samples[wrong].id} #0: 0 → 1"]
    assert {key for key in summary if written[key] != summary[key]} == {"accuracy", "ci95", "pass_at_k"}


def test_references_agree_with_themselves_or_are_named(data: Path) -> None:
    task = load_task("gsm8k", data=data)
    assert regrade.disagreeing(task) == []
    broken = replace(task.items[2], score=lambda output: 0.0)
    assert regrade.disagreeing(replace(task, items=(*task.items[:2], broken))) == ["q2"]
