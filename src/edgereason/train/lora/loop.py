"""The training loop: transformers' Trainer over masked batches.

::

    FOLDER/
      metrics.jsonl                 a line for every step, `seconds` since the one before (saving included);
                                    `rewarmed` where a light checkpoint was taken up
      checkpoint-STEP/, light/      see `checkpoints.py`

Order and grouping of rows follow from seed and epoch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from edgereason.errors import ConfigError, TrainingError
from edgereason.train.data.trackers import require_trackers
from edgereason.train.lora.checkpoints import AdapterCheckpoints, Clock, Save, forget_lines_behind
from edgereason.train.lora.examples import Example, Fitting
from edgereason.train.lora.masked_lora import MaskedLora, ResponseBatch

METRICS: Final = "metrics.jsonl"
FREE_SETTINGS: Final = frozenset(
    f"training.{name}"
    for name in ("checkpoint_minutes", "cached_prompt_bytes", "checkpoint_activations", "report_to")
)
"""Settings of SFT and GRPO that do not change a bit of what is learned."""
_GROUPED_BATCHES: Final = 32
"""Batches that are sorted by length together: fewer pad more, more are less random."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How to train.

    A run that goes on may change four settings (`free_settings`). `checkpoint_minutes`,
    `cached_prompt_bytes` and `checkpoint_activations` change no bit of the adapter. `micro_rows` changes
    the order of sums, and so the last bits; where it would change more, it is not free.

    Attributes:
        epochs: passes over the rows.
        batch_rows: of an update, over all processes.
        micro_rows: of a forward pass in one process.
        learning_rate: at its highest.
        warmup: share of the steps in which the rate rises; then it falls as a cosine.
        rewarm_steps: over which it rises again after a light checkpoint.
        dtype: of the base and of matrix products; adapter and optimizer are float32.
        checkpoint_activations: compute layers again in the backward pass: less memory, a third more time.
        cached_prompt_bytes: for prompts' keys and values between epochs.
        checkpoint_minutes: between checkpoints.
        max_tokens: longest prompt and response together; longer ones are left out and counted.
        seed: of the adapter, the order of rows and dropout.
        report_to: trackers that transformers tells of every update, beside `metrics.jsonl`: "tensorboard",
            "trackio", "wandb", "mlflow"; their packages have to be installed.
    """

    epochs: int = 1
    batch_rows: int = 32
    micro_rows: int = 4
    learning_rate: float = 2e-4
    warmup: float = 0.1
    rewarm_steps: int = 10
    weight_decay: float = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    checkpoint_activations: bool = False
    cached_prompt_bytes: int = 0
    checkpoint_minutes: float = 10.0
    max_tokens: int = 2048
    seed: int = 0
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_rows, self.micro_rows, self.max_tokens) < 1:
            raise ConfigError("[training] needs epochs, batch_rows, micro_rows and max_tokens of 1 or more")
        if self.learning_rate <= 0 or not 0 <= self.warmup < 1 or self.checkpoint_minutes < 0:
            raise ConfigError("[training] needs a learning_rate above 0 and a warmup from 0 to below 1")
        require_trackers(self.report_to)

    def free_settings(self, *, dropout: float, num_rows: int, num_processes: int) -> frozenset[str]:
        """Settings that a run may change when it goes on, since they do not change what is learned.

        Dropout draws a mask for each forward pass, so that other passes have other masks. Several processes
        fill up an epoch's last update, if it is not whole, by rows that depend on the passes.

        Args:
            dropout: of the adapter.
            num_rows: that are learned from.
            num_processes: that train together.
        """
        has_same_passes = dropout == 0 and (num_processes == 1 or num_rows % self.batch_rows == 0)
        return FREE_SETTINGS | ({"training.micro_rows"} if has_same_passes else frozenset())

    def accumulated(self, num_processes: int) -> int:
        """Forward passes of one process for an update.

        Raises:
            ConfigError: the rows of an update can't be shared out evenly.
        """
        together = self.micro_rows * num_processes
        if self.batch_rows % together:
            raise ConfigError(
                f"[training] batch_rows = {self.batch_rows} is not a multiple of micro_rows × processes = "
                f"{self.micro_rows} × {num_processes}"
            )
        return self.batch_rows // together


@dataclass(frozen=True, slots=True)
class StepReport:
    """An update that was made; `loss` is a trained token's mean, in nats."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    grad_norm: float


