"""A recipe with few rows: every stage as it will be, but short.

Batches and lengths stay as they are, so that memory and the time of a row are those of the whole.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Final

from edgereason.recipe.config import EvaluationStage, GrpoStage, MakeRecipe, SftStage
from edgereason.train.heads.verifier import MIN_QUESTIONS

UPDATES: Final = 2
"""Of every training."""
_QUESTIONS: Final = 8
"""For a teacher, or for the shortest responses."""
_PROMPTS: Final = 30
"""Of every data set of the switcher."""
_EVALUATED: Final = 4
_MADE: Final = 2
"""Rows of an update, where a teacher makes the traces."""


def smoke_of(recipe: MakeRecipe) -> MakeRecipe:
    """The recipe with as few rows as every stage can do with."""
    rows: defaultdict[str, int] = defaultdict(int)

    def need(names: tuple[str, ...], count: int) -> None:
        for name in names:
            rows[name] = max(rows[name], count)

    for sft in filter(None, (recipe.sft, recipe.refine)):
        batch_rows = _few_updates_of_sft(recipe, sft).training.batch_rows
        for traces in (recipe.traces[name] for name in sft.traces):
            if traces.format is not None:
                need((traces.data,), UPDATES * batch_rows)
    for traces in recipe.traces.values():
        if traces.format is None:
            need((traces.data,), _QUESTIONS)
    if recipe.shortest:
        need(recipe.shortest.data, _QUESTIONS)
    if recipe.grpo:
        need(recipe.grpo.data, 2 * UPDATES * recipe.grpo.training.prompts)
    if recipe.switcher:
        need((*recipe.switcher.data, *recipe.switcher.tests), _PROMPTS)
    if recipe.verifier:
        need((*recipe.verifier.data, *recipe.verifier.tests), 2 * MIN_QUESTIONS)
    if recipe.calibration:
        need(recipe.calibration.data, _PROMPTS)
    # What is evaluated on stays whole: nothing of it may be learned.
    whole = {one.data for one in recipe.evaluation.values()}
    data = {
        name: replace(config, limit=min(rows[name], config.limit or rows[name]))
        if rows[name] and name not in whole
        else config
        for name, config in recipe.data.items()
    }
    quantize = recipe.quantize
    return replace(
        recipe,
        data=data,
        quantize=quantize
        and replace(
            quantize,
            local=replace(quantize.local, steps=min(quantize.local.steps, UPDATES)),
            end_to_end=replace(quantize.end_to_end, steps=min(quantize.end_to_end.steps, UPDATES)),
        ),
        sft=_few_updates_of_sft(recipe, recipe.sft),
        refine=recipe.refine and _few_updates_of_sft(recipe, recipe.refine),
        warm=recipe.warm and _with_batch(recipe.warm, 1),
        grpo=recipe.grpo and _few_updates(recipe.grpo),
        evaluation={name: _few_questions(one) for name, one in recipe.evaluation.items()},
        perplexity=recipe.perplexity
        and replace(recipe.perplexity, limit_tokens=2 * recipe.perplexity.window_tokens),
    )


def _few_updates_of_sft(recipe: MakeRecipe, stage: SftStage) -> SftStage:
    made = [name for name in stage.traces if recipe.traces[name].format is None]
    return _with_batch(stage, _MADE if made else stage.training.batch_rows)


def _with_batch(stage: SftStage, most_rows: int) -> SftStage:
    """One pass; of traces that a teacher makes of few questions there may be few."""
    training = stage.training
    rows = min(most_rows, training.batch_rows)
    return replace(
        stage,
        training=replace(training, epochs=1, batch_rows=rows, micro_rows=min(rows, training.micro_rows)),
    )


def _few_updates(stage: GrpoStage) -> GrpoStage:
    return replace(stage, training=replace(stage.training, steps=min(UPDATES, stage.training.steps)))


def _few_questions(stage: EvaluationStage) -> EvaluationStage:
    limit = min(_EVALUATED, stage.eval.limit or _EVALUATED)
    return replace(stage, eval=replace(stage.eval, limit=limit))
