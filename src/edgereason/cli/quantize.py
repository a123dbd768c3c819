"""`edgereason quantize`: make a W4 base out of a model, by a recipe.

Owns the options, the display and the record's place. Does not know how a base is made.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgereason.cli.terminal.progress import Show
    from edgereason.train.quant.run import Progress


def quantize(
    model: Annotated[str, typer.Argument(help="A name of `edgereason models`, or a GGUF file: the teacher.")],
    recipe: Annotated[Path, typer.Option(help="TOML file of the recipe; see configs/quantize-*.toml.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for base, record and checkpoint.")],
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="Text, repeatable: .txt, .raw, or rows with text, messages, or question and solution."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. [all]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record.")] = False,
) -> None:
    """Quantize a model to 4 bits: transforms, training against the model itself, exact export.

    Stopped or killed, the same command goes on.
    """
    from edgereason.cli.pull import fetch
    from edgereason.cli.terminal.interrupt import stop_on_interrupt
    from edgereason.cli.terminal.progress import progress_display
    from edgereason.core.bundle import write_atomically
    from edgereason.core.machine import usable_cores
    from edgereason.data.rows import import_optional
    from edgereason.engine.llama import LlamaEngine
    from edgereason.hub.store import models_folder
    from edgereason.records.folder import about, peak_rss_bytes
    from edgereason.train.data.calibration import read_calibration

    for package in ("torch", "transformers", "safetensors"):
        import_optional(package, "models are quantized", extra="quant")
    from edgereason.train.quant.recipe import Recipe
    from edgereason.train.quant.run import quantize as carry_out

    plan = Recipe.read(recipe)
    teacher = fetch(model)
    texts = []
    if plan.end_to_end.steps and text:
        with LlamaEngine(teacher) as engine:
            texts = read_calibration(engine, text)
    with stop_on_interrupt() as should_stop, progress_display() as show:
        record = carry_out(
            plan,
            teacher,
            [one.ids for one in texts],
            output,
            cache=models_folder().parent / "converted",
            threads=threads or usable_cores(),
            report=_by_stage(show),
            should_stop=should_stop,
        )
    if record is None:
        typer.echo(f"stopped; the same command goes on from {output}", err=True)
        raise typer.Exit(130)
    record |= {"text": [{"name": one.name, "sha256": one.sha256} for one in texts]}
    record |= about(threads) | {"peak_rss_bytes": peak_rss_bytes()}
    write_atomically(output / "record.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    base = record["base"]
    typer.echo(
        json.dumps(record, ensure_ascii=False)
        if as_json
        else f"{output / base['name']}: {base['size_bytes'] / 1e6:,.1f} MB, SHA-256 {base['sha256']}"
    )


def _by_stage(show: Show) -> Callable[[Progress], None]:
    """Shows each stage by itself, with its own time left."""
    from edgereason.cli.terminal.progress import timed

    stage, note = "", ""
    counted = timed(lambda *_: None)

    def report(state: Progress) -> None:
        nonlocal stage, note, counted
        note = state.note
        if state.stage != stage:
            stage = state.stage
            counted = timed(
                lambda done, total, left: show(done, total, ", ".join(filter(None, (stage, note, left))))
            )
        counted(state.done, state.total)

    return report
