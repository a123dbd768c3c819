"""`edgereason models` and `edgereason pull`: what can be pulled, what is here, and fetching it.

What a person sees of a pull goes to stderr: a bar in a terminal, a line now and then elsewhere. The path is
all that `pull` prints on stdout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgereason.cli.help import RARE
from edgereason.cli.terminal.echo import echo
from edgereason.core.printable import json_text, printable

if TYPE_CHECKING:
    from edgereason.hub.pull import PullProgress


Report = Callable[["PullProgress"], None]
Notice = Callable[[str], None]


def pull(
    name: Annotated[
        str | None, typer.Argument(help="One of `edgereason models`; the default model if left out.")
    ] = None,
    no_mirror: Annotated[
        bool,
        typer.Option(
            "--no-mirror", help="Never fetch from the package index, only from the hub.", rich_help_panel=RARE
        ),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Check the hash of a model that is here already, too.", rich_help_panel=RARE
        ),
    ] = False,
) -> None:
    """Fetch a model into the cache and print its path."""
    from edgereason.hub import pull as hub
    from edgereason.hub.catalog import DEFAULT_MODEL

    with display() as (report, notice):
        path = hub.pull(
            name or DEFAULT_MODEL,
            allow_mirror=not no_mirror,
            verify=verify,
            progress=report,
            notice=notice,
        )
    echo(path)


def fetch(model: str) -> Path:
    """The file of a model, pulled in view of the user if it is not here."""
    from edgereason.hub.pull import resolve

    with display() as (report, notice):
        return resolve(model, progress=report, notice=notice)


@contextmanager
def display() -> Iterator[tuple[Report, Notice]]:
    """Something to report progress to, and something to give notices to; unused, it shows nothing."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_terminal:
        yield _sparse_lines(), lambda line: echo(line, err=True)
        return
    from rich import progress as bars

    columns = (
        bars.SpinnerColumn(),
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
    )
    bar = bars.Progress(*columns, console=console, transient=True)

    def report(state: PullProgress) -> None:
        if not bar.tasks:  # only now: most models are here already, and a bar would just flash up
            bar.add_task("starting", total=None)
            bar.start()
        bar.update(
            bar.tasks[0].id, description=state.item, completed=state.done_bytes, total=state.total_bytes
        )

    try:
        yield report, lambda line: console.print(printable(line), soft_wrap=True)
    finally:
        if bar.tasks:
            bar.stop()


def _sparse_lines() -> Report:
    """A line at every tenth of the file, for logs."""
    last_tenth = -1

    def report(state: PullProgress) -> None:
        nonlocal last_tenth
        tenth = 10 * state.done_bytes // state.total_bytes
        if tenth != last_tenth:
            last_tenth = tenth
            echo(
                f"{state.source} {state.item}: {state.done_bytes / 1e6:,.0f} of "
                f"{state.total_bytes / 1e6:,.0f} MB",
                err=True,
            )

    return report


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """List the models that edgereason knows by name."""
    from edgereason.hub.catalog import CATALOG, DEFAULT_BUNDLE, DEFAULT_MODEL, bundle_names
    from edgereason.hub.store import is_here, model_path, models_folder

    if as_json:
        rows = [
            asdict(model)
            | {
                "is_default": model.name == DEFAULT_MODEL,
                "path": str(model_path(model)) if is_here(model) else None,
            }
            for model in CATALOG
        ]
        echo(json_text(rows, indent=2))
        return

    from rich.console import Console
    from rich.table import Table

    table = Table("name", "size", "licence", "from", "here")
    for model in CATALOG:
        sources = [name for name, source in (("hub", model.hub), ("mirror", model.mirror)) if source]
        place = ", ".join(sources) if len(sources) > 1 else f"{sources[0]} only" if sources else ""
        table.add_row(
            model.name + (" *" if model.name == DEFAULT_MODEL else ""),
            f"{model.size_bytes / 1e6:,.0f} MB",
            model.licence,
            "made here" if model.made else place,
            "yes" if is_here(model) else "no",
        )
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print("* the default", "hub: Hugging Face, the maker's file", sep="\n")
    console.print("mirror: packages of the Python package index with the same bytes")
    for model in (one for one in CATALOG if one.made):
        assert model.made
        console.print(f"made here: {model.name} of {model.made.teacher} and what was learned about it")
    console.print(f"kept in {models_folder()}", soft_wrap=True)
    names = [name + (" *" if name == DEFAULT_BUNDLE.name else "") for name in bundle_names()]
    console.print("bundles of this package:", ", ".join(names))
