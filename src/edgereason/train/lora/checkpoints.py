"""Checkpoints of an adapter's training: by the clock, with or without the optimizer, taken up again.

::

    FOLDER/
      checkpoint-STEP/          adapter, optimizer, schedule, random states: goes on exactly
      light/                    the last one, its weights in half precision and without its optimizer:
                                small enough to keep in a repository

A run that goes on from a light checkpoint has an empty optimizer, so its rate rises again from nothing over
`rewarm_steps`.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from edgereason.core.bundle import write_atomically
from edgereason.errors import ConfigError, TrainingError

LIGHT: Final = "light"
STATE: Final = "trainer_state.json"
_REWARM: Final = "rewarmed_at.json"

_SHARDING: Final = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed (ZeRO)",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism configuration",
}
"""How accelerate tells its processes that they share out parameters or the optimizer."""

_WORLD_SIZES: Final = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""How launchers tell processes how many they are: torch's and accelerate's, and those of MPI."""

_MEETING: Final = frozenset({"RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"})
"""What processes need beside their number to find each other."""

Save = Callable[[Path, dict[str, Any] | None], None]
"""Writes the adapter into a folder; of a state dict, where it is gathered from several processes."""


class RateConfig(Protocol):
    """What the schedule asks of a configuration."""

    @property
    def warmup(self) -> float: ...
    @property
    def rewarm_steps(self) -> int: ...


