"""`edgereason quantize`: a base in 4 bits, from a model, a recipe and text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgereason.cli.help import RARE
from edgereason.cli.long_run import import_torch, run_context, show_record


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
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads. [all]", rich_help_panel=RARE)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record.")] = False,
) -> None:
    """Quantize a model to 4 bits: transforms, training against the model itself, exact export.

    Stopped or killed, the same command goes on.
    """
    import_torch("models are quantized", "transformers", "safetensors", extra="quant")
    with run_context(threads) as context:
        from edgereason.train.quant.run import Recipe, run

        record = run(Recipe.read(recipe), model, output, context, text=text or ())
    show_record(record, output, as_json, lambda record: _sentence(record["base"], output))


def _sentence(base: dict[str, Any], output: Path) -> str:
    return f"{output / base['name']}: {base['size_bytes'] / 1e6:,.1f} MB, SHA-256 {base['sha256']}"
