"""`edgereason models`: what can be pulled, from where, and what is here.

Owns the table and its JSON form. Does not fetch anything and asks no network.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """List the models that edgereason knows by name."""
    from edgereason.hub.catalog import CATALOG, DEFAULT_MODEL
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
        typer.echo(json.dumps(rows, indent=2))
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
