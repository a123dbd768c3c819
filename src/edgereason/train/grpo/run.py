"""GRPO from end to end: a recipe, questions and an adapter in, a bundle and its record out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from edgereason.engine.llama import LlamaEngine
from edgereason.quant.gguf_file import GgufModel
from edgereason.reasoning.model import describe_base
from edgereason.records.context import RunContext
from edgereason.train.grpo.material import QuestionSources, engine_rollouts, material_of, torch_rollouts
from edgereason.train.grpo.recipe import GrpoRecipe, grpo
from edgereason.train.lora.checkpoints import require_launch
from edgereason.train.lora.run import TorchBase, finish, process_number, started_from, trainable


def run(
    recipe: GrpoRecipe,
    folder: Path,
    context: RunContext = RunContext(),
    *,
    start: Path,
    questions: QuestionSources,
    resume: Path | None = None,
) -> dict[str, Any] | None:
    """Trains an adapter by GRPO as `train.lora.run.run` does by SFT, down to bundle and record.

    Args:
        recipe, folder, context, resume: as for `train.lora.run.run`, which also says what is returned.
        start: folder of a training, or a bundle, whose adapter learns more.
        questions: to learn from, with their answers.

    Raises:
        EngineError: a rollout failed; the last checkpoint is whole. Else as `train.lora.run.run`.
    """
    require_launch()
    config = recipe.training
    chosen, about_questions = questions.usable(config.seed)
    path = context.fetch(recipe.base.name)
    torch.set_num_threads(context.num_threads)
    gguf = GgufModel(path)
    with LlamaEngine(path, threads=context.threads, shares_cells=False) as engine:
        base = describe_base(engine, path)
        material = material_of(engine, chosen, recipe.budgets.buckets)
        rollouts = (
            engine_rollouts(engine, gguf, base.sha256, config, folder / "rollout" / str(process_number()))
            if config.rollouts == "engine"
            else torch_rollouts(material.vocabulary, config)
        )
        with trainable(start, gguf, base) as adapter:
            torch_base = TorchBase.of(gguf, base, material.opening)
            record = grpo(recipe, torch_base, adapter, material, rollouts, folder, context, resume=resume)
    if not record:
        return record
    record |= {"buckets": list(recipe.budgets.buckets)} | started_from(start) | about_questions
    return finish(folder, record, path, base, material.opening, context)
