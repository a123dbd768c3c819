"""Budget forcing: a reasoning adapter learns to keep the budgets that its hints name.

::

    FOLDER/
      recipe.toml      the resolved recipe
      adapter/         what was learned, for PEFT
      record.json      what went in and what came out
      metrics.jsonl    a line for every update
      responses.jsonl  two of every update, those that were worth the most and the least
      rollout/         the adapter as it was drawn from last
      checkpoint-…, light/       see `checkpoints.py`

A run that was stopped or killed goes on where its last checkpoint is: the same problems, buckets and seeds
follow from seed and step, and the reference is the adapter that it began with.

Source: paper section 3. Deviation: masked, in-engine rollouts, replaced groups; see `groups.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from edgereason.config import TomlTables
from edgereason.errors import ConfigError
from edgereason.records.context import Progress, RunContext
from edgereason.records.folder import RECIPE, RunFolder, differences_but
from edgereason.train.grpo.config import GrpoConfig
from edgereason.train.grpo.groups import Groups, GroupSampler, Problem
from edgereason.train.grpo.metrics import RolloutFigures, UpdateFigures, alarms
from edgereason.train.grpo.reward import RewardConfig
from edgereason.train.grpo.rollout import RolloutEngine, Vocabulary
from edgereason.train.grpo.trainer import BudgetTrainer, Drawing
from edgereason.train.lora.adapters import (
    CONFIG,
    adapter_sha256,
    load_adapter,
    new_adapter,
    save_adapter,
    settings_of,
)
from edgereason.train.lora.checkpoints import forget_lines_behind, require_launch, step_of
from edgereason.train.lora.loop import FREE_SETTINGS, METRICS
from edgereason.train.lora.masked_lora import MaskedLora
from edgereason.train.lora.run import ADAPTER, BASE_FILE, BaseConfig, TorchBase

FORMAT: Final = "edgereason-grpo"
RESPONSES: Final = "responses.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetsConfig:
    """Which budgets are learned; every group's hint names one.

    Attributes:
        buckets: in tokens, rising.
    """

    buckets: tuple[int, ...] = (128, 256, 512, 1024)

    def __post_init__(self) -> None:
        if not self.buckets or list(self.buckets) != sorted({*self.buckets}) or self.buckets[0] < 1:
            raise ConfigError(f"[budgets] buckets must be positive and rise, got {list(self.buckets)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoRecipe(TomlTables):
    """Everything that decides what is learned, but problems, the adapter to begin with, and the base."""

    base: BaseConfig
    budgets: BudgetsConfig = field(default_factory=BudgetsConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    training: GrpoConfig = field(default_factory=GrpoConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What is learned from, in ids.

    Attributes:
        problems: with unique ids.
        opening: ids that turn the adapter on.
        hints: ids of every bucket's hint.
        vocabulary: of the base.
        context_tokens: longest sequence of the base.
    """

    problems: Sequence[Problem]
    opening: tuple[int, ...]
    hints: Mapping[int, tuple[int, ...]]
    vocabulary: Vocabulary
    context_tokens: int

    def require_room(self, bucket: int, cap_tokens: int) -> None:
        """Refuses a budget whose longest response does not fit behind the longest prompt.

        Raises:
            ConfigError: it names the budget.
        """
        if not self.problems:
            raise ConfigError("no problems are left: give questions with answers that no evaluation asks")
        longest = max(self.problems, key=lambda problem: len(problem.prompt))
        needed = len(longest.prompt) + len(self.opening) + len(self.hints[bucket]) + cap_tokens + 1
        if needed > self.context_tokens:
            raise ConfigError(
                f"[budgets] {bucket} needs {needed} tokens with its margin and the prompt of {longest.id}, "
                f"and the context holds {self.context_tokens}: take it out, or leave out long problems"
            )


ReloadAdapter = Callable[[MaskedLora, Callable[[Path], None]], RolloutEngine]
"""Gives an engine for rollouts that has the current adapter; the callable saves it for PEFT into a folder."""