class UpdateConfig(Protocol):
    """What SFT and GRPO both set of their updates."""

    @property
    def micro_rows(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def dtype(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def report_to(self) -> tuple[str, ...]: ...


def common_arguments(folder: Path, config: UpdateConfig) -> dict[str, Any]:
    """Transformers' arguments that SFT and GRPO share: we save, log and show progress ourselves."""
    on_cpu = not torch.cuda.is_available()
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": config.micro_rows,
        "learning_rate": config.learning_rate,
        "bf16": config.dtype == "bfloat16",
        "use_cpu": on_cpu,
        "seed": config.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "save_total_limit": 2,
        "disable_tqdm": True,
        "report_to": list(config.report_to) or "none",
        "run_name": folder.name,
        "dataloader_pin_memory": not on_cpu,
        "ddp_find_unused_parameters": False,  # there are none, and torch warns where it looked in vain
    }


def collate(rows: Sequence[Example]) -> dict[str, Any]:
    """Rows as the model takes them; `labels` are there for the Trainer to count."""
    batch = ResponseBatch.of([(one.prompt, one.response, one.trained) for one in rows])
    return {"batch": batch, "labels": batch.ids.masked_fill(~batch.trained, -100)}


class LengthGrouped(Sampler[int]):
    """Rows in random order, those of similar length near each other; the epoch decides the order.

    Args:
        lengths: of all rows.
        batch_rows: rows that go together.
        seed: of all epochs.
    """

    def __init__(self, lengths: npt.ArrayLike, batch_rows: int, seed: int) -> None:
        self._lengths = np.asarray(lengths)
        self._batch_rows = batch_rows
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self._seed, self._epoch))
        order = random.permutation(len(self._lengths))
        # Never more than a quarter of the rows, or every epoch would put the same ones together.
        grouped = max(1, min(_GROUPED_BATCHES, len(order) // (4 * self._batch_rows)))
        span = self._batch_rows * grouped
        batches: list[Any] = []
        for start in range(0, len(order), span):
            rows = order[start : start + span]
            rows = rows[np.argsort(-self._lengths[rows], kind="stable")]
            batches += [rows[at : at + self._batch_rows] for at in range(0, len(rows), self._batch_rows)]
        whole = [batch for batch in batches if len(batch) == self._batch_rows]
        rest = [batch for batch in batches if len(batch) < self._batch_rows]
        for at in random.permutation(len(whole)):
            yield from whole[at].tolist()
        for batch in rest:
            yield from batch.tolist()


class MaskedTrainer(AdapterCheckpoints):
    """Transformers' Trainer, for a `MaskedLora`.

    Args:
        model: what is trained.
        rows: all of them; they are read as they are needed.
        folder: for checkpoints and metrics.
        config: how.
        save: writes the adapter into a folder.
        load: reads it from one.
        report: told of every update.
        should_stop: once true, a checkpoint is left and training ends.
    """

    def __init__(
        self,
        model: MaskedLora,
        rows: Fitting,
        folder: Path,
        config: TrainConfig,
        *,
        save: Save,
        load: Callable[[Path], None],
        report: Callable[[StepReport], None],
        should_stop: Callable[[], bool],
    ) -> None:
        # Prompts are encoded one by one.
        self._sampler = LengthGrouped(rows.response_tokens, config.batch_rows, config.seed)
        self.keep_checkpoints(config, save, load)
        arguments = TrainingArguments(
            num_train_epochs=config.epochs,
            weight_decay=config.weight_decay,
            max_grad_norm=1.0,
            remove_unused_columns=False,
            **common_arguments(folder, config),
        )
        arguments.gradient_accumulation_steps = config.accumulated(arguments.world_size)
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=collate,
            compute_loss_func=_loss,
            callbacks=[
                Clock(config.checkpoint_minutes * 60, should_stop),
                _Epoch(self._sampler),
                _Log(folder, self, report),
            ],
        )
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self._sampler


def _loss(logprobs: Tensor, labels: Tensor, num_items_in_batch: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of a trained token, over all rows of an update."""
    count = (labels != -100).sum() if num_items_in_batch is None else num_items_in_batch
    loss = -logprobs.sum() / count
    if not torch.isfinite(loss):
        raise TrainingError(
            f"the loss became {loss.item()}: lower the learning rate and go on from the last checkpoint"
        )
    return loss


class _Epoch(TrainerCallback):  # type: ignore[misc]
    """Tells the sampler in which epoch a run goes on.

    Accelerate's own call looks two batch samplers deep. In several processes, a run that goes on within an
    epoch has three (skipped, shared out, batched) before the sampler.
    """

    def __init__(self, sampler: LengthGrouped) -> None:
        self._sampler = sampler

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._sampler.set_epoch(int(state.epoch or 0))


class _Log(TrainerCallback):  # type: ignore[misc]
    """A line of metrics for every update."""

    def __init__(self, folder: Path, trainer: MaskedTrainer, report: Callable[[StepReport], None]) -> None:
        self._path, self._trainer, self._report = folder / METRICS, trainer, report
        self._since_s = time.monotonic()

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._since_s = time.monotonic()
        if state.is_world_process_zero:
            forget_lines_behind(self._path, state.global_step)

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, float], **_: Any
    ) -> None:
        if not state.is_world_process_zero or "loss" not in logs:
            return
        entry: dict[str, Any] = {"step": state.global_step, "steps": state.max_steps}
        entry |= {name: float(logs[name]) for name in ("loss", "learning_rate", "grad_norm")}
        report = StepReport(**entry)
        now_s = time.monotonic()
        entry["seconds"], self._since_s = now_s - self._since_s, now_s
        if state.global_step - 1 == self._trainer.rewarmed_at:
            entry["rewarmed"] = True
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        self._report(report)
