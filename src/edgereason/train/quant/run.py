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
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from transformers import PreTrainedModel

from edgereason.core.bundle import file_sha256, write_atomically
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import BundleError
from edgereason.hub.store import converted_folder
from edgereason.quant.apply import apply, require_blocks
from edgereason.quant.gguf_file import GgufModel
from edgereason.quant.learned import Learned
from edgereason.quant.merge import check_fit
from edgereason.records.context import RunContext
from edgereason.records.folder import RECIPE, RunFolder, file_entry
from edgereason.train.quant.calibration import CalibrationText, read_calibration
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
_HOLDS: Final = "quantization"
PROGRESS: Final = "progress.jsonl"
LEARNED: Final = "learned.gguf"
BASE: Final = "base.gguf"
_CHECKPOINT: Final = "checkpoint.safetensors"
_HELD_OUT: Final = 4
"""Windows of text that are never trained on: the divergence from the teacher is measured there."""


def run(
    recipe: Recipe,
    model: str,
    folder: Path,
    context: RunContext = RunContext(),
    *,
    text: Sequence[Path] = (),
) -> dict[str, Any] | None:
    """Makes a base with its record, or goes on with what `folder` holds.

    Args:
        recipe: what to do.
        model: name or file of the teacher.
        folder: for everything that comes out; made if it is not there.
        context: stopped, a checkpoint is left.
        text: what the base learns from: .txt, .raw, or rows with text, messages, or question and solution.

    Returns:
        The record; None if it was stopped.

    Raises:
        BundleError: another teacher than the recipe's.
        ConfigError: too little text, a folder with another run, or settings that don't fit the model.
        ModelFileError: the teacher can't be read or cut into blocks.
    """
    teacher = context.fetch(model)
    texts: list[CalibrationText] = []
    if recipe.end_to_end.steps and text:
        with LlamaEngine(teacher) as engine:
            texts = read_calibration(engine, text)
    record = quantize(recipe, teacher, [one.ids for one in texts], folder, context)
    if record is None:
        return None
    record |= {"text": [{"name": one.name, "sha256": one.sha256} for one in texts]}
    return RunFolder(folder, _HOLDS).write(record | context.about())


def quantize(
    recipe: Recipe,
    teacher: Path,
    texts: Sequence[Ids],
    folder: Path,
    context: RunContext = RunContext(),
) -> dict[str, Any] | None:
    """Makes a base, or goes on with what `folder` holds.

    Args:
        recipe: what to do.
        teacher: GGUF whose weights are to be quantized.
        texts: calibration text as ids, one array for each file; each gives an equal share of the windows.
        folder: for everything that comes out; made if it is not there.
        context: stopped, a checkpoint is left and None returned.

    Returns:
        What was done, in plain values, for a record; None if it was stopped.

    Raises:
        BundleError: another teacher than the recipe's.
        ConfigError: too little text, a folder with another run, or settings that don't fit the model.
        ModelFileError: the teacher can't be read or cut into blocks.
    """
    keep_freed_memory()
    torch.set_num_threads(context.num_threads)
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
    RunFolder(folder, _HOLDS).claim(RECIPE, recipe.to_tables())

    record: dict[str, Any] = {"format": FORMAT, "name": recipe.base.name, "recipe_sha256": recipe.sha256}
    learned = Learned(name=recipe.base.name, teacher_sha256=teacher_sha256, storage=recipe.storage)
    check_fit(model, learned)
    if recipe.learns:
        context.progress("loading the teacher", 0, 1)
        with_torch = load_torch(model, teacher_sha256, converted_folder())
        outcome = _learn(recipe, model, with_torch, teacher_sha256, texts, folder, context)
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
        progress=partial(context.progress, "merging and packing"),
    )
    (folder / _CHECKPOINT).unlink(missing_ok=True)
    return record | {
        "teacher": file_entry(teacher),
        "learned": file_entry(folder / LEARNED),
        "base": file_entry(folder / BASE),
        "recipe": recipe.to_tables(),
        "threads": context.num_threads,
        "torch": torch.__version__,
    }


def _learn(
    recipe: Recipe,
    model: GgufModel,
    teacher: PreTrainedModel,
    teacher_sha256: str,
    texts: Sequence[Ids],
    folder: Path,
    context: RunContext,
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
            lambda step, loss: context.progress(
                "pre-optimising", step, recipe.local.steps, f"unevenness {loss:.4f}"
            ),
            context.should_stop,
        )
        if context.should_stop():
            return None  # minutes of work, done again
    if not config.steps:
        return student.learned(), figures

    windows = draw_windows(texts, config.window_tokens, config.steps * config.windows + _HELD_OUT, seed)
    held_out = windows[-_HELD_OUT:]

    def on_step(step: StepReport) -> None:
        _append(folder / PROGRESS, asdict(step))
        context.progress("training", step.step, step.steps, f"JSD {step.loss:.5f}")

    if checkpoint.exists:
        _keep(folder / PROGRESS, checkpoint.step)
    else:
        student.refresh()
        context.progress("measuring", 0, 1)
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
        should_stop=context.should_stop,
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
