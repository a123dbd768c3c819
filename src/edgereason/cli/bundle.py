"""`edgereason bundle`: what training hands to the device, put together, looked at, checked and tuned.

::

    bundle build       parts that fit one another, with their history and figures, in a new folder
    bundle show        what is in one
    bundle verify      whether all of it is right
    bundle calibrate   where its switcher begins to think (`bundle_calibrate.py`)

Owns the options and what is printed. Does not know how anything is checked or made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgereason.cli.bundle_calibrate import calibrate

if TYPE_CHECKING:
    from edgereason.core.bundle import Bundle

bundle_app = typer.Typer(name="bundle", no_args_is_help=True)
bundle_app.command()(calibrate)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the bundle.")]


@bundle_app.callback()
def _bundle() -> None:
    """Put a bundle together, look at it, check it, and set how often it thinks."""


@bundle_app.command("build")
def build(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the bundle; must be new.")],
    start: Annotated[
        Path | None, typer.Option("--from", help="A bundle whose parts are taken where none are given.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="A name of `edgereason models`, or a GGUF file. [that of --from]")
    ] = None,
    adapter: Annotated[Path | None, typer.Option(help="The reasoning adapter, a GGUF file.")] = None,
    heads: Annotated[Path | None, typer.Option(help="Switcher and verifier, a safetensors file.")] = None,
    bucket: Annotated[
        list[int] | None,
        typer.Option(min=1, help="A budget that hints were trained with; repeatable. [the record's]"),
    ] = None,
    record: Annotated[
        list[Path] | None,
        typer.Option(help="A measurement's or a training's record, or a run's folder; repeatable."),
    ] = None,
    include_base: Annotated[bool, typer.Option("--include-base", help="Put the base in as well.")] = False,
    name: Annotated[str | None, typer.Option(help="What it is called. [the folder's name]")] = None,
) -> None:
    """Put parts together that fit one another, with where they are from and what was measured."""
    from edgereason.core.bundle import Bundle
    from edgereason.evals.bundles.build import Parts
    from edgereason.evals.bundles.build import build as put_together
    from edgereason.evals.report.markdown import bytes_text

    begin = None if start is None else Bundle.read(start)
    if begin is None and base is None:
        raise typer.BadParameter("say which base, or --from which bundle", param_hint="'--base'")
    parts = Parts(
        base=_base_of(begin, base),
        start=begin,
        adapter=adapter,
        heads=heads,
        buckets=None if bucket is None else tuple(bucket),
        records=tuple(record or ()),
        name=name,
        include_base=include_base,
    )
    built = put_together(output, parts, lambda line: typer.echo(line, err=True))
    sizes = sum((built.folder / part.file).stat().st_size for part in built.parts)
    files = ", ".join(part.file for part in built.parts) or "no parts"
    typer.echo(f"{output}: {files}; {bytes_text(sizes)} beside the base, {len(built.results)} results")


@bundle_app.command("show")
def show(
    folder: Folder,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what is in a bundle; its base need not be here."""
    from edgereason.core.bundle import Bundle
    from edgereason.evals.bundles.show import describe, lines

    described = describe(Bundle.read(folder))
    typer.echo(
        json.dumps(described, indent=2, ensure_ascii=False) if as_json else "\n".join(lines(described))
    )


@bundle_app.command("verify")
def verify(
    folder: Folder,
    base: Annotated[
        str | None, typer.Option(help="The bundle's base, where it is not to be found otherwise.")
    ] = None,
) -> None:
    """Check a bundle's files, whether they fit one another, and whether this version writes their seams."""
    from edgereason.cli.pull import fetch
    from edgereason.evals.bundles.verify import Outcome
    from edgereason.evals.bundles.verify import verify as checks

    wrong = 0
    for check in checks(folder, None if base is None else fetch(base)):
        wrong += check.outcome is Outcome.WRONG
        typer.echo(f"{check.outcome:<8}  {check.what:<8}  {' '.join(check.text.split())}")
    if wrong:
        raise typer.Exit(1)


def _base_of(start: Bundle | None, base: str | None) -> Path:
    """The file of the base, pulled in view of the user if it is not here."""
    from edgereason.cli.pull import fetch
    from edgereason.errors import BundleError
    from edgereason.evals.bundles.base import find_base

    if base is not None:
        return fetch(base)
    assert start is not None
    found = find_base(start)
    if found.path is not None:
        return found.path
    if found.model is not None:
        return fetch(found.model.name)
    raise BundleError(
        f"the base {start.base.name} of {start.title} is neither in the bundle nor in the catalogue: "
        "give --base"
    )
