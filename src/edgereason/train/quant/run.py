"""Quantizing from end to end: a model, a recipe and text in, a 4-bit base and its record out.

::

    FOLDER/
      recipe.toml              the resolved recipe
      learned.gguf, base.gguf  what was learned about the teacher, and the base that it makes
      progress.jsonl           a line for each step of training
      checkpoint.safetensors   while training goes on
      record.json              what went in and what came out

    .txt, .raw, rows with a `text`          the ids of the text
    rows with `question` and `solution`     the model's own chat template around both
    rows with `messages`                    the same, around all of them

A run that was stopped continues at its checkpoint. Another number of threads changes the last bits of sums,
and with them the weights that are learned.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from edgereason.config import TomlTables
from edgereason.core.bundle import file_sha256, write_atomically
from edgereason.core.types import Message, Stop
from edgereason.data.questions import turns
from edgereason.data.rows import Row, Rows, read_file, read_text
from edgereason.engine.base import Engine
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import BundleError
from edgereason.hub.local_bases import remember_base
from edgereason.hub.store import converted_folder
from edgereason.quant.apply import apply, require_blocks
from edgereason.quant.gguf_file import CHECKPOINT, GgufModel
from edgereason.quant.learned import Learned, StorageConfig
from edgereason.quant.merge import check_fit
from edgereason.records.context import RunContext
from edgereason.records.folder import RECIPE, RunFolder, differences_but, file_entry
from edgereason.train.quant.checkpoint import Checkpoint
from edgereason.train.quant.end_to_end import (
    DistillStep,
    EndToEndConfig,
    Ids,
    LocalConfig,
    divergence,
    draw_windows,
    pre_optimise,
    require_text,
    train,
)
from edgereason.train.quant.load import load_torch
from edgereason.train.quant.student import CorrectionConfig, Student
from edgereason.train.quant.transforms import TransformConfig


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """The ids of one file, and which file it is: its name, not its path."""

    name: str
    sha256: str
    ids: npt.NDArray[np.int64]


def read_calibration(engine: Engine, paths: Sequence[Path]) -> list[CalibrationText]:
    """Each file's ids, one text or conversation behind the other.

    Raises:
        ConfigError: a file can't be read, or a row has neither a text nor a question with a solution.
    """
    return [_read(engine, path) for path in paths]


def _read(engine: Engine, path: Path) -> CalibrationText:
    if path.suffix in (".raw", ".txt"):
        text = read_text(path)
        return CalibrationText(text.name, text.sha256, np.array(engine.tokenize(text.text), np.int64))
    rows = read_file(path)
    assert rows.sha256 is not None
    return CalibrationText(rows.name, rows.sha256, np.concatenate(list(_ids(engine, rows))))


def _ids(engine: Engine, rows: Rows) -> Iterator[npt.NDArray[np.int64]]:
    template = engine.info.template
    end = engine.tokenize(engine.info.eos_text, special=True)
    for row in rows.rows:
        if row.has("text"):
            yield np.array(engine.tokenize(row.text("text")), np.int64)
            continue
        asked, said = _conversation(row)
        # An answer that was cut does not end its turn.
        ending = [] if row.values.get("stop") == Stop.LENGTH else end
        ids = [*template.encode(asked, engine.tokenize), *engine.tokenize(said), *ending]
        yield np.array(ids, np.int64)


def _conversation(row: Row) -> tuple[list[Message], str]:
    """What was asked, and what was said to it last."""
    if not row.has("messages"):
        return [Message(role="user", content=row.text("question"))], row.text("solution")
    *asked, last = turns(row, "messages")
    if last.role != "assistant" or not asked:
        row.fail("messages", "expected to end with what an assistant said to something")
    return asked, last.content


FORMAT: Final = "edgereason-quantize"
PROGRESS: Final = "progress.jsonl"
LEARNED: Final = "learned.gguf"
BASE: Final = "base.gguf"
_CHECKPOINT: Final = "checkpoint.safetensors"
_HELD_OUT: Final = 4
"""Windows of text that are never trained on: the divergence from the teacher is measured there."""

_MALLOC_OPTIONS: Final = {-4: 0, -1: -1, -2: 256 << 20}
"""Of glibc: M_MMAP_MAX never maps, M_TRIM_THRESHOLD never gives back, M_TOP_PAD asks for 256 MB at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedBaseConfig:
    """What the base is made from.

    Attributes:
        name: what it will be called.
        teacher_sha256: of the GGUF that it must be made from; None takes any.
        seed: of everything drawn.
        kv8: train with keys and values simulated as Q8_0.
    """

    name: str
    teacher_sha256: str | None = None
    seed: int = 0
    kv8: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(TomlTables):
    """Everything that decides which bytes a base has, but the teacher's weights and the text.

    ::

        [base]          its name, the teacher's hash, the seed
        [storage]       grids and the rule for scales
        [transforms]    which of the four
        [corrections]   what else is learned
        [local]         data-free pre-optimisation
        [end_to_end]    training against the teacher
    """

    base: QuantizedBaseConfig
    storage: StorageConfig = field(default_factory=StorageConfig)
    transforms: TransformConfig = field(default_factory=TransformConfig)
    corrections: CorrectionConfig = field(default_factory=CorrectionConfig)
    local: LocalConfig = field(default_factory=LocalConfig)
    end_to_end: EndToEndConfig = field(default_factory=EndToEndConfig)

    @property
    def sha256(self) -> str:
        """Of the resolved settings: two files that say the same have the same."""
        return hashlib.sha256(json.dumps(self.to_tables(), sort_keys=True).encode()).hexdigest()

    @property
    def learns(self) -> bool:
        """Whether anything has to be learned; else a rule alone makes the base."""
        some = self.transforms
        return bool(self.end_to_end.steps) or any((some.residual, some.keys, some.values, some.up))


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
    if recipe.end_to_end.steps and not text:
        require_text((), recipe.end_to_end, _HELD_OUT)
    teacher = context.fetch(model)
    texts: list[CalibrationText] = []
    if recipe.end_to_end.steps:
        with LlamaEngine(teacher) as engine:
            texts = read_calibration(engine, text)
    record = quantize(recipe, teacher, [one.ids for one in texts], folder, context)
    if record is None:
        return None
    record |= {"text": [{"name": one.name, "sha256": one.sha256} for one in texts]}
    return RunFolder(folder, "quantization").write(record | context.about())


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
    _keep_freed_memory()
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
    resolved = replace(recipe, base=replace(recipe.base, teacher_sha256=teacher_sha256)).to_tables()
    RunFolder(folder, "quantization").claim(RECIPE, resolved, differences_but((), {"base.teacher_sha256"}))

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
    base = file_entry(folder / BASE)
    remember_base(folder / BASE, base["sha256"])
    if model.checkpoint is not None:  # the base's metadata name it, too
        model.checkpoint.write(folder)
    origin = {CHECKPOINT: model.checkpoint.to_record()} if model.checkpoint else {}
    return record | {
        "teacher": file_entry(teacher) | origin,
        "learned": file_entry(folder / LEARNED),
        "base": base,
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

    def on_step(step: DistillStep) -> None:
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
    """Writes a line whole, or not at all where there is no room for it."""
    text = (json.dumps(line) + "\n").encode()
    with path.open("ab", buffering=0) as file:
        start = file.tell()
        try:
            if file.write(text) < len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            file.truncate(start)
            raise


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines: a killed writer may have left a part of the last one."""
    lines = path.read_text("utf-8", errors="replace").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _keep(path: Path, step: int) -> None:
    """Drops the lines of steps that will be made again."""
    kept = [line for line in _lines(path) if line["step"] <= step]
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))


def _keep_freed_memory() -> None:
    """Memory that is freed is kept for the next tensor, for the rest of the process.

    Every step of training makes and frees thousands of tensors of tens of megabytes. By default glibc maps
    each anew, and the system clears its pages: measured on the 0.5B, 42 of 123 seconds of a step. Elsewhere
    than on glibc nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return
    for option, value in _MALLOC_OPTIONS.items():
        mallopt(option, value)
