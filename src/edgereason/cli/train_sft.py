"""`edgereason train sft`: teach a base to think, and make a bundle of what it learned.

Owns the options, the display and the folder's bundle. Does not know how an adapter is trained.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edgereason.cli.terminal.progress import Show
    from edgereason.train.lora.loop import StepReport
    from edgereason.train.lora.sft import SftRecipe


def sft(
    recipe: Annotated[Path, typer.Argument(help="TOML file of the recipe; see configs/sft-*.toml.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for adapter, bundle and record.")],
    traces: Annotated[
        list[Path] | None, typer.Option(help="JSONL of `edgereason train traces`; repeatable.")
    ] = None,
    examples: Annotated[
        Path | None, typer.Option(help="Examples in ids instead, as `edgereason train shortest` writes them.")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Folder of a training, or a bundle, whose adapter learns more."),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="A name of `edgereason models`, or a GGUF file. [the recipe's]")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="A light checkpoint of another folder to go on from.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. [all]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record.")] = False,
) -> None:
    """Fine-tune a reasoning adapter on traces, with the adapter off on prompts.

    Stopped or killed, the same command goes on. Runs in several processes under `accelerate launch`.
    """
    from edgereason.cli.terminal.interrupt import stop_on_interrupt
    from edgereason.cli.terminal.progress import progress_display

    if (traces is None) == (examples is None):
        raise typer.BadParameter("say which: --traces, or --examples in ids")
    require_training()
    from edgereason.train.lora.sft import SftRecipe

    plan = SftRecipe.read(recipe)
    with stop_on_interrupt() as should_stop, progress_display() as show:
        record = learn(
            plan,
            traces or [],
            output,
            examples_file=examples,
            start=start,
            base=base,
            resume=resume,
            threads=threads,
            show=show,
            should_stop=should_stop,
        )
    if record is None:
        typer.echo(f"stopped; the same command goes on from {output}", err=True)
        raise typer.Exit(130)
    if not is_first_process():
        return
    size_bytes = record["adapter"]["size_bytes"]
    typer.echo(
        json.dumps(record, ensure_ascii=False)
        if as_json
        else f"{output / 'bundle'}: adapter of {size_bytes / 1e6:.1f} MB, {record['steps']} steps"
    )


def require_training() -> None:
    """Refuses to begin where what training needs is not installed."""
    from edgereason.data.rows import import_optional

    for package in ("torch", "transformers", "safetensors", "peft", "accelerate"):
        import_optional(package, "adapters are trained", extra="train")


def process_number() -> int:
    """Of this process, among those that train together."""
    return int(os.environ.get("RANK", "0"))


def is_first_process() -> bool:
    """Whether this process speaks for all that train together."""
    return process_number() == 0


def learn(
    plan: SftRecipe,
    traces: list[Path],
    folder: Path,
    *,
    examples_file: Path | None = None,
    start: Path | None = None,
    base: str | None = None,
    resume: Path | None = None,
    threads: int | None,
    show: Show,
    should_stop: Callable[[], bool],
) -> dict[str, Any] | None:
    """Carries a recipe out in `folder`, down to bundle and record; the record, or None if it was stopped."""
    import torch

    from edgereason.cli.pull import fetch
    from edgereason.core.bundle import file_sha256
    from edgereason.core.machine import usable_cores
    from edgereason.engine.llama import LlamaEngine
    from edgereason.hub.store import models_folder
    from edgereason.quant.gguf_file import GgufModel
    from edgereason.reasoning.model import describe_base
    from edgereason.train.data.traces import read_traces
    from edgereason.train.lora.examples import Encoder, announced, fitting, read_examples
    from edgereason.train.lora.finish import finish
    from edgereason.train.lora.sft import sft as carry_out
    from edgereason.train.lora.start import started_from, trainable
    from edgereason.train.quant.load import load_torch

    path = fetch(base or plan.base.name)
    with LlamaEngine(path) as engine:
        encoder, about_base = Encoder.of(engine), describe_base(engine, path)
        examples = [encoder.encode(row, plan.hints) for file in traces for row in read_traces(file)]
        if examples_file is not None:
            file = read_examples(examples_file)
            file.require(encoder, about_base, plan.hints)
            examples = file.examples
        opening = encoder.seams.opening
    trained = announced(fitting(examples, plan.training.max_tokens)[0])
    if is_first_process() and (left := [one for one in plan.hints.buckets if one not in trained]):
        typer.echo(
            f"no example announces the [hints] buckets {left}: the bundle will not announce them either",
            err=True,
        )
    torch.set_num_threads(threads or usable_cores())
    gguf = GgufModel(path)
    loaded = load_torch(gguf, about_base.sha256, models_folder().parent / "converted")
    with nullcontext() if start is None else trainable(start, gguf, about_base) as adapter:
        record = carry_out(
            plan,
            loaded,
            about_base.sha256,
            examples,
            opening,
            folder,
            start=adapter,
            resume=resume,
            report=_reporter(show),
            should_stop=should_stop,
        )
    if record is None or not is_first_process():
        return record
    read = [*traces, *([] if examples_file is None else [examples_file])]
    record |= {"traces": [{"name": file.name, "sha256": file_sha256(file)} for file in read]}
    return finish(
        folder, record | started_from(start), path, about_base, opening, tuple(record["buckets"]), threads
    )


def export(
    folder: Annotated[
        Path, typer.Argument(help="Folder of `edgereason train sft`, of this machine or another.")
    ],
    base: Annotated[
        str | None, typer.Option(help="A name of `edgereason models`, or a GGUF file. [the recipe's]")
    ] = None,
) -> None:
    """Make a bundle of a trained adapter: what `train sft` does at its end, for runs of other machines."""
    from edgereason.cli.pull import fetch
    from edgereason.config import read_toml
    from edgereason.core.chat import Seams
    from edgereason.data.rows import import_optional
    from edgereason.engine.llama import LlamaEngine
    from edgereason.errors import ConfigError
    from edgereason.reasoning.model import describe_base
    from edgereason.train.lora.finish import write_bundle

    for package in ("torch", "transformers", "safetensors", "peft"):
        import_optional(package, "adapters are exported", extra="train")
    from edgereason.train.lora.sft import RECIPE

    recipe = read_toml(folder / RECIPE)
    try:
        budgets = recipe["budgets"] if "budgets" in recipe else recipe["hints"]  # of `train grpo`, or of ours
        name, buckets = base or recipe["base"]["name"], tuple(budgets["buckets"])
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{folder / RECIPE} is no recipe of `edgereason train sft`: no {error}") from error
    if (record := folder / "record.json").is_file():  # it knows which of them examples announced
        try:
            buckets = tuple(json.loads(record.read_text("utf-8")).get("buckets", buckets))
        except (ValueError, AttributeError, TypeError) as error:
            raise ConfigError(f"{record} is no record of a training: {error}") from error
    path = fetch(name)
    with LlamaEngine(path) as engine:
        about_base, opening = describe_base(engine, path), Seams.of(engine.tokenize).opening
    bundle = write_bundle(folder, path, about_base, opening, buckets)
    typer.echo(f"{folder / 'bundle'}: adapter of {bundle['size_bytes'] / 1e6:.1f} MB")


def _reporter(show: Show) -> Callable[[StepReport], None]:
    """Shows steps with the loss and the time left."""
    from edgereason.cli.terminal.progress import timed

    loss = 0.0
    counted = timed(lambda done, total, left: show(done, total, f"loss {loss:.4f}, {left}"))

    def report(step: StepReport) -> None:
        nonlocal loss
        loss = step.loss
        counted(step.step, step.steps)

    return report
