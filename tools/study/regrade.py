"""Records of `edgereason eval` graded again by the code that is here: what a change of grading changes.

::

    rows of a record ─ each trace read and scored again, the vote held again ─→ rows whose score is another

A line a record, and one for each row that changes. Data files are found by the hash in the record. With
`--references` a task's own references are graded as answers instead: each must agree with itself. `--write`
puts the new answers and scores into the rows, and figures and the rows' names into the summary.

    python tools/study/regrade.py results --data gsm8k_test.jsonl humaneval.jsonl --run-code
    python tools/study/regrade.py --references gsm8k=gsm8k_test.jsonl humaneval=humaneval.jsonl --run-code
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgereason.config import read_toml
from edgereason.core.answers import Answer, read_trace
from edgereason.core.bundle import temporary_beside, write_atomically
from edgereason.core.types import Route, Stop, Vote
from edgereason.errors import EdgeReasonError
from edgereason.evals.evaluate import EvalConfig
from edgereason.evals.metrics import summarise
from edgereason.evals.record import RUN, SUMMARY, read_config
from edgereason.evals.samples import RecordedTrace, Sample, read_samples
from edgereason.evals.tasks.base import Item, Output
from edgereason.evals.tasks.catalog import Task, load_task
from edgereason.reasoning.vote import Ballot, winner
from edgereason.records.journal import SAMPLES


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A row that scores otherwise; the answers are those that won, the last one of the trace `winner`."""

    id: str
    repeat: int
    before: float
    after: float
    answer_before: str
    answer_after: str
    reference: str
    winner: int | None

    def __str__(self) -> str:
        """One line."""
        said = f"{self.answer_before[:40]!r} → {self.answer_after[:40]!r}, right is {self.reference[:40]!r}"
        return f"  {self.id} #{self.repeat}: {self.before:g} → {self.after:g}, {said}"


def regrade(samples: Sequence[Sample], items: Mapping[str, Item], vote: Vote | None) -> Iterator[Change]:
    """Rows whose score is another than the recorded one.

    Args:
        samples: of one record.
        items: its task's, by id.
        vote: as the record names it; None is weighted where a verifier scored, else majority.
    """
    for sample in samples:
        item = items[sample.id]
        finished = [trace for trace in sample.traces if trace.stop is not Stop.CANCELLED]
        ballots = [Ballot(_answer(item, sample, trace), trace.verifier_score) for trace in finished]
        scored = all(trace.verifier_score is not None for trace in finished)
        rule = vote or (Vote.WEIGHTED if scored else Vote.MAJORITY)
        rule = Vote.MAJORITY if rule is Vote.WEIGHTED and not scored else rule
        won = winner(ballots, rule, sample.seed)
        answer = None if won is None else ballots[won].answer
        said = None if answer is None else answer.text
        output = None if won is None else Output(text=finished[won].text, answer=said)
        score = 0.0 if output is None else item.score(output)
        if (
            output is not None and score < sample.score
        ):  # once more: a machine that stands still fails programs
            score = item.score(output)
        if score != sample.score:
            yield Change(
                id=sample.id,
                repeat=sample.repeat,
                before=sample.score,
                after=score,
                answer_before=sample.answer,
                answer_after=said or "",
                reference=item.reference,
                winner=None if won is None else finished[won].index,
            )


def _answer(item: Item, sample: Sample, trace: RecordedTrace) -> Answer | None:
    thinking = None if sample.route is Route.CHAT else trace.thinking
    return read_trace(trace.text, thinking, item.question)


