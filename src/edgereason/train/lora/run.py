"""A LoRA training from end to end: traces and a recipe in, a bundle and its record out.

::

    FOLDER of a training
      recipe.toml                               the resolved recipe
      checkpoint-…, light/, metrics.jsonl       see `loop.py`
      adapter/                                  what was learned, for PEFT
      bundle/                                   what ships: `ask` and `eval` take the folder
      record.json                               what went in and what came out

Loss is the negative log-likelihood of what the model is to say itself: thinking, closing, answer and end of
turn. Opening and hint are given. A run that was stopped or killed continues at its last checkpoint. From
`finish` on, a training with GRPO ends in the same way.

Source: paper section 3. Deviation: masked (section 4) from the start, and hints in half of the rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, Final, Self

import torch
from transformers import PreTrainedModel

from edgereason.config import TomlTables, read_toml
from edgereason.core.bundle import MANIFEST, Base, Bundle, Part, file_sha256
from edgereason.core.chat import CLOSING, Seams
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import BundleError, ConfigError
from edgereason.hub.catalog import find_by_sha256
from edgereason.hub.local_bases import remember_base
from edgereason.hub.store import converted_folder
from edgereason.quant.gguf_file import CHECKPOINT, Checkpoint, GgufModel
from edgereason.reasoning.model import describe_base
from edgereason.records.context import RunContext
from edgereason.records.folder import RECIPE, RunFolder, differences_but
from edgereason.train.data.parallel import Stopped
from edgereason.train.lora.adapters import (
    CONFIG,
    LoraSettings,
    adapter_sha256,
    export_adapter,
    grid_for,
    import_adapter,
    load_adapter,
    new_adapter,
    save_adapter,
    settings_of,
)
from edgereason.train.lora.checkpoints import last_checkpoint, require_launch, step_of
from edgereason.train.lora.examples import Encoder, Examples, Fitting, HintConfig, read_examples
from edgereason.train.lora.loop import METRICS, MaskedTrainer, TrainConfig
from edgereason.train.lora.masked_lora import MaskedLora
from edgereason.train.lora.tokens import TokenFile, Tokens, tokenize
from edgereason.train.quant.load import load_torch

FORMAT: Final = "edgereason-sft"
ADAPTER: Final = "adapter"
BASE_FILE: Final = "base_file"
"""Table of a folder's recipe with the base's hash; folders of earlier versions lack it."""


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
        name: of the same file; None for the recipe's. `--base` may give another file than the recipe names.
        checkpoint: that the GGUF was converted from, or made from; None for another.
    """

    model: PreTrainedModel
    sha256: str
    opening: Sequence[int]
    name: str | None = None
    checkpoint: Checkpoint | None = None

    @classmethod
    def of(cls, gguf: GgufModel, base: Base, opening: Sequence[int]) -> Self:
        """The model of a file, named as the catalogue does if it knows the file."""
        known = find_by_sha256(base.sha256)
        model = load_torch(gguf, base.sha256, converted_folder())
        name = base.name if known is None else known.name
        return cls(model, base.sha256, opening, name, gguf.checkpoint)

    def entry(self, name: str) -> dict[str, Any]:
        """What a record says of it, under the recipe's name if it has none of its own."""
        origin = {"checkpoint": self.checkpoint.to_record()} if self.checkpoint else {}
        return {"name": self.name or name, "sha256": self.sha256} | origin


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
    examples: Examples,
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
        TrainingError: a loss that is not finite; the last checkpoint is whole.
    """
    require_launch()
    if recipe.base.sha256 not in (None, base.sha256):
        raise ConfigError(f"the recipe is for the base {recipe.base.sha256}, this one is {base.sha256}")
    config = recipe.training
    kept = Fitting.of(examples, config.max_tokens)
    if len(kept) < config.batch_rows:
        raise ConfigError(
            f"{len(kept)} of {len(examples)} examples are at most {config.max_tokens} tokens long, and an "
            f"update takes {config.batch_rows}: give more, or lower [training] batch_rows"
        )
    left = [one for one in recipe.hints.buckets if one not in kept.buckets]
    if left and process_number() == 0:  # one process speaks for all of them
        context.notice(
            f"no example announces the [hints] buckets {left}: the bundle will not announce them either"
        )
    if resume is not None and last_checkpoint(folder) is None:
        _require_steps_left(resume, config.epochs * -(-len(kept) // config.batch_rows))
    if config.dtype == "bfloat16":
        base.model.to(torch.bfloat16)
    model = new_adapter(base.model, recipe.lora, config.seed)
    if start is not None:
        load_adapter(model, start, base_sha256=base.sha256)
    if config.checkpoint_activations:
        base.model.activation_checkpointing_enable({"use_reentrant": False})

    base_name = base.name or recipe.base.name

    def save(target: Path, weights: dict[str, Any] | None = None) -> None:
        gathered = weights and {name.removeprefix("model."): tensor for name, tensor in weights.items()}
        save_adapter(
            model,
            target,
            base_name=base_name,
            base_sha256=base.sha256,
            opening=base.opening,
            weights=gathered or None,
            checkpoint=base.checkpoint,
        )

    trainer = MaskedTrainer(
        MaskedLora(model, cached_bytes=config.cached_prompt_bytes),
        kept,
        folder,
        config,
        save=save,
        load=lambda source: load_adapter(model, source, base_sha256=base.sha256),
        report=lambda step: context.progress("training", step.step, step.steps, f"loss {step.loss:.4f}"),
        should_stop=context.should_stop,
    )
    run = RunFolder(folder, "training")
    free = config.free_settings(
        dropout=recipe.lora.dropout, num_rows=len(kept), num_processes=trainer.args.world_size
    )
    with trainer.args.main_process_first():
        run.claim(RECIPE, _depends_on(recipe, base, kept, start), differences_but(free, {BASE_FILE}))
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
        "base": base.entry(recipe.base.name),
        "start": start and adapter_sha256(start),
        "num_examples": len(kept),
        "num_too_long": kept.num_too_long,
        "buckets": list(kept.buckets),
        "num_hinted": kept.num_hinted,
        "response_tokens_mean": int(kept.response_tokens.sum()) / len(kept),
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


def _require_steps_left(resume: Path, steps: int) -> None:
    if (step := step_of(resume)) >= steps:
        raise ConfigError(
            f"{resume} has {step} updates behind it, and the recipe makes {steps}: raise [training] epochs, "
            "or begin with that run's adapter (--from)"
        )


def _depends_on(recipe: SftRecipe, base: TorchBase, examples: Fitting, start: Path | None) -> dict[str, Any]:
    tables = recipe.to_tables() | {"examples": {"sha256": examples.sha256}}
    tables[BASE_FILE] = {"sha256": base.sha256}
    return tables | ({"start": {"sha256": adapter_sha256(start)}} if start else {})


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
        ConfigError: settings, data or folder can't be used.
        BundleError: an adapter or a base that doesn't fit.
        TrainingError: a loss that is not finite; the last checkpoint is whole.
    """
    require_launch()
    path = context.fetch(recipe.base.name)
    with LlamaEngine(path) as engine:
        encoder, base = Encoder.of(engine), describe_base(engine, path)
        try:
            files = [tokenize(file, encoder, base, context) for file in traces]
        except Stopped:
            return None
        rows: Examples = Tokens(files, encoder, recipe.hints)
        if examples is not None:
            file = read_examples(examples)
            file.require(encoder, base, recipe.hints)
            rows = file.examples
        opening = encoder.seams.opening
    for found in files:
        if found.left_out.counts and process_number() == 0:
            context.notice(found.left_out.notice(found.name))
    torch.set_num_threads(context.num_threads)
    gguf = GgufModel(path)
    with nullcontext() if start is None else trainable(start, gguf, base) as adapter:
        torch_base = TorchBase.of(gguf, base, opening)
        record = sft(recipe, torch_base, rows, folder, context, start=adapter, resume=resume)
    if not record:
        return record
    record["traces"] = [_entry(one) for one in files]
    if examples is not None:
        record["traces"].append({"name": examples.name, "sha256": file_sha256(examples)})
    record |= started_from(start)
    return finish(folder, record, path, base, opening, context)


