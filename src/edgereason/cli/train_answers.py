"""`edgereason train answers`: what a model says itself, as text for calibrating a base.

Owns the options. Does not know how answers are made, nor what is learned from them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def answers(
    questions: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE", help="Rows with a question each; right answers aren't needed; repeatable."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of answers and record; one that is there goes on.")
    ],
    model: Annotated[str | None, typer.Option(help="A name of `edgereason models`, or a GGUF file.")] = None,
    system: Annotated[str | None, typer.Option(help="System message. [the model's own]")] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 320,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many rows of each file.")
    ] = None,
    seed: Annotated[int, typer.Option()] = 0,
    parallel: Annotated[int, typer.Option(help="Answers that run at a time.")] = 16,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. [all]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record.")] = False,
) -> None:
    """Let a model answer questions in chat mode, for `quantize --text`; stopped or killed, it goes on."""
    from edgereason.cli.pull import fetch
    from edgereason.cli.terminal.interrupt import stop_on_interrupt
    from edgereason.cli.terminal.progress import progress_display, timed
    from edgereason.data.rows import read_file
    from edgereason.hub.catalog import DEFAULT_MODEL
    from edgereason.reasoning.model import load
    from edgereason.records.folder import about
    from edgereason.train.data.own_answers import OwnAnswersConfig, answer

    config = OwnAnswersConfig(
        system=system, temperature=temperature, max_tokens=max_tokens, seed=seed, parallel=parallel
    )
    sources = [read_file(path) for path in questions]
    with stop_on_interrupt() as should_stop, progress_display() as show:
        counted = timed(lambda done, total, left: show(done, total, f"answers, {left}"))
        with load(fetch(model or DEFAULT_MODEL), threads=threads, shares_cells=False) as loaded:
            record = answer(
                output,
                config,
                sources,
                model=loaded,
                limit=limit,
                about=about(threads),
                progress=lambda state: counted(state.done, state.total),
                should_stop=should_stop,
            )
    if record is None:
        typer.echo(f"stopped: the same command with -o {output} goes on", err=True)
        raise typer.Exit(130)
    file, mean_tokens = record["answers"], record["tokens"]["mean"]
    typer.echo(
        json.dumps(record, ensure_ascii=False)
        if as_json
        else f"{output / file['name']}: {file['rows']} answers, {mean_tokens:.0f} tokens on average"
    )
