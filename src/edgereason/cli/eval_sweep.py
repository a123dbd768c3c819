"""`edgereason eval sweep`: curves from evaluations that are there.

Owns the options and where the record goes. Does not know how a curve is drawn.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def sweep(
    runs: Annotated[list[Path], typer.Argument(metavar="FOLDER…", help="Folders of evaluations.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File of the record.")] = None,
    budgets: Annotated[
        str | None,
        typer.Option(help="Hard budgets at which traces are cut, such as 64,128,256; generates answers."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="With --budgets: the local file that the run was evaluated on.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="With --budgets: the model file or bundle of the run, if it was one.")
    ] = None,
    run_code: Annotated[
        bool, typer.Option("--run-code", help="With --budgets: let the task run what the model wrote.")
    ] = False,
    draws: Annotated[int, typer.Option(min=2, help="Draws of a vote curve.")] = 20,
    seed: Annotated[int, typer.Option(help="Of draws and bootstraps.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record.")] = False,
) -> None:
    """Draw curves from evaluations: votes over streams, the switcher's threshold, hard budgets."""
    from edgereason.cli.pull import fetch
    from edgereason.cli.terminal.interrupt import stop_on_interrupt
    from edgereason.cli.terminal.progress import progress_display, timed
    from edgereason.core.bundle import write_atomically
    from edgereason.evals.runs import run_sweep

    with stop_on_interrupt() as should_stop, progress_display() as show:
        record = run_sweep(
            runs,
            limits_tokens=_numbers(budgets),
            data=data,
            model=model,
            run_code=run_code,
            draws=draws,
            seed=seed,
            fetch=fetch,
            progress=timed(show),
            should_stop=should_stop,
        )
    if record is None:
        typer.echo("stopped", err=True)
        raise typer.Exit(130)
    text = json.dumps(record, ensure_ascii=False)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, text + "\n")
    for note in record["notes"]:
        typer.echo(note, err=True)
    if as_json or output is None:
        typer.echo(text)


def _numbers(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in (text or "").split(",") if part.strip())
    except ValueError as error:
        raise typer.BadParameter(
            f"expected numbers with commas between them, got {text!r}", param_hint="'--budgets'"
        ) from error