def grpo(
    recipe: GrpoRecipe,
    base: TorchBase,
    start: Path,
    material: Material,
    reload_adapter: ReloadAdapter,
    folder: Path,
    context: RunContext = RunContext(),
    *,
    resume: Path | None = None,
) -> dict[str, Any] | None:
    """Trains an adapter further, or goes on with what `folder` holds.

    Args:
        recipe: what to do.
        base: is given the adapter, and a second one as the reference.
        start: saved adapter to begin with.
        material: to learn from.
        reload_adapter: gives an engine for rollouts that has the current adapter.
        folder: for everything that comes out; made if it is not there.
        context: told of every update, and of what looks wrong in the latest ones; stopped, a checkpoint is
            left and None returned.
        resume: a (light) checkpoint of elsewhere to go on from, where `folder` has none.

    Returns:
        What was done, in plain values, empty in all processes but the first; None if it was stopped.

    Raises:
        BundleError: another base than the recipe's or the adapter's, or a checkpoint that doesn't fit.
        ConfigError: too few problems, a folder with another run or to which another process writes, or
            settings that don't go together.
        TrainingError: a reward that can't be found, or a loss that is not finite.
        EngineError: the engine failed in a rollout. The last checkpoint is whole, as after the former.
    """
    require_launch()
    if recipe.base.sha256 not in (None, base.sha256):
        raise ConfigError(f"the recipe is for the base {recipe.base.sha256}, this one is {base.sha256}")
    config = recipe.training
    if len(material.problems) < config.prompts:
        raise ConfigError(
            f"there are {len(material.problems)} problems, and an update takes {config.prompts}: give more, "
            "or lower [training] prompts"
        )
    if resume is not None and (step := step_of(resume)) >= config.steps:
        raise ConfigError(
            f"{resume} has {step} updates behind it, and the recipe makes {config.steps}: raise [training] "
            "steps, or begin with that run's adapter"
        )
    for bucket in recipe.budgets.buckets:
        material.require_room(bucket, recipe.reward.cap_tokens(bucket))
    if config.dtype == "bfloat16":
        base.model.to(torch.bfloat16)
    model = new_adapter(base.model, settings_of(start), config.seed)
    load_adapter(model, start, base_sha256=base.sha256)
    if config.checkpoint_activations:
        base.model.activation_checkpointing_enable({"use_reentrant": False})
    policy = MaskedLora(model, cached_bytes=config.cached_prompt_bytes)
    sampler = GroupSampler(
        problems={problem.id: problem for problem in material.problems},
        opening=material.opening,
        hints={bucket: material.hints[bucket] for bucket in recipe.budgets.buckets},
        vocabulary=material.vocabulary,
        rewards=recipe.reward,
        count=config.draws or config.samples,
        learned=config.samples,
        redraws=config.redraws,
        seed=config.seed,
    )

    base_name = base.name or recipe.base.name

    def save(target: Path, weights: dict[str, Any] | None = None) -> None:
        save_adapter(
            model,
            target,
            base_name=base_name,
            base_sha256=base.sha256,
            opening=material.opening,
            weights=weights or None,
            checkpoint=base.checkpoint,
        )

    def draw(ids: Sequence[str], step: int) -> Groups:
        return sampler.sample(ids, step, reload_adapter(policy, save))

    log = _UpdateLog(folder, material.vocabulary, context.progress)
    trainer = BudgetTrainer(
        policy,
        list(sampler.problems),
        draw,
        material.vocabulary,
        folder,
        config,
        save=save,
        load=lambda source: load_adapter(model, source, base_sha256=base.sha256),
        drawn=log.note,
        callbacks=[log],
        should_stop=context.should_stop,
    )
    run = RunFolder(folder, "training")
    with trainer.args.main_process_first():
        free = FREE_SETTINGS | {"training.micro_rows"}  # there is no dropout, and every update is whole
        depends_on = _depends_on(recipe, base, material.problems, start)
        run.claim(RECIPE, depends_on, differences_but(free, {BASE_FILE, "training.calculator"}))
    is_first = trainer.args.should_save  # another process speaks for all of them
    with run.lock() if is_first else nullcontext():
        trainer.go_on(folder, resume)
        if trainer.state.global_step < trainer.state.max_steps:
            return None
        if not is_first:
            return {}
        if not (folder / ADAPTER / CONFIG).is_file():  # else it was finished before, and is left so
            save(folder / ADAPTER)
    return {
        "format": FORMAT,
        "recipe": recipe.to_tables(),
        "base": base.entry(recipe.base.name),
        "start": adapter_sha256(start),
        "num_problems": len(material.problems),
        "steps": trainer.state.max_steps,
        "rewarmed_at": trainer.rewarmed_at,
        "torch": torch.__version__,
        "processes": trainer.args.world_size,
    }


