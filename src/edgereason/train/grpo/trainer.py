"""GRPO under a budget: TRL's trainer, with the masked adapter's log-probabilities and the engine's rollouts.

::

    step ─ groups (`groups.py`) ─┬─ prompt_ids       the prompt, the base's own
                                 ├─ completion_ids   opening  hint │ sampled
                                 ├─ env_mask         0        0    │ 1, 0 where a result was forced
                                 └─ logprobs                       │ the old policy's
    update ─ TRL's loss over the mask; log-probabilities by `MaskedLora`, prompts' KV computed once

TRL's border between prompt and completion is the adapter's, so only the one method that finds
log-probabilities is another than TRL's. The reference of the KL is the adapter that the run began with:
PEFT's second adapter `ref`, copied before any checkpoint is taken up, and so the same after a resume.

Source: paper section 3. Deviation: old log-probabilities are the engine's, on the weights that ship; a recipe
may ask for another scale of advantages, and for the KL's own gradient (`scale_rewards`, `unbiased_kl`).
"""

from __future__ import annotations

import os
import random
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from edgereason.errors import TrainingError
from edgereason.train.grpo.config import GrpoConfig
from edgereason.train.grpo.groups import Groups
from edgereason.train.grpo.rollout import Vocabulary
from edgereason.train.lora.checkpoints import AdapterCheckpoints, Clock, Save, last_checkpoint, step_of
from edgereason.train.lora.loop import common_arguments
from edgereason.train.lora.masked_lora import MaskedLora, ResponseBatch

_OF_TOKENS: Final = frozenset({"kl", "entropy", "clip_ratio/region_mean"})


class Draw(Protocol):
    """Draws the groups of an update from the current adapter."""

    def __call__(self, ids: Sequence[str], step: int) -> Groups: ...


@dataclass(frozen=True, slots=True)
class Drawing:
    """What an update was made of, in all processes; `seconds` that it took here."""

    groups: Groups
    seconds: float


def turn(problems: Sequence[str], step: int, count: int, seed: int) -> list[str]:
    """The problems of an update, all different: pass after pass, each in an order of its own.

    Those that are left at the end of a pass, too few for an update, wait for the next.
    """
    number, at = divmod(step, len(problems) // count)
    order = random.Random(f"{seed}/{number}").sample(range(len(problems)), len(problems))
    return [problems[place] for place in order[at * count : (at + 1) * count]]


class BudgetTrainer(AdapterCheckpoints, GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPO trainer for a `MaskedLora`, on groups that somebody else draws and rewards.

    Args:
        policy: what is trained, its adapter the one to begin with.
        problems: ids of all problems.
        draw: draws groups.
        vocabulary: of the model.
        folder: for checkpoints.
        config: how.
        save: writes the adapter into a folder.
        load: reads it from one.
        drawn: told of every drawing.
        callbacks: of the training.
        should_stop: once true, a checkpoint is left and training ends.
    """

    def __init__(
        self,
        policy: MaskedLora,
        problems: Sequence[str],
        draw: Draw,
        vocabulary: Vocabulary,
        folder: Path,
        config: GrpoConfig,
        *,
        save: Save,
        load: Callable[[Path], None],
        drawn: Callable[[Drawing], None] = lambda _: None,
        callbacks: Sequence[TrainerCallback] = (),
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._policy, self._draw, self._drawn = policy, draw, drawn
        self._problems, self._config = sorted(problems), config
        self.keep_checkpoints(config, save, load)
        passes = config.accumulated(int(os.environ.get("WORLD_SIZE", "1")))
        arguments = GRPOConfig(
            max_steps=config.steps,
            gradient_accumulation_steps=passes,
            steps_per_generation=passes,  # an update's responses are drawn at once, and learned from once
            num_generations=config.samples,
            weight_decay=0.0,
            max_grad_norm=1.0,
            loss_type="grpo",
            scale_rewards=config.scale_rewards,
            beta=config.beta,
            use_bias_correction_kl=config.unbiased_kl,
            disable_dropout=True,  # or the policy that learns would not be the one that drew
            epsilon=config.epsilon,
            temperature=config.temperature,
            mask_truncated_completions=False,
            activation_checkpointing=False,  # `checkpoint_activations` is the base's own
            **common_arguments(folder, config),
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You are using 'rollout_func'")  # experimental, and pinned
            super().__init__(
                model=policy.model,
                reward_funcs=_given_rewards,
                args=arguments,
                # An epoch is an update: which problems it has, `turn` says, and a resume needs no skipping.
                train_dataset=Dataset.from_dict({"prompt": [str(n) for n in range(config.prompts)]}),
                processing_class=_Ids(vocabulary),
                callbacks=[Clock(config.checkpoint_minutes * 60, should_stop), *callbacks],
                rollout_func=_roll,
            )
        # Whatever wraps the model for several processes calls this, and so sees every gradient. No bound
        # method: accelerate would bind it anew, to the model.
        policy.model.forward = lambda *given, **named: policy.scores(*given, **named)
        self.remove_callback(PrinterCallback)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: a checkpoint is not a model to be published."""

    def go_on(self, folder: Path, resume: Path | None) -> None:
        """Trains from the last checkpoint of `folder`, or from `resume`, or from the start.

        A run that is finished is left so.
        """
        at = last_checkpoint(folder) or resume
        if at is not None and step_of(at) >= self._config.steps:
            self._load_adapter(at)
            self.note_rewarm(at)
            self.state.global_step = self.state.max_steps = self._config.steps
            return
        self.train(resume_from_checkpoint=None if at is None else str(at))

    def roll(self) -> dict[str, list[Any]]:
        """This process's responses of an update, as TRL takes them."""
        start_s, step, config = time.perf_counter(), self.state.global_step, self._config
        ids = turn(self._problems, step, config.prompts, config.seed)
        share = config.prompts // self.accelerator.num_processes
        first = self.accelerator.process_index * share
        groups = self._draw(ids[first : first + share], step)
        seconds = time.perf_counter() - start_s
        self._drawn(Drawing(Groups.of_all(gather_object([groups])), seconds))
        rows: dict[str, list[Any]] = {
            name: [] for name in ("prompt_ids", "completion_ids", "logprobs", "env_mask", "reward")
        }
        for group in groups.kept:
            for response in group.learned:
                forced, drawn = list(group.forced), response.drawn
                rows["prompt_ids"].append(list(group.problem.prompt))
                rows["completion_ids"].append(forced + list(drawn.ids))
                rows["logprobs"].append([0.0] * len(forced) + list(drawn.logprobs))
                # Where all are worth the same there is nothing to learn, from the KL either.
                learned = [int(group.has_spread and is_drawn) for is_drawn in drawn.is_drawn]
                rows["env_mask"].append([0] * len(forced) + learned)
                rows["reward"].append(response.reward)
        return rows

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "`gradient_checkpointing", FutureWarning
            )  # names that TRL still uses
            batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        batch["old_per_token_logps"] = batch.pop("sampling_per_token_logps")
        return batch

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """A forward pass's rows; those of similar length share one, so that little of it is padding."""
        inputs = super()._prepare_inputs(generation_batch)
        if self._step % self.args.steps_per_generation == 0:  # drawn just now
            self._buffered_inputs: list[dict[str, Any]] = by_length(self._buffered_inputs)
            inputs = self._buffered_inputs[0]
        return inputs

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        """(rows, completion) log-probabilities at the temperature, and entropies; padding has zeros."""
        size = batch_size or len(input_ids)
        logprobs, entropies = [], []
        for ids, mask in zip(torch.split(input_ids, size), torch.split(attention_mask, size), strict=True):
            batch = _batch(ids, mask.bool(), logits_to_keep)
            with self.accelerator.autocast():
                found, entropy = model(batch, temperature=self.temperature, want_entropies=compute_entropy)
            padding = (0, logits_to_keep - found.shape[1])
            logprobs.append(torch.nn.functional.pad(found, padding))
            if entropy is not None:
                entropies.append(torch.nn.functional.pad(entropy, padding))
        self._last_logprobs = logprobs[-1].detach()
        return torch.cat(logprobs), torch.cat(entropies) if entropies else None, None

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss: Tensor = super()._compute_loss(model, inputs)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss.item()}: lower the learning rate and go on from the last checkpoint"
            )
        mask = (inputs["completion_mask"] * inputs["tool_mask"]).bool()
        gaps = (self._last_logprobs - inputs["old_per_token_logps"])[mask].abs()
        gap, count = self.accelerator.reduce(torch.stack([gaps.sum(), mask.sum().float()])).tolist()
        metrics = self._metrics["train"]
        if count:
            metrics["mismatch"].append(gap / count)
        else:  # TRL counts a pass without a trained token as zeros
            for name in _OF_TOKENS & metrics.keys():
                metrics[name].pop()
        return loss


