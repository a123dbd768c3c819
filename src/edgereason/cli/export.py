"""`edgereason export`: a bundle for other runtimes, and its adapter for PEFT and llama.cpp's server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgereason.cli.help import RARE
from edgereason.cli.options import BaseOption
from edgereason.cli.terminal.echo import echo
from edgereason.core.printable import json_text

if TYPE_CHECKING:
    from edgereason.core.bundle import Bundle

export_app = typer.Typer(name="export", no_args_is_help=True)


@export_app.callback()
def _export() -> None:
    """Write a bundle for other runtimes, or its adapter for PEFT or llama.cpp's server."""


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
    base: BaseOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the export's manifest.")] = False,
) -> None:
    """Write ONNX graphs: one for onnxruntime, two of fixed shapes with encodings for NPUs.

    Chat and think are one graph, whose input lora_alpha turns the adapter on. Weights are the base's, bit by
    bit.
    """
    from edgereason.core.bundle import Bundle
    from edgereason.data.rows import import_optional
    from edgereason.hub.catalog import bundle_folder

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
    path = _base_file(bundle, base)
    ids = prompt_ids(path, calibrate, prompts) if calibrate is not None else []
    config = ExportConfig(targets=targets, context=context, prefill_tokens=prefill, prompts=tuple(ids))
    manifest = export(bundle, path, output, config, lambda line: echo(line, err=True))
    if as_json:
        echo(json_text(manifest, indent=2, ensure_ascii=False))
        return
    _show_files(output, manifest)


@export_app.command("peft")
def peft(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a training, or of a bundle.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the export; must be new.")],
    hub_base: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME[@REVISION]",
            help="Model of the hub that PEFT loads the adapter on. [the checkpoint that the base is made of]",
        ),
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Upload it to this repository of the hub.")
    ] = None,
    base: BaseOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written.")] = False,
) -> None:
    """Write the adapter for PEFT: an activated LoRA on a model of the hub, with a card."""
    from edgereason.cli.long_run import import_torch
    from edgereason.hub.catalog import bundle_folder

    import_torch("adapters are written for PEFT", "transformers", "peft")
    from edgereason.train.lora.publish import export_peft
    from edgereason.train.lora.publish import push as push_to
    from edgereason.train.lora.run import shipped

    source = bundle_folder(folder)
    bundle, _ = shipped(source)
    made = export_peft(source, _base_file(bundle, base), output, hub_base=hub_base)
    address = None if push is None else push_to(output, push)
    if as_json:
        echo(json_text(made | ({"pushed": address} if address else {}), indent=2, ensure_ascii=False))
        return
    _show_files(output, made)
    echo(f"PEFT loads it on {made['base_model']}")
    if address:
        echo(f"pushed: {address}")


@export_app.command("gguf")
def gguf(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the export; must be new.")],
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Folder of a bundle. [the one that is built in]")
    ] = None,
    base: BaseOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written.")] = False,
) -> None:
    """Write the adapter for llama.cpp's server, with a chat template that turns it on."""
    from edgereason.core.bundle import Bundle
    from edgereason.export.llama_server import export_adapter_for_server
    from edgereason.hub.catalog import bundle_folder

    bundle = Bundle.read(bundle_folder(folder))
    made = export_adapter_for_server(bundle, _base_file(bundle, base), output)
    if as_json:
        echo(json_text(made, indent=2, ensure_ascii=False))
        return
    _show_files(output, made)


def _base_file(bundle: Bundle, base: str | None) -> Path:
    """The file of a bundle's base, fetched in view of the user if it is not here."""
    from edgereason.cli.models import fetch
    from edgereason.hub.pull import base_file, require_base

    if base is None:
        return base_file(bundle, fetch)
    require_base(bundle, path := fetch(base))
    return path


def _show_files(output: Path, made: dict[str, Any]) -> None:
    from edgereason.report.markdown import bytes_text

    for name, about in made["files"].items():
        echo(f"{output / name}: {bytes_text(about['size_bytes'])}")
