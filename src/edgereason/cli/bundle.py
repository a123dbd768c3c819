"""`edgereason bundle`: what training hands to the device, put together, looked at, checked and tuned.

::

    bundle build       parts that fit one another, with their history and figures, in a new folder
    bundle show        what is in one
    bundle verify      whether all of it is right
    bundle calibrate   where its switcher begins to think

This module owns the options, which of them go together, and what is printed.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgereason.cli.help import RARE
from edgereason.cli.long_run import Stopped
from edgereason.cli.terminal.echo import echo
from edgereason.core.printable import json_text

if TYPE_CHECKING:
    from edgereason.bundles.calibrate import Found
    from edgereason.bundles.threshold import ThresholdPoint
    from edgereason.core.bundle import Bundle

bundle_app = typer.Typer(name="bundle", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the bundle.")]
AnyFolder = Annotated[
    Path | None, typer.Argument(metavar="[DIR]", help="Folder of a bundle. [the one that is built in]")
]


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
        str | None,
        typer.Option(help="A name of `edgereason models`, a GGUF file, or a checkpoint. [that of --from]"),
    ] = None,
    adapter: Annotated[Path | None, typer.Option(help="The reasoning adapter, a GGUF file.")] = None,
    heads: Annotated[Path | None, typer.Option(help="Switcher and verifier, a safetensors file.")] = None,
    bucket: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="A budget that hints were trained with; repeatable. [the record's]",
            rich_help_panel=RARE,
        ),
    ] = None,
    calculator: Annotated[
        bool | None,
        typer.Option(
            help="Whether exact results of arithmetic are forced while it thinks. [as --from has it, else no]"
        ),
    ] = None,
    record: Annotated[
        list[Path] | None,
        typer.Option(help="A measurement's or a training's record, or a run's folder; repeatable."),
    ] = None,
    include_base: Annotated[
        bool, typer.Option("--include-base", help="Put the base in as well.", rich_help_panel=RARE)
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(help="What it is called. [the folder's name; that of --from, if its adapter stays]"),
    ] = None,
) -> None:
    """Put parts together that fit one another, with where they are from and what was measured."""
    from edgereason.bundles.build import Parts
    from edgereason.bundles.build import build as put_together
    from edgereason.cli.models import fetch
    from edgereason.core.bundle import Bundle
    from edgereason.hub.pull import base_file
    from edgereason.report.markdown import bytes_text

    begin = None if start is None else Bundle.read(start)
    if base is not None:
        path = fetch(base)
    elif begin is not None:
        path = base_file(begin, fetch)
    else:
        raise typer.BadParameter("say which base, or --from which bundle", param_hint="'--base'")
    parts = Parts(
        base=path,
        start=begin,
        adapter=adapter,
        heads=heads,
        buckets=None if bucket is None else tuple(bucket),
        calculator=calculator,
        records=tuple(record or ()),
        name=name,
        include_base=include_base,
    )
    built = put_together(output, parts, lambda line: echo(line, err=True))
    sizes = sum((built.folder / part.file).stat().st_size for part in built.parts)
    files = ", ".join(part.file for part in built.parts) or "no parts"
    echo(f"{output}: {files}; {bytes_text(sizes)} beside the base, {len(built.results)} results")


@bundle_app.command("show")
def show(
    folder: AnyFolder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what is in a bundle; its base need not be here."""
    from edgereason.bundles.card import describe, lines
    from edgereason.core.bundle import Bundle
    from edgereason.hub.catalog import bundle_folder

    described = describe(Bundle.read(bundle_folder(folder)))
    echo(json_text(described, indent=2, ensure_ascii=False) if as_json else "\n".join(lines(described)))


@bundle_app.command("verify")
def verify(
    folder: AnyFolder = None,
    base: Annotated[
        str | None,
        typer.Option(help="The bundle's base, where it is not to be found otherwise.", rich_help_panel=RARE),
    ] = None,
) -> None:
    """Check a bundle's files, whether they fit one another, and whether this version writes their seams."""
    from edgereason.bundles.verify import CheckOutcome
    from edgereason.bundles.verify import verify as checks
    from edgereason.cli.models import fetch
    from edgereason.hub.catalog import bundle_folder

    wrong = 0
    for check in checks(bundle_folder(folder), None if base is None else fetch(base)):
        wrong += check.outcome is CheckOutcome.WRONG
        echo(f"{check.outcome:<8}  {check.what:<8}  {' '.join(check.text.split())}")
    if wrong:
        raise typer.Exit(1)


