"""`edgereason export`: a bundle for runtimes other than llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgereason.cli.help import RARE
from edgereason.cli.terminal.echo import echo
from edgereason.core.printable import json_text

export_app = typer.Typer(name="export", no_args_is_help=True)


@export_app.callback()
def _export() -> None:
    """Write a bundle for runtimes other than llama.cpp."""


@export_app.command("onnx")
def onnx(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the export; must be new.")],
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Folder of a bundle. [the one that is built in]")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="onnxruntime|npu", help="What runs it; repeatable. [both]"),
    ] = None,
    context: Annotated[int, typer.Option(min=3, help="Places for tokens.", rich_help_panel=RARE)] = 2048,
    prefill: Annotated[
        int, typer.Option(min=2, help="Tokens that the NPU's prefill takes at a time.", rich_help_panel=RARE)
    ] = 128,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="For the NPU: rows with a prompt or question each; activations get ranges by them."
        ),
    ] = None,
    prompts: Annotated[
        int, typer.Option(min=1, help="With --calibrate: so many of them.", rich_help_panel=RARE)
    ] = 16,
    base: Annotated[
        str | None,
        typer.Option(help="The bundle's base, where it is not to be found otherwise.", rich_help_panel=RARE),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the export's manifest.")] = False,
) -> None:
    """Write ONNX graphs: one for onnxruntime, two of fixed shapes with encodings for NPUs.

    Chat and think are one graph, whose input lora_alpha turns the adapter on. Weights are the base's, bit by
    bit.
    """
    from edgereason.cli.models import fetch
    from edgereason.core.bundle import Bundle
    from edgereason.data.rows import import_optional
    from edgereason.hub.catalog import bundle_folder
    from edgereason.hub.pull import base_file, require_base
    from edgereason.report.markdown import bytes_text

    for package in ("onnx", "onnxruntime"):
        import_optional(package, "ONNX graphs are written and checked", extra="export")
    from edgereason.export.activations import prompt_ids
    from edgereason.export.run import ExportConfig, Target, export

    try:
        targets = tuple(dict.fromkeys(map(Target, target or Target)))
    except ValueError as error:
        raise typer.BadParameter(f"{error}; expected onnxruntime or npu", param_hint="'--target'") from error
    if calibrate is not None and Target.NPU not in targets:
        raise typer.BadParameter("onnxruntime finds ranges by itself", param_hint="'--calibrate'")
    bundle = Bundle.read(bundle_folder(folder))
    if base is None:
        path = base_file(bundle, fetch)
    else:
        require_base(bundle, path := fetch(base))
    ids = prompt_ids(path, calibrate, prompts) if calibrate is not None else []
    config = ExportConfig(targets=targets, context=context, prefill_tokens=prefill, prompts=tuple(ids))
    manifest = export(bundle, path, output, config, lambda line: echo(line, err=True))
    if as_json:
        echo(json_text(manifest, indent=2, ensure_ascii=False))
        return
    for name, about in manifest["files"].items():
        echo(f"{output / name}: {bytes_text(about['size_bytes'])}")
