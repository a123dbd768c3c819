"""A warm start for budgets: of several responses under each, the shortest right one is learned once more.

::

    FOLDER/
      record.json       what was drawn and what it came to
      samples.jsonl     a row for every problem and bucket, with the response that is kept, if any
      examples.jsonl    those responses in ids, for `train sft`

    problem × bucket ─ G responses ─ right ones within (1+m)B ─ the shortest ─→ example, its hint in front

Responses stay in the ids that the policy drew them in. A run that was stopped goes on behind its last row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final, Self

from edgereason.core.bundle import Base, file_sha256
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import ConfigError
from edgereason.reasoning.model import describe_base
from edgereason.records.context import RunContext
from edgereason.records.folder import RunFolder
from edgereason.records.journal import Journal, JournalRow
from edgereason.train.data.traces import length_summary
from edgereason.train.grpo.groups import Group, GroupSampler
from edgereason.train.grpo.material import QuestionSources, material_of
from edgereason.train.grpo.recipe import GrpoRecipe
from edgereason.train.grpo.rollout import EngineRollouts, RolloutEngine
from edgereason.train.lora.examples import Example, ExamplesOrigin, write_examples
from edgereason.train.lora.run import shipped

FORMAT: Final = "edgereason-shortest"
EXAMPLES: Final = "examples.jsonl"
_HOLDS: Final = "set of examples"
RULE: Final = (
    "of a problem's right responses under a bucket B that end within (1+m)B, the shortest; ties by the "
    "number of the response"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortestRow(JournalRow):
    """What a problem came to under a bucket.

    Attributes:
        problem_sha256: of its prompt and right answer.
        num_right: of the responses, within (1+m)B.
        kept: ids of the shortest right one, its end of turn among them; None if none was right.
        num_tokens: of the kept one, as the budget counts; mean of all in `mean_tokens`.
        forced: places in `kept` of results that a calculator forced.
    """

    id: str
    bucket: int
    problem_sha256: str
    num_right: int
    mean_tokens: float
    num_tokens: int | None = None
    kept: tuple[int, ...] | None = None
    forced: tuple[int, ...] = ()

    @property
    def key(self) -> tuple[str, int]:
        """What identifies the row in its run."""
        return self.id, self.bucket

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
            forced=() if shortest is None else shortest.drawn.forced,
        )


def run(
    recipe: GrpoRecipe,
    folder: Path,
    context: RunContext = RunContext(),
    *,
    start: Path,
    questions: QuestionSources,
) -> dict[str, Any] | None:
    """Keeps an adapter's shortest right responses, or goes on with what `folder` holds.

    Args:
        recipe: of GRPO: its budgets, rewards, samples and temperature count.
        folder: for rows, examples and record; made if it is not there.
        context: asked between draws whether to stop; what is written stays.
        start: folder of a training, or a bundle, whose adapter answers.
        questions: to answer, with the right answers.

    Returns:
        The record; None if it was stopped.

    Raises:
        ConfigError: settings, questions or folder can't be used.
        BundleError: an adapter or a base that doesn't fit.
        TrainingError: a response can't be judged.
    """
    config = recipe.training
    chosen, about_questions = questions.usable(config.seed)
    bundle, part = shipped(start)
    path = context.fetch(recipe.base.name)
    with LlamaEngine(path, threads=context.threads, shares_cells=False) as engine:
        base = describe_base(engine, path)
        bundle.check_base(base)
        material = material_of(engine, chosen, recipe.budgets.buckets)
        for bucket in recipe.budgets.buckets:
            material.require_room(bucket, recipe.reward.cap_tokens(bucket))
        sampler = GroupSampler(
            problems={problem.id: problem for problem in material.problems},
            opening=material.opening,
            hints=material.hints,
            vocabulary=material.vocabulary,
            rewards=recipe.reward,
            count=config.samples,
            seed=config.seed,
        )
        adapter = engine.load_adapter(bundle.verified_file(part))
        rollouts = EngineRollouts(
            engine,
            temperature=config.temperature,
            max_running=config.parallel,
            adapter=adapter,
            calculator=config.calculator,
        )
        depends_on = {
            "adapter": part.sha256,
            "samples": config.samples,
            "temperature": config.temperature,
            "margin": recipe.reward.margin,
            "floor": recipe.reward.floor,  # floor and kind decide how far responses are drawn
            "kind": str(recipe.reward.kind),
            "seed": config.seed,
            **({"calculator": True} if config.calculator else {}),  # folders of before know no other
        }
        record = shortest(folder, sampler, rollouts, base, depends_on, context)
    return record and RunFolder(folder, _HOLDS).write(record | context.about() | about_questions)


def shortest(
    folder: Path,
    sampler: GroupSampler,
    rollouts: RolloutEngine,
    base: Base,
    run: Mapping[str, Any],
    context: RunContext = RunContext(),
    *,
    together: int = 2,
) -> dict[str, Any] | None:
    """Draws, chooses and writes examples, or goes on with those of `folder`.

    Args:
        folder: for rows, examples and record; made if it is not there.
        sampler: with the problems, buckets and samples of each.
        rollouts: draws from the policy.
        base: that the rollouts draws from.
        run: what else the rows depend on, in plain values; another run's folder is refused.
        context: asked between draws whether to stop; what is written stays.
        together: problems that are drawn at a time, each under every bucket.

    Returns:
        What the record says of them; None if it was stopped.

    Raises:
        ConfigError: the folder holds something else.
        TrainingError: a response can't be judged.
    """
    run = {"base": base.sha256, **run}
    RunFolder(folder, _HOLDS).claim_record(FORMAT, run)
    asked = [(problem_id, bucket) for problem_id in sampler.problems for bucket in sorted(sampler.hints)]
    with Journal(folder, ShortestRow) as journal:
        rows = {row.key: row for row in journal.found if row.key in {*asked}}
        for row in rows.values():
            if row.problem_sha256 != sampler.problems[row.id].sha256:
                raise ConfigError(
                    f"{folder} has samples of another problem with the id {row.id!r}: "
                    "choose a new folder (--output)"
                )
        missing = [key for key in asked if key not in rows]
        size = together * len(sampler.hints)
        context.progress("rows", len(rows), len(asked))
        for at in range(0, len(missing), size):
            if context.should_stop():
                return None
            some = missing[at : at + size]
            fresh = [ShortestRow.of(group) for group in sampler.draw(some, (FORMAT,), rollouts)]
            journal.append(*fresh)
            rows |= {row.key: row for row in fresh}
            context.progress("rows", len(rows), len(asked))
    found = [rows[key] for key in asked]
    examples = [_example(row, row.kept, sampler) for row in found if row.kept is not None]
    write_examples(folder / EXAMPLES, ExamplesOrigin.of(base, sampler.opening, examples), examples)
    return {
        "format": FORMAT,
        "run": run,
        "rule": RULE,
        "examples": {
            "name": EXAMPLES,
            "sha256": file_sha256(folder / EXAMPLES),
            "rows": len(examples),
        },
        "samples": sampler.count * len(found),
        "share_right": sum(row.num_right for row in found) / (sampler.count * len(found)),
        "tokens": {
            bucket: {
                "drawn_mean": fmean(row.mean_tokens for row in found if row.bucket == bucket),
                "kept": length_summary(
                    [row.num_tokens or 0 for row in found if row.bucket == bucket and row.kept]
                ),
            }
            for bucket in sorted(sampler.hints)
        },
    }


def _example(row: ShortestRow, kept: tuple[int, ...], sampler: GroupSampler) -> Example:
    forced = sampler.opening + sampler.hints[row.bucket]
    return Example(
        id=f"{row.id}/{row.bucket}",
        prompt=sampler.problems[row.id].prompt,
        response=forced + kept,
        num_forced=len(forced),
        bucket=row.bucket,
        computed=tuple(len(forced) + place for place in row.forced),
    )
