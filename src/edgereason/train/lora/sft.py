"""Supervised fine-tuning: examples in, a reasoning adapter out.

::

    FOLDER/
      recipe.toml      the resolved recipe
      adapter/         what was learned, for PEFT
      record.json      what went in and what came out
      metrics.jsonl, checkpoint-…, light/       see `loop.py`

Loss is the negative log-likelihood of what the model is to say itself: thinking, closing, answer and end of
turn; opening and hint are given. A run that was stopped or killed goes on where its last checkpoint is.

Source: paper section 3. Deviation: masked (section 4) from the start, and hints in half of the rows.

Knows recipes, models and examples; does not know text, tokenizers or terminals.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import torch
from transformers import PreTrainedModel

from edgereason.config import TomlTables
from edgereason.errors import ConfigError
from edgereason.records.context import RunContext
from edgereason.records.folder import RECIPE, RunFolder
from edgereason.train.lora.adapters import (
    CONFIG,
    LoraSettings,
    adapter_sha256,
    load_adapter,
    new_adapter,
    save_adapter,
)
from edgereason.train.lora.checkpoints import last_checkpoint, step_of
from edgereason.train.lora.examples import Example, HintConfig, fitting
from edgereason.train.lora.loop import METRICS, MaskedTrainer, TrainConfig
from edgereason.train.lora.masked_lora import MaskedLora

FORMAT: Final = "edgereason-sft"
ADAPTER: Final = "adapter"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseConfig:
    """What is trained on.

    Attributes:
        name: of the catalogue, or a GGUF file's.
        sha256: that it must have; None takes any.
    """

    name: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class TorchBase:
    """A base in torch.

    Attributes:
        model: frozen, in float32.
        sha256: of the GGUF that it was read from.
        opening: ids that turn the adapter on.
    """

    model: PreTrainedModel
    sha256: str
    opening: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SftRecipe(TomlTables):
    """Everything that decides what is learned, but the examples and the base's weights."""

    base: BaseConfig
    lora: LoraSettings = field(default_factory=LoraSettings)
    hints: HintConfig = field(default_factory=HintConfig)
    training: TrainConfig = field(default_factory=TrainConfig)


def sft(
    recipe: SftRecipe,
    base: TorchBase,
    examples: Sequence[Example],
    folder: Path,
    context: RunContext = RunContext(),
    *,
    start: Path | None = None,
    resume: Path | None = None,
) -> dict[str, Any] | None:
    """Trains an adapter, or goes on with what `folder` holds.

    Args:
        recipe: what to do.
        base: is given an adapter.
        examples: to learn from.
        folder: for everything that comes out; made if it is not there.
        context: stopped, a checkpoint is left and None returned.
        start: a saved adapter of the recipe's shape to begin with, instead of a fresh one.
        resume: a (light) checkpoint of elsewhere to go on from, where `folder` has none.

    Returns:
        What was done, in plain values, empty in all processes but the first; None if it was stopped.

    Raises:
        BundleError: another base than the recipe's, or a checkpoint that doesn't fit.
        ConfigError: no examples, a folder with another run or to which another process writes, or
            settings that don't go together.
        TrainingError: a loss that is no number; the last checkpoint is whole.
    """
    if recipe.base.sha256 not in (None, base.sha256):
        raise ConfigError(f"the recipe is for the base {recipe.base.sha256}, this one is {base.sha256}")
    config = recipe.training
    kept, num_long = fitting(examples, config.max_tokens)
    if len(kept) < config.batch_rows:
        raise ConfigError(
            f"{len(kept)} of {len(examples)} examples are at most {config.max_tokens} tokens long, and an "
            f"update takes {config.batch_rows}: give more, or lower [training] batch_rows"
        )
    if config.dtype == "bfloat16":
        base.model.to(torch.bfloat16)
    model = new_adapter(base.model, recipe.lora, config.seed)
    if start is not None:
        load_adapter(model, start, base_sha256=base.sha256)
    if config.checkpoint_activations:
        base.model.activation_checkpointing_enable({"use_reentrant": False})

    def save(target: Path, weights: dict[str, Any] | None = None) -> None:
        gathered = weights and {name.removeprefix("model."): tensor for name, tensor in weights.items()}
        save_adapter(
            model,
            target,
            base_name=recipe.base.name,
            base_sha256=base.sha256,
            opening=base.opening,
            weights=gathered or None,
        )

    trainer = MaskedTrainer(
        MaskedLora(model, cached_bytes=config.cached_prompt_bytes),
        [(one.prompt, one.response, one.trained) for one in kept],
        folder,
        config,
        save=save,
        load=lambda source: load_adapter(model, source, base_sha256=base.sha256),
        report=lambda step: context.progress("training", step.step, step.steps, f"loss {step.loss:.4f}"),
        should_stop=context.should_stop,
    )
    run = RunFolder(folder, "training")
    with trainer.args.main_process_first():
        if resume is not None:
            step_of(resume)
        _claim(run, recipe, kept, start)
    is_first = trainer.args.should_save  # another process speaks for all of them
    with run.lock() if is_first else nullcontext():
        at = last_checkpoint(folder) or resume
        trainer.train(resume_from_checkpoint=None if at is None else str(at))
        if trainer.state.global_step < trainer.state.max_steps:
            return None
        if not is_first:
            return {}
        if not (folder / ADAPTER / CONFIG).is_file():  # else it was finished before, and is left so
            save(folder / ADAPTER)
    updates = [json.loads(line) for line in (folder / METRICS).read_text("utf-8").splitlines()]
    return {
        "format": FORMAT,
        "recipe": recipe.to_tables(),
        "base": {"name": recipe.base.name, "sha256": base.sha256},
        "start": start and adapter_sha256(start),
        "num_examples": len(kept),
        "num_too_long": num_long,
        "num_hinted": sum(one.bucket is not None for one in kept),
        "response_tokens_mean": fmean(len(one.response) for one in kept),
        "steps": trainer.state.max_steps,
        "end_loss": _end_loss(updates),
        "training_s": sum(line["seconds"] for line in updates),
        "rewarmed_at": trainer.rewarmed_at,
        "torch": torch.__version__,
        "processes": trainer.args.world_size,
    }


def _end_loss(updates: Sequence[dict[str, Any]]) -> float:
    """Mean loss of the last tenth of all updates."""
    losses = [line["loss"] for line in updates]
    return fmean(losses[-max(1, len(losses) // 10) :])


def _claim(run: RunFolder, recipe: SftRecipe, examples: Sequence[Example], start: Path | None) -> None:
    digest = hashlib.sha256(json.dumps([(e.id, e.prompt, e.response) for e in examples]).encode())
    tables = recipe.to_tables() | {"examples": {"sha256": digest.hexdigest()}}
    run.claim(RECIPE, tables | ({"start": {"sha256": adapter_sha256(start)}} if start else {}))