class AdapterCheckpoints(Trainer):  # type: ignore[misc]
    """A Trainer that saves an adapter and nothing else, and goes on from light checkpoints.

    To be put in front of any Trainer; `keep_checkpoints` before its `__init__`.
    """

    def keep_checkpoints(self, config: RateConfig, save: Save, load: Callable[[Path], None]) -> None:
        """Sets how.

        Args:
            config: of the rate.
            save: writes the adapter into a folder.
            load: reads it from one.
        """
        self._rate_config, self._save_adapter, self._load_adapter = config, save, load
        self._rewarmed_at: int | None = None

    @property
    def rewarmed_at(self) -> int | None:
        """The step at which a light checkpoint was taken up."""
        return self._rewarmed_at

    def note_rewarm(self, checkpoint: Path) -> None:
        """Takes up what a checkpoint says of a light one before it."""
        if (checkpoint / _REWARM).is_file():
            self._rewarmed_at = _rewarmed_at(checkpoint)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Rise, then a cosine; and another rise where a light checkpoint was taken up."""
        warmup = round(self._rate_config.warmup * num_training_steps)

        def rate(step: int) -> float:
            rewarm = 1.0
            if self._rewarmed_at is not None:
                rewarm = min(1.0, (step - self._rewarmed_at + 1) / max(1, self._rate_config.rewarm_steps))
            if step < warmup:
                return rewarm * (step + 1) / warmup
            done = (step - warmup) / max(1, num_training_steps - warmup)
            return rewarm * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

        if self.lr_scheduler is None:
            self.lr_scheduler: Any = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, rate)
        return self.lr_scheduler

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        self._save_adapter(Path(output_dir or self.args.output_dir), state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._load_adapter(Path(resume_from_checkpoint))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir)
        checkpoint = folder / f"checkpoint-{self.state.global_step}"
        try:
            if self.args.should_save:  # first: written last is the state, and the one before goes then
                checkpoint.mkdir(parents=True, exist_ok=True)
                write_atomically(checkpoint / _REWARM, json.dumps(self._rewarmed_at))
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                _make_light(checkpoint, folder / LIGHT)
        except (OSError, RuntimeError, SafetensorError) as error:  # the last two of torch and safetensors
            if self.args.should_save:
                shutil.rmtree(checkpoint, ignore_errors=True)
            why = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
            raise TrainingError(
                f"{checkpoint} can't be written ({why}); the one before it is whole: make room, and give the "
                "same command again"
            ) from error

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self.note_rewarm(Path(checkpoint))
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and not (Path(checkpoint) / "optimizer.pt").is_file():
            step = step_of(Path(checkpoint))
            self._rewarmed_at = step
            schedule = self.lr_scheduler
            schedule.last_epoch = step
            schedule._last_lr = [
                b * r(step) for b, r in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
            ]
            for group, rate in zip(self.optimizer.param_groups, schedule._last_lr, strict=True):
                group["lr"] = rate


class Clock(TrainerCallback):  # type: ignore[misc]
    """Checkpoints by time, at the end, and when asked to stop."""

    def __init__(self, every_s: float, should_stop: Callable[[], bool]) -> None:
        self._every_s, self._should_stop = every_s, should_stop
        self._saved_at = time.monotonic()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        stop = self._should_stop()
        is_due = time.monotonic() - self._saved_at > self._every_s
        # The first process decides for all: one that went on alone would wait for the others for ever.
        stop, is_due = broadcast_object_list([stop, is_due])
        if stop or is_due or state.global_step == state.max_steps:
            control.should_save = True
            self._saved_at = time.monotonic()
        if stop:
            control.should_training_stop = True


def require_launch(environment: Mapping[str, str] = os.environ) -> None:
    """Refuses a launch in which no process would have the whole adapter, or in which processes are missing.

    Args:
        environment: variables of this process, as launchers set them.

    Raises:
        ConfigError: parameters or the optimizer are to be sharded, or several processes were asked for and
            this one can't meet others.
    """
    for name, what in _SHARDING.items():
        if environment.get(name, "").strip().lower() in ("1", "true", "yes", "on", "y", "t"):
            raise ConfigError(
                f"{what} shards the adapter or its optimizer, which this version can't save: launch without "
                "it; `accelerate launch --multi_gpu` and `torchrun` share out the rows of each update"
            )
    by_torchrun = "start them with `torchrun --nproc-per-node COUNT -m edgereason …`"
    # For a single process accelerate sets no address at which to meet.
    is_accelerated = {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= environment.keys()
    if is_accelerated and not {*_WORLD_SIZES} & environment.keys():
        raise ConfigError(
            "`accelerate launch` was to start several processes and started one, as it does with --cpu: "
            + by_torchrun
        )
    if environment.get("WORLD_SIZE", "1") != "1" and (missing := _MEETING - environment.keys()):
        raise ConfigError(
            f"WORLD_SIZE says {environment['WORLD_SIZE']} processes, and {', '.join(sorted(missing))} is not "
            f"set, so that they can't meet: {by_torchrun}, or unset WORLD_SIZE to train in one"
        )


def last_checkpoint(folder: Path) -> Path | None:
    """The latest checkpoint that is whole: a kill may have left one that is not, or an empty file in it.

    The light one, where it is all that is left, as in a folder that came out of a repository.
    """
    numbers = {path: path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*")}
    steps = {path: int(number) for path, number in numbers.items() if number.isdecimal()}
    found = sorted(steps, key=steps.__getitem__, reverse=True)
    return next((path for path in (*found, folder / LIGHT) if _is_whole(path)), None)


def _is_whole(checkpoint: Path) -> bool:
    try:
        step_of(checkpoint)
        if (checkpoint / _REWARM).is_file():  # those of early versions have none
            _rewarmed_at(checkpoint)
    except ConfigError:
        return False
    return True


def _rewarmed_at(checkpoint: Path) -> int | None:
    try:
        found = json.loads((checkpoint / _REWARM).read_text("utf-8"))
        return None if found is None else int(found)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{checkpoint} is not a whole checkpoint ({_REWARM}: {error}): give another of the run"
        ) from error


def step_of(checkpoint: Path) -> int:
    """How many updates a checkpoint has behind it.

    Raises:
        ConfigError: it is not one.
    """
    try:
        return int(json.loads((checkpoint / STATE).read_text("utf-8"))["global_step"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{checkpoint} is not a checkpoint ({error}): give a folder checkpoint-STEP or light of a run"
        ) from error


def forget_lines_behind(path: Path, step: int) -> list[dict[str, Any]]:
    """The lines of a metrics file, without those that a killed run wrote after its last checkpoint.

    They are dropped from the file, and so is one that the kill left unfinished.
    """
    if not path.is_file():
        return []
    *lines, _unfinished = path.read_bytes().split(b"\n")  # which may end within a character
    kept = [line for line in map(json.loads, lines) if line["step"] <= step]
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
    return kept


def _make_light(checkpoint: Path, light: Path) -> None:
    partial = light.with_name(f".{light.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(checkpoint, partial, ignore=shutil.ignore_patterns("optimizer*", "scheduler*"))
    for weights in partial.glob("*.safetensors"):
        _halve(weights)
    shutil.rmtree(light, ignore_errors=True)
    partial.rename(light)


def _halve(path: Path) -> None:
    """Rewrites a file's float32 tensors in float16."""
    with safe_open(path, "pt") as file:
        about = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    halved = {name: t.half() if t.dtype == torch.float32 else t.clone() for name, t in tensors.items()}
    save_file(halved, path, metadata=about)
