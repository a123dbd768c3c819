"""A recipe carried out: teacher in, base out, and what was learned beside it.

::

    DIR/
      recipe.toml              the resolved recipe
      progress.jsonl           what it diverged before, then a line for every step of training
      checkpoint.safetensors   while it is not finished
      learned.gguf             what was learned: with the teacher it gives the base again, anywhere
      base.gguf

A run that was stopped or killed goes on where its checkpoint is. Which bytes come out is decided by recipe,
teacher, text and the arithmetic of training: number of threads, processor family and torch version change
the last bits of sums, and with them what is learned. What is *made* from it (`quant/apply.py`) does not vary.

Knows the order of work; does not know terminals, tokenizers or machines.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import tomli_w
import torch
from transformers import PreTrainedModel

from edgereason.core.bundle import file_sha256, write_atomically
from edgereason.errors import BundleError, ConfigError
from edgereason.quant.apply import apply, require_blocks
from edgereason.quant.gguf_file import GgufModel
from edgereason.quant.learned import Learned
from edgereason.quant.merge import check_fit
from edgereason.records.lock import is_vacant
from edgereason.train.quant.checkpoint import Checkpoint
from edgereason.train.quant.end_to_end import (
    Ids,
    StepReport,
    divergence,
    draw_windows,
    require_text,
    train,
)
from edgereason.train.quant.load import load_torch
from edgereason.train.quant.local import pre_optimise
from edgereason.train.quant.memory import keep_freed_memory
from edgereason.train.quant.recipe import Recipe
from edgereason.train.quant.student import Student

FORMAT: Final = "edgereason-quantize"
RECIPE: Final = "recipe.toml"
PROGRESS: Final = "progress.jsonl"
LEARNED: Final = "learned.gguf"
BASE: Final = "base.gguf"
_CHECKPOINT: Final = "checkpoint.safetensors"
_HELD_OUT: Final = 4
"""Windows of text that are never trained on: the divergence from the teacher is measured there."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage is; `note` says what a person may want to see, such as the loss."""

    stage: str
    done: int
    total: int
    note: str = ""


