"""`edgereason make`: from a base to a bundle, by one recipe.

::

    make init MODEL -o RECIPE.toml    a recipe to begin with
    make RECIPE.toml -o FOLDER        every stage of it, or the rest of them
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from edgereason.cli.help import RARE
from edgereason.cli.long_run import import_torch, run_context, show_record
from edgereason.cli.terminal.echo import echo
from edgereason.core.printable import json_text

if TYPE_CHECKING:
    from edgereason.recipe.pace import Estimate
    from edgereason.recipe.run import Found

_RUN = "run"


class _RecipeGroup(TyperGroup):
    """A group whose unknown subcommands are recipes: `make RECIPE.toml` is `make run RECIPE.toml`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [_RUN, *args]
        return super().parse_args(ctx, args)


make_app = typer.Typer(name="make", cls=_RecipeGroup, no_args_is_help=True)


@make_app.callback()
def _make() -> None:
    """Make a bundle from a base by one recipe, as in `edgereason make recipe.toml -o runs/mine`."""


@make_app.command("init")
def init(
    model: Annotated[
        str,
        typer.Argument(
            help="A name of `edgereason models`, a GGUF file, or a checkpoint (folder or OWNER/NAME)."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The recipe; must be new.")],
) -> None:
    """Write a recipe to begin with: every stage, with settings that suit the model's size."""
    from edgereason.recipe.init import write_recipe

    write_recipe(model, output)
    echo(f"{output}: look at it, then: edgereason make {output} -o FOLDER --smoke")


@make_app.command(_RUN)
def make(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="TOML file; see configs/make-*.toml.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of stages and bundle; one that is there goes on.")
    ],
    data: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER", help="Where the recipe's data files are, before its own folder; repeatable."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Another value, as sft.epochs=2; repeatable."),
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Every stage with few rows, in OUTPUT/smoke; then what all takes.")
    ] = False,
    until: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Stop behind this stage.", rich_help_panel=RARE)
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="STAGE", help="This stage alone.", rich_help_panel=RARE)
    ] = None,
    redo: Annotated[
        bool,
        typer.Option(
            "--redo",
            help="Make stale stages again; what they made moves to OUTPUT/earlier.",
            rich_help_panel=RARE,
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, with time, memory and disk.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads. [all]", rich_help_panel=RARE)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record.")] = False,
) -> None:
    """Make a bundle: base, traces, training, heads, calibration, evaluation, card.

    Stopped or killed, the same command goes on. Finished stages are kept.
    """
    import_torch("bundles are made", "transformers", "safetensors", "peft", "accelerate", "trl")
    from edgereason.recipe.config import MakeRecipe
    from edgereason.recipe.run import Choice
    from edgereason.recipe.run import make as make_bundle
    from edgereason.recipe.run import smoke as make_smoke

    asked = MakeRecipe.read(recipe, settings or ())
    folders = [*(data or ()), recipe.parent]
    choice = Choice(until=until, only=only, redo=redo)
    if dry_run:
        _show_plan(asked, output, folders, as_json=as_json)
        return
    with run_context(threads) as context:
        made = (make_smoke if smoke else make_bundle)(
            asked, output, context, data_folders=folders, choice=choice
        )
    if smoke and made is not None and not as_json:
        _show_plan(asked, output, folders, as_json=False)
        return
    show_record(made, output, as_json, lambda record: _sentence(record, output))


def _sentence(record: dict[str, Any], output: Path) -> str:
    stages = record["stages"]
    left = [name for name, one in stages.items() if one["standing"] != "finished"]
    if left:
        return f"{output}: {len(stages) - len(left)} of {len(stages)} stages are finished; next is {left[0]}"
    return f"{output / record['name']}: a bundle; edgereason ask --bundle {output / record['name']} …"


def _show_plan(recipe: Any, output: Path, folders: Sequence[Path], *, as_json: bool) -> None:
    from edgereason.recipe.run import plan

    found = plan(recipe, output, data_folders=folders)
    if as_json:
        echo(json_text([_entry(*one) for one in found], ensure_ascii=False))
        return
    echo("\n".join(_lines(found)))
    for one, _ in found:
        if one.why:
            echo(f"{one.stage.name} is stale: {'; '.join(one.why)}", err=True)


def _entry(found: Found, estimate: Estimate) -> dict[str, Any]:
    pace = estimate.pace
    return {
        "stage": found.stage.name,
        "standing": str(found.standing),
        "why": list(found.why),
        "amount": estimate.amount,
        "unit": estimate.unit,
        "seconds": estimate.seconds,
        "peak_bytes": pace and pace.peak_bytes,
        "disk_bytes": pace and pace.disk_bytes,
    }


def _lines(found: Sequence[tuple[Found, Estimate]]) -> list[str]:
    """A line a stage, and one for all that is left."""
    from edgereason.recipe.run import Standing

    rows, total, unknown = [], 0.0, 0
    for one, estimate in found:
        pace, seconds = estimate.pace, estimate.seconds
        if one.standing is not Standing.FINISHED:
            total, unknown = total + (seconds or 0.0), unknown + (seconds is None)
        amount = "" if estimate.amount is None else f"{estimate.amount:,.0f} {estimate.unit}"
        rows.append(
            [
                *(one.stage.name, str(one.standing), amount, "?" if seconds is None else duration(seconds)),
                "?" if pace is None or pace.peak_bytes is None else f"{pace.peak_bytes / 1e9:.1f} GB",
                "?" if pace is None else f"{pace.disk_bytes / 1e6:,.0f} MB",
            ]
        )
    head = ["stage", "is", "to do", "time", "memory", "disk"]
    widths = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]
    said = f"left: about {duration(total)}, by the paces of finished stages and of --smoke"
    if unknown:
        said += f"; {unknown} stages were never run: --smoke measures them"
    return [*lines, said]


def duration(seconds: float) -> str:
    """Hours, minutes and seconds for people."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 5400 else f"{seconds / 3600:.1f} h"
