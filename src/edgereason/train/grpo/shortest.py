"""A warm start for budgets: of several responses under each, the shortest right one is learned once more.

::

    FOLDER/
      record.json       what was drawn and what it came to
      samples.jsonl     a row for every problem and bucket, with the response that is kept, if any
      examples.jsonl    those responses in ids, for `train sft`

    problem × bucket ─ G responses ─ right ones within (1+m)B ─ the shortest ─→ example, its hint in front

Responses stay in the ids that the policy drew them in. A run that was stopped goes on behind its last row.

Knows problems, rollouts and rows; does not know how an adapter is trained.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final, Self

from edgereason.core.bundle import Base, file_sha256, write_atomically
from edgereason.errors import ConfigError
from edgereason.records.journal import Journal
from edgereason.train.data.trace_folder import RECORD, claim_folder, length_summary
from edgereason.train.grpo.groups import Dealer, Group
from edgereason.train.grpo.rollout import Roller
from edgereason.train.lora.examples import Example, Origin, write_examples

FORMAT: Final = "edgereason-shortest"
EXAMPLES: Final = "examples.jsonl"
RULE: Final = (
    "of a problem's right responses under a bucket B that end within (1+m)B, the shortest; ties by the "
    "number of the response"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortestRow:
    """What a problem came to under a bucket.

    Attributes:
        problem_sha256: of its prompt and right answer.
        num_right: of the responses, within (1+m)B.
        kept: ids of the shortest right one, its end of turn among them; None if none was right.
        num_tokens: of the kept one, as the budget counts; mean of all in `mean_tokens`.
    """

    id: str
    bucket: int
    problem_sha256: str
    num_right: int
    mean_tokens: float
    num_tokens: int | None = None
    kept: tuple[int, ...] | None = None

    @property
    def key(self) -> tuple[str, int]:
        """What identifies the row in its run."""
        return self.id, self.bucket

    def to_json(self) -> dict[str, Any]:
        """The row as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        """The row that was written."""
        kept = row["kept"]
        return cls(**row | {"kept": None if kept is None else tuple(kept)})

    @classmethod
    def of(cls, group: Group) -> Self:
        """The row of a group."""
        right = [one for one in group.responses if one.outcome.is_right and one.is_within]
        shortest = min(right, key=lambda one: one.outcome.num_tokens, default=None)
        lengths = [one.outcome.num_tokens for one in group.responses]
        return cls(
            id=group.problem.id,
            bucket=group.bucket,
            problem_sha256=group.problem.sha256,
            num_right=len(right),
            mean_tokens=sum(lengths) / len(lengths),
            num_tokens=None if shortest is None else shortest.outcome.num_tokens,
            kept=None if shortest is None else shortest.drawn.ids,
        )


def shortest(
    folder: Path,
    dealer: Dealer,
    roller: Roller,
    base: Base,
    run: Mapping[str, Any],
    *,
    together: int = 2,
    about: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """Draws, chooses and writes examples, or goes on with those of `folder`.

    Args:
        folder: for rows, examples and record; made if it is not there.
        dealer: with the problems, buckets and samples of each.
        roller: draws from the policy.
        base: that the roller draws from.
        run: what else the rows depend on, in plain values; another run's folder is refused.
        together: problems that are drawn at a time, each under every bucket.
        about: what else the record says.
        progress: told how many rows there are, of how many.
        should_stop: asked between draws; once true, None is returned and what is written stays.

    Raises:
        ConfigError: the folder holds something else.
        TrainingError: a response can't be judged.
    """
    run = {"base": base.sha256, **run}
    claim_folder(folder, run, FORMAT)
    asked = [(problem_id, bucket) for problem_id in dealer.problems for bucket in sorted(dealer.hints)]
    with Journal(folder, ShortestRow) as journal:
        rows = {row.key: row for row in journal.found if row.key in {*asked}}
        for row in rows.values():
            if row.problem_sha256 != dealer.problems[row.id].sha256:
                raise ConfigError(
                    f"{folder} has samples of another problem with the id {row.id!r}: "
                    "choose a new folder (--output)"
                )
        missing = [key for key in asked if key not in rows]
        size = together * len(dealer.hints)
        progress(len(rows), len(asked))
        for at in range(0, len(missing), size):
            if should_stop():
                return None
            some = missing[at : at + size]
            fresh = [ShortestRow.of(group) for group in dealer.draw(some, (FORMAT,), roller)]
            journal.append(*fresh)
            rows |= {row.key: row for row in fresh}
            progress(len(rows), len(asked))
    found = [rows[key] for key in asked]
    examples = [_example(row, row.kept, dealer) for row in found if row.kept is not None]
    write_examples(folder / EXAMPLES, Origin.of(base, dealer.opening, examples), examples)
    record = {
        "format": FORMAT,
        "run": run,
        "rule": RULE,
        "examples": {
            "name": EXAMPLES,
            "sha256": file_sha256(folder / EXAMPLES),
            "rows": len(examples),
        },
        "samples": dealer.count * len(found),
        "share_right": sum(row.num_right for row in found) / (dealer.count * len(found)),
        "tokens": {
            bucket: {
                "drawn_mean": fmean(row.mean_tokens for row in found if row.bucket == bucket),
                "kept": length_summary(
                    [row.num_tokens or 0 for row in found if row.bucket == bucket and row.kept]
                ),
            }
            for bucket in sorted(dealer.hints)
        },
        **(about or {}),
    }
    write_atomically(folder / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return record


def _example(row: ShortestRow, kept: tuple[int, ...], dealer: Dealer) -> Example:
    forced = dealer.opening + dealer.hints[row.bucket]
    return Example(
        id=f"{row.id}/{row.bucket}",
        prompt=dealer.problems[row.id].prompt,
        response=forced + kept,
        num_forced=len(forced),
        bucket=row.bucket,
    )
