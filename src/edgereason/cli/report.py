"""`edgereason report`: figures and a page from records.

It prints where the page is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    records: Annotated[
        list[Path],
        typer.Argument(
            metavar="RECORD",
            help="Folders of evaluations, in the order in which the system was built up, and JSON records of "
            "`eval sweep`, `eval ppl` and `bench`.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for report.md and its figures.")],
) -> None:
    """Draw figures and one Markdown page from records."""
    from edgereason.report.page import write_report

    page, *figures = write_report(records, output)
    typer.echo(f"{len(figures)} figures", err=True)
    typer.echo(page)
