"""A LoRA training from end to end: traces and a recipe in, a bundle and its record out.

::

    FOLDER of a training
      recipe.toml, checkpoint-…, light/, metrics.jsonl     see `sft.py` and `loop.py`
      adapter/                                             what was learned, for PEFT
      bundle/                                              what ships: `ask` and `eval` take the folder
      record.json                                          what went in and what came out

The end of a training, from `finish` on, is the same after GRPO.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch

from edgereason.config import read_toml
from edgereason.core.bundle import MANIFEST, Base, Bundle, Part, file_sha256
from edgereason.core.chat import CLOSING, Seams
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import BundleError, ConfigError
from edgereason.hub.store import converted_folder
from edgereason.quant.gguf_file import GgufModel
from edgereason.reasoning.model import describe_base
from edgereason.records.context import RunContext
from edgereason.records.folder import RECIPE, RunFolder
from edgereason.train.data.traces import read_traces
from edgereason.train.lora.adapters import export_adapter, grid_for, import_adapter, settings_of
from edgereason.train.lora.examples import Encoder, announced, fitting, read_examples
from edgereason.train.lora.sft import ADAPTER, SftRecipe, TorchBase, sft
from edgereason.train.quant.load import load_torch

BUNDLE: Final = "bundle"


def process_number() -> int:
    """Of this process, among those that train together."""
    return int(os.environ.get("RANK", "0"))


def run(
    recipe: SftRecipe,
    folder: Path,
    context: RunContext = RunContext(),
    *,
    traces: Sequence[Path] = (),
    examples: Path | None = None,
    start: Path | None = None,
    resume: Path | None = None,
) -> dict[str, Any] | None:
    """Carries a recipe out, or goes on with what `folder` holds, down to bundle and record.

    Args:
        recipe: what to do.
        folder: for everything that comes out; made if it is not there.
        context: stopped, it leaves a checkpoint.
        traces: JSONL of `edgereason train traces`.
        examples: a file of examples in ids instead, such as `edgereason train shortest` writes.
        start: folder of a training, or a bundle, whose adapter learns more.
        resume: a light checkpoint of another folder to go on from.

    Returns:
        The record, empty in all processes but the first; None if it was stopped.

    Raises:
        ConfigError: settings, data or folder are no good.
        BundleError: an adapter or a base that doesn't fit.
        TrainingError: a loss that is not finite; the last checkpoint is whole.
    """
    path = context.fetch(recipe.base.name)
    with LlamaEngine(path) as engine:
        encoder, base = Encoder.of(engine), describe_base(engine, path)
        rows = [encoder.encode(row, recipe.hints) for file in traces for row in read_traces(file)]
        if examples is not None:
            file = read_examples(examples)
            file.require(encoder, base, recipe.hints)
            rows = file.examples
        opening = encoder.seams.opening
    trained = announced(fitting(rows, recipe.training.max_tokens)[0])
    if left := [one for one in recipe.hints.buckets if one not in trained]:
        context.notice(
            f"no example announces the [hints] buckets {left}: the bundle will not announce them either"
        )
    torch.set_num_threads(context.num_threads)
    gguf = GgufModel(path)
    with nullcontext() if start is None else trainable(start, gguf, base) as adapter:
        torch_base = TorchBase(load_torch(gguf, base.sha256, converted_folder()), base.sha256, opening)
        record = sft(recipe, torch_base, rows, folder, context, start=adapter, resume=resume)
    if not record:
        return record
    read = [*traces, *([] if examples is None else [examples])]
    record |= {"traces": [{"name": one.name, "sha256": file_sha256(one)} for one in read]}
    record |= started_from(start)
    return finish(folder, record, path, base, opening, context)


def finish(
    folder: Path,
    record: dict[str, Any],
    base_path: Path,
    base: Base,
    opening: tuple[int, ...],
    context: RunContext,
) -> dict[str, Any]:
    """Puts bundle and record beside a trained adapter, or leaves those of a run that was finished before.

    Args:
        folder: of the training.
        record: what it says of itself; its `buckets` are those that the bundle announces.
        base_path: of the base.
        base: for the manifest, as the ids of the opening are.
        context: of the run.

    Returns:
        The record that is there now.
    """
    run_folder = RunFolder(folder, "training")
    if (found := run_folder.record()) is not None:
        # This call's date and machine trained nothing, and the bundle may have heads by now.
        return found
    record |= {"adapter": write_bundle(folder, base_path, base, opening, tuple(record["buckets"]))}
    return run_folder.write(record | context.about())


def write_bundle(
    folder: Path, base_path: Path, base: Base, opening: tuple[int, ...], buckets: tuple[int, ...]
) -> dict[str, Any]:
    """Exports the adapter and puts a manifest beside it, so that `ask` and `eval` take the folder."""
    bundle, source = folder / BUNDLE, folder / ADAPTER
    bundle.mkdir(exist_ok=True)
    target = bundle / "reasoning.gguf"
    grid = grid_for(settings_of(source).rank)
    export_adapter(source, GgufModel(base_path), target, base_sha256=base.sha256, grid=grid)
    part = Part(file=target.name, sha256=file_sha256(target))
    Bundle(
        folder=bundle, base=base, opening_ids=opening, closing=CLOSING, buckets=buckets, adapter=part
    ).write()
    return {"sha256": part.sha256, "size_bytes": target.stat().st_size, "grid": str(grid)}


def export(folder: Path, context: RunContext = RunContext()) -> dict[str, Any]:
    """Makes the bundle of a trained adapter, for the folder of a run on another machine.

    Returns:
        What a record says of the adapter.

    Raises:
        ConfigError: the folder holds no recipe of SFT or GRPO.
    """
    recipe = read_toml(folder / RECIPE)
    try:
        budgets = recipe["budgets"] if "budgets" in recipe else recipe["hints"]  # of GRPO, or of SFT
        name, buckets = recipe["base"]["name"], tuple(budgets["buckets"])
        if (record := RunFolder(folder, "training").record()) is not None:
            buckets = tuple(record.get("buckets", buckets))  # it knows which of them examples announced
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{folder} holds no recipe of a training: {error}") from error
    path = context.fetch(name)
    with LlamaEngine(path) as engine:
        base, opening = describe_base(engine, path), Seams.of(engine.tokenize).opening
    return write_bundle(folder, path, base, opening, buckets)


def shipped(start: Path) -> tuple[Bundle, Part]:
    """The bundle at `start`, or of the training there, and its adapter.

    Raises:
        BundleError: there is none.
    """
    bundle = Bundle.read(start if (start / MANIFEST).is_file() else start / BUNDLE)
    if bundle.adapter is None:
        raise BundleError(f"{start} has a bundle without an adapter: give the folder of a training")
    return bundle, bundle.adapter


def started_from(start: Path | None) -> dict[str, str]:
    """What a record says of the adapter that a training began with, so that a bundle can tell its history.

    Returns:
        Its hash as it ships, under `started_from`; nothing for a new adapter, or one that was never exported.
    """
    if start is None or not any((folder / MANIFEST).is_file() for folder in (start, start / BUNDLE)):
        return {}
    _, part = shipped(start)
    return {"started_from": part.sha256}


@contextmanager
def trainable(start: Path, base: GgufModel, about_base: Base) -> Iterator[Path]:
    """The folder of PEFT's adapter at `start`; a bundle's is unpacked as it ships, and goes with the context.

    Raises:
        BundleError: there is none, or it is for another base.
    """
    if not (start / MANIFEST).is_file():
        yield start / ADAPTER
        return
    bundle, part = shipped(start)
    bundle.check_base(about_base)
    with TemporaryDirectory() as folder:
        import_adapter(
            bundle.verified_file(part),
            base,
            Path(folder),
            base_name=about_base.name,
            base_sha256=about_base.sha256,
            opening=bundle.opening_ids,
        )
        yield Path(folder)