def by_length(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of all forward passes of an update, dealt out anew: the longest completions first.

    The loss is a mean over equally large passes, so it stays the same.
    """
    lengths = torch.cat([part["completion_mask"].sum(1) for part in parts])
    shares = lengths.argsort(descending=True, stable=True).chunk(len(parts))

    def dealt(values: list[Any]) -> list[Any]:
        if not isinstance(values[0], Tensor) or values[0].dim() == 0:  # of the update, not of a row
            return values
        rows = torch.cat(values)
        return [rows[share] for share in shares]

    columns = {name: dealt([part[name] for part in parts]) for name in parts[0]}
    return [{name: column[n] for name, column in columns.items()} for n in range(len(parts))]


def _roll(prompts: list[str], trainer: BudgetTrainer) -> dict[str, list[Any]]:
    return trainer.roll()


def _given_rewards(reward: list[float], **_: Any) -> list[float]:
    """Rewards were found where responses were judged."""
    return reward


def _batch(ids: Tensor, mask: Tensor, completion_tokens: int) -> ResponseBatch:
    """TRL's rows, prompts padded on the left and completions on the right, as the masked model takes them."""
    rows = []
    for row, present in zip(ids, mask, strict=True):
        prompt = row[:-completion_tokens][present[:-completion_tokens]].tolist()
        response = row[-completion_tokens:][present[-completion_tokens:]].tolist()
        rows.append((prompt, response, [True] * len(response)))
    return ResponseBatch.of(rows)


class _Ids(PreTrainedTokenizerBase):  # type: ignore[misc]
    """As much of a tokenizer as TRL's trainer asks for: what ends and pads, and text for its logs."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._end = min(vocabulary.ends)
        super().__init__(eos_token="<end>", pad_token="<end>")

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        return self._end if isinstance(tokens, str) else [self._end for _ in tokens]

    def batch_decode(self, sequences: Any, **_: Any) -> list[str]:
        return [self._vocabulary.text(ids) for ids in sequences]