def _entry(file: TokenFile) -> dict[str, Any]:
    """What a record says of a file of traces."""
    counts = dict(sorted(file.left_out.counts.items()))
    return {"name": file.name, "sha256": file.sha256} | ({"left_out": counts} if counts else {})


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
    buckets, calculates = tuple(record["buckets"]), _calculates(record.get("recipe", {}))
    record |= {"adapter": write_bundle(folder, base_path, base, opening, buckets, calculator=calculates)}
    return run_folder.write(record | context.about())


def write_bundle(
    folder: Path,
    base_path: Path,
    base: Base,
    opening: tuple[int, ...],
    buckets: tuple[int, ...],
    *,
    calculator: bool = False,
) -> dict[str, Any]:
    """Exports the adapter and puts a manifest beside it, so that `ask` and `eval` take the folder."""
    bundle, source = folder / BUNDLE, folder / ADAPTER
    bundle.mkdir(exist_ok=True)
    target = bundle / "reasoning.gguf"
    grid = grid_for(settings_of(source).rank)
    gguf = GgufModel(base_path)
    export_adapter(source, gguf, target, base_sha256=base.sha256, grid=grid)
    part = Part(file=target.name, sha256=file_sha256(target))
    Bundle(
        folder=bundle,
        base=base,
        opening_ids=opening,
        closing=CLOSING,
        buckets=buckets,
        calculator=calculator,
        adapter=part,
        provenance={CHECKPOINT: gguf.checkpoint.to_record()} if gguf.checkpoint else {},
    ).write()
    remember_base(base_path, base.sha256)
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
        calculates = _calculates(recipe)
        if (record := RunFolder(folder, "training").record()) is not None:
            buckets = tuple(record.get("buckets", buckets))  # it knows which of them examples announced
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{folder} holds no recipe of a training: {error}") from error
    path = context.fetch(name)
    with LlamaEngine(path) as engine:
        base, opening = describe_base(engine, path), Seams.of(engine.tokenize).opening
    return write_bundle(folder, path, base, opening, buckets, calculator=calculates)


def _calculates(recipe: Mapping[str, Any]) -> bool:
    """Whether what was drawn had exact results forced: the bundle then forces them, too."""
    return bool(recipe.get("training", {}).get("calculator"))


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