def quantize(
    recipe: Recipe,
    teacher: Path,
    texts: Sequence[Ids],
    folder: Path,
    *,
    cache: Path,
    threads: int,
    report: Callable[[Progress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """Makes a base, or goes on with what `folder` holds.

    Args:
        recipe: what to do.
        teacher: GGUF whose weights are to be quantized.
        texts: calibration text as ids, one array for each file; each gives an equal share of the windows.
        folder: for everything that comes out; made if it is not there.
        cache: folder of converted teachers.
        threads: CPU threads.
        report: told how far it is.
        should_stop: once true, a checkpoint is left and None returned.

    Returns:
        What was done, in plain values, for a record; None if it was stopped.

    Raises:
        BundleError: another teacher than the recipe's.
        ConfigError: too little text, a folder with another run, or settings that don't fit the model.
        ModelFileError: the teacher can't be read or cut into blocks.
    """
    keep_freed_memory()
    torch.set_num_threads(threads)
    teacher_sha256 = file_sha256(teacher)
    expected = recipe.base.teacher_sha256
    if expected not in (None, teacher_sha256):
        raise BundleError(
            f"{teacher.name} has SHA-256 {teacher_sha256}, the recipe is for {expected}: give that teacher"
        )
    model = GgufModel(teacher)
    require_blocks(model.dims)
    config = recipe.end_to_end
    if config.steps:
        require_text(texts, config, _HELD_OUT)
    _open_folder(folder, recipe)

    record: dict[str, Any] = {"format": FORMAT, "name": recipe.base.name, "recipe_sha256": recipe.sha256}
    learned = Learned(name=recipe.base.name, teacher_sha256=teacher_sha256, storage=recipe.storage)
    check_fit(model, learned)
    if recipe.learns:
        report(Progress("loading the teacher", 0, 1))
        with_torch = load_torch(model, teacher_sha256, cache)
        outcome = _learn(recipe, model, with_torch, teacher_sha256, texts, folder, report, should_stop)
        if outcome is None:
            return None
        tensors, figures = outcome
        learned = replace(learned, tensors=tensors)
        record |= figures
    learned.write(folder / LEARNED)
    apply(
        teacher,
        learned,
        folder / BASE,
        progress=lambda done, total: report(Progress("merging and packing", done, total)),
    )
    (folder / _CHECKPOINT).unlink(missing_ok=True)
    return record | {
        "teacher": {"name": teacher.name, "sha256": teacher_sha256, "size_bytes": teacher.stat().st_size},
        "learned": _entry(folder / LEARNED),
        "base": _entry(folder / BASE),
        "recipe": recipe.to_tables(),
        "threads": threads,
        "torch": torch.__version__,
    }


def _learn(
    recipe: Recipe,
    model: GgufModel,
    teacher: PreTrainedModel,
    teacher_sha256: str,
    texts: Sequence[Ids],
    folder: Path,
    report: Callable[[Progress], None],
    should_stop: Callable[[], bool],
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]] | None:
    """What was learned, and figures of it; None if it was stopped."""
    config, seed = recipe.end_to_end, recipe.base.seed
    torch.manual_seed(seed)
    student = Student(
        teacher, model.dims, recipe.storage, recipe.transforms, recipe.corrections, kv8=recipe.base.kv8
    )
    identity = hashlib.sha256(f"{recipe.sha256}/{teacher_sha256}".encode())
    for text in texts:
        identity.update(text.tobytes())
    checkpoint = Checkpoint(folder / _CHECKPOINT, identity.hexdigest())
    figures: dict[str, Any] = {"num_tokens": config.num_tokens}

    if not checkpoint.exists:
        pre_optimise(
            student,
            recipe.local,
            seed,
            lambda step, loss: report(
                Progress("pre-optimising", step, recipe.local.steps, f"unevenness {loss:.4f}")
            ),
            should_stop,
        )
        if should_stop():
            return None  # minutes of work, done again
    if not config.steps:
        return student.learned(), figures

    windows = draw_windows(texts, config.window_tokens, config.steps * config.windows + _HELD_OUT, seed)
    held_out = windows[-_HELD_OUT:]

    def on_step(step: StepReport) -> None:
        _append(folder / PROGRESS, asdict(step))
        report(Progress("training", step.step, step.steps, f"JSD {step.loss:.5f}"))

    if checkpoint.exists:
        _keep(folder / PROGRESS, checkpoint.step)
    else:
        student.refresh()
        report(Progress("measuring", 0, 1))
        before = divergence(student, teacher, held_out, config.dtype)
        write_atomically(folder / PROGRESS, "")
        _append(folder / PROGRESS, {"step": 0, "held_out_jsd": before})
    finished = train(
        student,
        teacher,
        windows[:-_HELD_OUT],
        config,
        checkpoint=checkpoint,
        report=on_step,
        should_stop=should_stop,
    )
    if not finished:
        return None
    student.refresh()
    figures["jsd_before"] = _lines(folder / PROGRESS)[0].get("held_out_jsd")
    figures["jsd_after"] = divergence(student, teacher, held_out, config.dtype)
    return student.learned(), figures


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _keep(path: Path, step: int) -> None:
    """Drops the lines of steps that will be made again."""
    kept = [line for line in _lines(path) if line["step"] <= step]
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))


def _open_folder(folder: Path, recipe: Recipe) -> None:
    """Makes the folder, or finds that it is this recipe's.

    Raises:
        ConfigError: it holds something else, or can't be written.
    """
    path, text = folder / RECIPE, tomli_w.dumps(recipe.to_tables())
    if path.is_file():
        if path.read_text("utf-8") != text:
            raise ConfigError(f"{folder} holds another recipe's run: quantize into a new folder (-o)")
        return
    try:
        if not is_vacant(folder, RECIPE):
            raise ConfigError(f"{folder} holds something else: quantize into a new folder (-o)")
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise ConfigError(f"{folder} can't be written: {error.strerror}") from error


def _entry(path: Path) -> dict[str, Any]:
    return {"name": path.name, "sha256": file_sha256(path), "size_bytes": path.stat().st_size}
