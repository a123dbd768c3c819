"""`edgereason eval compare`: what one evaluation has over another, question by question.

Owns the options and the table. Does not know how differences are found.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def compare(
    base: Annotated[
        Path,
        typer.Argument(
            metavar="BASE", help="Folder of one evaluation, or a sweep that cut one at hard budgets."
        ),
    ],
    others: Annotated[list[Path], typer.Argument(metavar="FOLDER…", help="Those to compare with it.")],
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object on stdout.")] = False,
) -> None:
    """Pair evaluations by question: difference with its 95 % interval, questions won and lost, sign test."""
    from dataclasses import asdict

    from edgereason.evals.compare import compare_folders

    differences = compare_folders(base, others, seed=seed)
    if as_json:
        rows = [{"name": o.resolve().name, **asdict(d)} for o, d in zip(others, differences, strict=True)]
        typer.echo(json.dumps({"base": base.resolve().name, "compared": rows}))
        return
    for other, found in zip(others, differences, strict=True):
        low, high = (100 * end for end in found.ci95)
        typer.echo(
            f"{other}: {100 * found.accuracy:.1f} % against {100 * found.base_accuracy:.1f} % "
            f"on {found.num_questions} questions, {100 * found.difference:+.1f} points "
            f"({low:+.1f} to {high:+.1f}), {found.won} won, {found.lost} lost, p = {found.p_value:.2g}"
        )