@bundle_app.command("calibrate")
def calibrate(
    folder: Folder,
    target_think_rate: Annotated[
        float | None, typer.Option(help="So large a share of the prompts is to think, such as 0.3.")
    ] = None,
    needless_cost: Annotated[
        float | None,
        typer.Option(
            help="The least cost, where a needless thought costs so much and a missing one 1, such as 1."
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="With --target-think-rate: rows with a prompt or question each; with --needless-cost also "
            "with a label, 0 or 1."
        ),
    ] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(help="Think as little as this accuracy allows, such as 0.6.")
    ] = None,
    chat: Annotated[
        Path | None, typer.Option(help="With --min-accuracy: folder of an evaluation in chat mode.")
    ] = None,
    think: Annotated[
        Path | None, typer.Option(help="With --min-accuracy: the same questions in think mode.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="With --min-accuracy: the local file of both, if it was one.", rich_help_panel=RARE
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="The bundle's base, where it is not to be found otherwise.", rich_help_panel=RARE),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads. [all]", rich_help_panel=RARE)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what went into the manifest.")] = False,
) -> None:
    """Set the switcher's threshold: by cost, by the share that thinks, or by the accuracy it must keep."""
    from edgereason.bundles.calibrate import ByAccuracy, ByCost, ByShare, require_switcher, set_threshold
    from edgereason.cli.models import display, fetch
    from edgereason.cli.terminal.interrupt import stop_on_interrupt
    from edgereason.cli.terminal.progress import progress_display
    from edgereason.core.bundle import Bundle
    from edgereason.reasoning.model import load

    _require_one_way(
        {"--prompts": prompts, "--target-think-rate": target_think_rate},
        {"--prompts": prompts, "--needless-cost": needless_cost},
        {"--min-accuracy": min_accuracy, "--chat": chat, "--think": think},
        data=data,
    )
    bundle = Bundle.read(folder)
    require_switcher(bundle)
    way: ByShare | ByCost | ByAccuracy
    if target_think_rate is not None and prompts is not None:
        way = ByShare.read(target_think_rate, prompts)
    elif needless_cost is not None and prompts is not None:
        way = ByCost.read(needless_cost, prompts)
    else:
        assert min_accuracy is not None
        assert chat is not None
        assert think is not None
        way = ByAccuracy.read(min_accuracy, bundle, chat, think, data)
    base_path = None if base is None else fetch(base)
    with display() as (report, notice):
        model = load(folder, base=base_path, threads=threads, progress=report, notice=notice)
    with stop_on_interrupt() as should_stop, progress_display() as show, model:
        found = way.find(model, partial(show, "prompts"), should_stop)
    if found is None:
        raise Stopped(f"stopped: {folder} is as it was")
    _end(set_threshold(bundle, found), found, as_json=as_json)


def _require_one_way(*ways_there: dict[str, Any], data: Path | None) -> None:
    """Refuses options of several ways, or of none, or half of one; local data belong to the last."""
    given = dict.fromkeys(name for way in ways_there for name, value in way.items() if value is not None)
    complete = [way for way in ways_there if set(given) == set(way)]
    if not complete or (data is not None and complete[0] is not ways_there[-1]):
        ways = " or ".join(", ".join(sorted(way)) for way in ways_there)
        raise typer.BadParameter(
            f"give {ways} (with --data for a local file), got {', '.join(given) or 'none'}",
            param_hint="'--target-think-rate'",
        )


def _end(bundle: Bundle, found: Found, *, as_json: bool) -> None:
    if found.num_left_out:
        echo(f"{found.num_left_out} prompts do not fit in the context and were left out", err=True)
    echo(json_text(bundle.calibration, ensure_ascii=False) if as_json else _sentence(found.point))


def _sentence(point: ThresholdPoint) -> str:
    said = f"threshold {point.threshold:.4g}: {point.share_think:.1%} of {point.num_prompts} prompts think"
    if point.chat_right is not None and point.think_right is not None:
        return (
            f"{said}; {point.chat_right:.1%} of those labelled chat and {point.think_right:.1%} of those "
            "labelled think go the right way"
        )
    if point.accuracy is None:
        return said
    if point.held_out_accuracy is not None and point.held_out_ci95 is not None:
        low, high = point.held_out_ci95
        said += f"; expected accuracy {point.held_out_accuracy:.1%} (95 % interval {low:.1%} to {high:.1%})"
    return (
        f"{said}, {point.accuracy:.1%} on the questions that it was chosen on, with "
        f"{point.mean_tokens:.0f} tokens a question (all chat: {point.chat_accuracy:.1%}, "
        f"{point.chat_tokens:.0f} tokens; all think: {point.think_accuracy:.1%}, "
        f"{point.think_tokens:.0f} tokens)"
    )