def rewrite(folder: Path, changes: Sequence[Change], budget_s: float | None) -> None:
    """Puts changed rows and what they come to into a record."""
    changed = {(change.id, change.repeat): change for change in changes}
    (path,) = (folder / name for name in (SAMPLES, f"{SAMPLES}.gz") if (folder / name).is_file())
    is_packed = path.suffix == ".gz"
    data = gzip.decompress(path.read_bytes()) if is_packed else path.read_bytes()
    lines = []
    for line in data.splitlines(keepends=True):
        row = json.loads(line)
        if (change := changed.get((row["id"], row["repeat"]))) is not None:
            row |= {"score": change.after, "answer": change.answer_after, "winner": change.winner}
            for trace in row["traces"]:
                if trace["index"] == change.winner:
                    trace |= {"score": change.after, "answer": change.answer_after}
            line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
        lines.append(line)
    with temporary_beside(path) as partial:
        whole = b"".join(lines)
        partial.write_bytes(gzip.compress(whole, mtime=0) if is_packed else whole)
    summary = json.loads((folder / SUMMARY).read_text("utf-8"))
    names = [f"{change.id} #{change.repeat}: {change.before:g} → {change.after:g}" for change in changes]
    figures = summarise(read_samples(folder), budget_s=budget_s)
    summary |= {name: value for name, value in figures.items() if name in summary}
    summary["regraded"] = [*summary.get("regraded", []), *names]
    write_atomically(folder / SUMMARY, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")


def disagreeing(task: Task) -> list[str]:
    """Ids of the items whose reference does not count as right."""
    return [item.id for item in task.items if not _agrees(task, item)]


def _agrees(task: Task, item: Item) -> bool:
    text = f"```python\n{item.reference}\n```" if task.runs_code else item.reference
    return item.score(Output(text=text, answer=item.reference)) == 1.0


def _records(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        yield from sorted(run.parent for run in path.rglob(RUN))


def _task_of(folder: Path, files: Mapping[str, Path], *, run_code: bool) -> tuple[Task, EvalConfig] | str:
    """The task of a record with its items; or why it can't be graded again."""
    tables = read_toml(folder / RUN)
    if tables.get("eval", {}).get("score", "answer") != "answer":
        return "options by likelihood: nothing was read"
    if not any(folder.glob(f"{SAMPLES}*")):
        return "it holds no rows"
    config = read_config(folder / RUN, EvalConfig)
    sha256 = tables.get("record", {}).get("data", {}).get("sha256")
    is_made = config.task.startswith("gym:")
    if not is_made and sha256 not in files:
        return f"its data file with SHA-256 {sha256} is not among --data"
    task = load_task(
        config.task, data=None if is_made else files[sha256], limit=config.limit, seed=config.seed
    )
    if task.runs_code and not run_code:
        return "it runs what a model wrote: allow it with --run-code"
    if task.data_sha256 != sha256:
        return "the generator makes other questions here"
    return task, config


def main() -> int:
    """Prints what changes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", nargs="*", type=Path, help="folders of evaluations, or folders of those")
    parser.add_argument("--data", nargs="+", type=Path, default=[], help="data files that they were made on")
    parser.add_argument("--references", nargs="+", default=[], metavar="TASK=FILE")
    parser.add_argument("--run-code", action="store_true", help="let code tasks run what a model wrote")
    parser.add_argument("--write", action="store_true", help="put what changes into the records")
    given = parser.parse_args()
    is_whole = True
    for pair in given.references:
        name, _, file = pair.partition("=")
        task = load_task(name, data=Path(file))
        wrong = ["not run"] if task.runs_code and not given.run_code else disagreeing(task)
        is_whole = is_whole and not wrong
        print(f"{name}: {len(task.items) - len(wrong)} of {len(task.items)} references agree", *wrong)
    files = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in given.data}
    for folder in _records(given.records):
        found = _task_of(folder, files, run_code=given.run_code)
        if isinstance(found, str):
            print(f"{folder}: left out: {found}")
            continue
        task, config = found
        samples = read_samples(folder)
        changes = list(regrade(samples, {item.id: item for item in task.items}, config.vote))
        before = sum(sample.score for sample in samples)
        after = before + sum(change.after - change.before for change in changes)
        print(f"{folder}: {before:g} → {after:g} of {len(samples)}, {len(changes)} rows change", flush=True)
        for change in changes:
            print(change)
        if changes and given.write:
            rewrite(folder, changes, config.budget_s)
    return 0 if is_whole else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgeReasonError as error:
        sys.exit(f"regrade: {error}")