class _UpdateLog(TrainerCallback):  # type: ignore[misc]
    """A line of metrics for every update: TRL's figures, and those of the drawing."""

    def __init__(self, folder: Path, vocabulary: Vocabulary, progress: Progress) -> None:
        self._metrics, self._responses = folder / METRICS, folder / RESPONSES
        self._vocabulary, self._progress = vocabulary, progress
        self._drawing: Drawing | None = None
        self._updates: list[UpdateFigures] = []

    def note(self, drawing: Drawing) -> None:
        """What the coming update is made of."""
        self._drawing = drawing

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            found = forget_lines_behind(self._metrics, state.global_step)
            self._updates = [UpdateFigures.from_json(line) for line in found]
            forget_lines_behind(self._responses, state.global_step)

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        if not state.is_world_process_zero or "loss" not in logs or self._drawing is None:
            return
        groups, seconds = self._drawing.groups, self._drawing.seconds
        trained = sum(len(r.drawn.ids) for g in groups.kept if g.has_spread for r in g.learned)
        figures = UpdateFigures(
            step=state.global_step,
            steps=state.max_steps,
            seconds=logs["step_time"],
            loss=logs["loss"],
            learning_rate=logs["learning_rate"],
            grad_norm=logs["grad_norm"],
            kl=logs.get("kl"),
            entropy=logs.get("entropy"),
            mismatch=logs.get("mismatch"),
            clipped=logs.get("clip_ratio/region_mean"),
            trained_tokens_per_s=trained / max(1e-9, logs["step_time"] - seconds),
            rollouts=RolloutFigures.of(groups, seconds),
        )
        self._updates.append(figures)
        _append(self._metrics, [figures.to_json()])
        _append(self._responses, self._two_of(groups, figures.step))
        details = [*figures.texts(), *(f"! {alarm}" for alarm in alarms(self._updates))]
        self._progress("updates", figures.step, figures.steps, details=details)

    def _two_of(self, groups: Groups, step: int) -> list[dict[str, Any]]:
        """The response that was worth the most, and the one that was worth the least."""
        found = [(one.reward, group, one) for group in groups.drawn for one in group.responses]
        ends = (pick(found, key=lambda entry: entry[0]) for pick in (max, min))
        return [
            {
                "step": step,
                "id": group.problem.id,
                "bucket": group.bucket,
                "reward": worth,
                "num_tokens": one.outcome.num_tokens,
                "is_whole": one.drawn.is_whole,
                "text": self._vocabulary.text(one.drawn.ids),
            }
            for worth, group, one in ends
        ]


def _append(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _depends_on(
    recipe: GrpoRecipe, base: TorchBase, problems: Sequence[Problem], start: Path
) -> dict[str, Any]:
    said = json.dumps([(p.id, p.prompt, p.reference) for p in problems])
    about = {"problems": hashlib.sha256(said.encode()).hexdigest(), "start": adapter_sha256(start)}
    return recipe.to_tables() | {"material": about, BASE_FILE: {"sha256": base.sha256}}
