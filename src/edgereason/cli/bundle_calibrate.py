"""`edgereason bundle calibrate`: where the switcher of a bundle begins to think.

Owns the options, and which of them go together. Does not know how a threshold is found or put in place.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edgereason.core.bundle import Bundle
    from edgereason.evals.bundles.calibrate import Found
    from edgereason.evals.bundles.threshold import Point


def calibrate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the bundle.")],
    target_think_rate: Annotated[
        float | None, typer.Option(help="So large a share of the prompts is to think, such as 0.3.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="With --target-think-rate: rows with a prompt or question each.")
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
        Path | None, typer.Option(help="With --min-accuracy: the local file of both, if it was one.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The bundle's base, where it is not to be found otherwise.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. [all]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what went into the manifest.")] = False,
) -> None:
    """Set the switcher's threshold, by the share of prompts that think or by the accuracy it must keep."""
    from edgereason.cli.eval_progress import progress_display, timed
    from edgereason.cli.interrupt import stop_on_interrupt
    from edgereason.cli.pull import display, fetch
    from edgereason.core.bundle import Bundle
    from edgereason.evals.bundles.by_accuracy import ByAccuracy
    from edgereason.evals.bundles.by_share import ByShare
    from edgereason.evals.bundles.calibrate import require_switcher, set_threshold
    from edgereason.reasoning.model import load

    _require_one_way(
        {"--prompts": prompts, "--target-think-rate": target_think_rate},
        {"--min-accuracy": min_accuracy, "--chat": chat, "--think": think},
        data,
    )
    bundle = Bundle.read(folder)
    require_switcher(bundle)
    way: ByShare | ByAccuracy
    if target_think_rate is not None and prompts is not None:
        way = ByShare.read(target_think_rate, prompts)
    else:
        assert min_accuracy is not None
        assert chat is not None
        assert think is not None
        way = ByAccuracy.read(min_accuracy, bundle, chat, think, data)
    base_path = None if base is None else fetch(base)
    with display() as (report, notice):
        model = load(folder, base=base_path, threads=threads, progress=report, notice=notice)
    with stop_on_interrupt() as should_stop, progress_display() as show, model:
        found = way.find(model, timed(show), should_stop)
    if found is None:
        typer.echo(f"stopped; {folder} is as it was", err=True)
        raise typer.Exit(130)
    _end(set_threshold(bundle, found), found, as_json=as_json)


def _require_one_way(share: dict[str, Any], accuracy: dict[str, Any], data: Path | None) -> None:
    """Refuses options of both ways, or of none, or half of one."""
    given = [name for name, value in (share | accuracy).items() if value is not None]
    complete = [way for way in (share, accuracy) if set(given) == set(way)]
    if not complete or (data is not None and complete[0] is share):
        ways = " or ".join(", ".join(sorted(way)) for way in (share, accuracy))
        raise typer.BadParameter(
            f"give {ways} (with --data for a local file), got {', '.join(given) or 'none'}",
            param_hint="'--target-think-rate'",
        )


def _end(bundle: Bundle, found: Found, *, as_json: bool) -> None:
    if found.num_left_out:
        typer.echo(f"{found.num_left_out} prompts do not fit in the context and were left out", err=True)
    typer.echo(json.dumps(bundle.calibration, ensure_ascii=False) if as_json else _sentence(found.point))


def _sentence(point: Point) -> str:
    said = f"threshold {point.threshold:.4g}: {point.share_think:.1%} of {point.num_prompts} prompts think"
    if point.accuracy_ci95 is None:
        return said
    low, high = point.accuracy_ci95
    return (
        f"{said}; expected accuracy {point.accuracy:.1%} (95 % interval {low:.1%} to {high:.1%}), "
        f"{point.mean_tokens:.0f} tokens a question (all chat: {point.chat_accuracy:.1%}, "
        f"{point.chat_tokens:.0f} tokens; all think: {point.think_accuracy:.1%}, "
        f"{point.think_tokens:.0f} tokens)"
    )
