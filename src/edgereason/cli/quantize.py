"""`edgereason quantize`: a base in 4 bits, from a model, a recipe and text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgereason.cli.help import RARE
from edgereason.cli.long_run import import_torch, run_context, shape_of, show_dry_run, show_record


def quantize(
    model: Annotated[
        str,
        typer.Argument(help="A name of `edgereason models`, a GGUF file, or a checkpoint: the teacher."),
    ],
    recipe: Annotated[Path, typer.Option(help="TOML file of the recipe; see configs/quantize-*.toml.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for base, record and checkpoint.")],
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="Text, repeatable: .txt, .raw, or rows with text, messages, or question and solution."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take, in memory, disk and time.")
    ] = False,
    assume: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Of a dry run: host_gb=512, tflops=2, …; repeatable.",
            rich_help_panel=RARE,
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads. [all]", rich_help_panel=RARE)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record.")] = False,
) -> None:
    """Quantize a model to 4 bits: transforms, training against the model itself, exact export.

    Stopped or killed, the same command goes on.
    """
    import_torch("models are quantized", "transformers", "safetensors", extra="quant")
    if dry_run:
        from edgereason.recipe.dry_run import Assumed, dry_quantize
        from edgereason.train.quant.run import Recipe

        assumed = Assumed.parse(assume or ())
        show_dry_run(dry_quantize(Recipe.read(recipe), shape_of(model), assumed, output), as_json)
        return
    with run_context(threads) as context:
        from edgereason.train.quant.run import Recipe, run

        record = run(Recipe.read(recipe), model, output, context, text=text or ())
    show_record(record, output, as_json, lambda record: _sentence(record["base"], output))


def _sentence(base: dict[str, Any], output: Path) -> str:
    return f"{output / base['name']}: {base['size_bytes'] / 1e6:,.1f} MB, SHA-256 {base['sha256']}"
