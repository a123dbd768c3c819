"""`edgereason train sweep`: recipes that differ in a setting, each trained, evaluated and timed.

::

    study.toml ─→ recipes ─ train sft ─→ bundle ─┬─ eval, thinking ─→ accuracy ─┐
                                                 └─ a decode step ──→ lora_tax ─┴─→ sweep.json, a table

Owns the order of the work and its record. Does not know how an adapter is trained, judged or timed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgereason.cli.terminal.progress import Show
    from edgereason.evals.evaluate import EvalConfig, Progress
    from edgereason.train.lora.grid import Point

FORMAT: Final = "edgereason-train-sweep"
_TAX_ROUNDS: Final = 5


def sweep(
    study: Annotated[
        Path, typer.Argument(help="TOML file: recipe, [axes], [eval]; see configs/study-*.toml.")
    ],
    traces: Annotated[list[Path], typer.Option(help="JSONL of `edgereason train traces`; repeatable.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder with a folder for each recipe.")],
    data: Annotated[
        Path | None, typer.Option(help="Questions of the evaluation; by default the task's data set.")
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Every combination, not one setting at a time.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. [all]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record.")] = False,
) -> None:
    """Train an adapter for each of several recipes, and say what each can do and costs at run time.

    Stopped or killed, the same command goes on.
    """
    from edgereason.cli.pull import fetch
    from edgereason.cli.terminal.interrupt import stop_on_interrupt
    from edgereason.cli.terminal.progress import progress_display
    from edgereason.cli.train_sft import learn, require_training
    from edgereason.config import parse, read_toml
    from edgereason.core.bundle import write_atomically
    from edgereason.errors import ConfigError
    from edgereason.evals.evaluate import EvalConfig
    from edgereason.evals.runs import run_task
    from edgereason.records.folder import about

    require_training()
    if (num_processes := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise ConfigError(
            f"train sweep is one process, and {num_processes} were started: start it without "
            "`accelerate launch`; `train sft` can be spread over processes"
        )
    from edgereason.train.lora.grid import points, read_study

    tables = read_toml(study)
    recipe, axes = read_study(study, tables)
    settings = parse(EvalConfig, tables.get("eval", {"task": "gsm8k"}), f"{study.name} [eval]")
    tries = points(recipe, axes, f"{study.name} [axes]", whole=whole)
    found: list[dict[str, Any]] = []
    with stop_on_interrupt() as should_stop, progress_display() as show:
        for number, point in enumerate(tries, 1):
            folder = output / point.name
            shown = _titled(show, f"{point.name} ({number} of {len(tries)})")
            trained = _trained(folder, point, traces) or learn(
                point.recipe,
                traces,
                folder,
                threads=threads,
                show=shown,
                should_stop=should_stop,
            )
            judged = trained and run_task(
                _of_bundle(settings, folder / "bundle"),
                folder / "eval",
                data=data,
                fetch=fetch,
                progress=_figures_on(shown),
                should_stop=should_stop,
            )
            if not trained or not judged:
                typer.echo(f"stopped; the same command goes on from {output}", err=True)
                raise typer.Exit(130)
            tax = _finished(folder / "tax.json") or _tax(fetch(point.recipe.base.name), folder, threads)
            found.append(_row(point.name, point.changed, trained, judged, tax))
    record = {"format": FORMAT, "study": tables, "points": found, **about(threads)}
    write_atomically(output / "sweep.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    typer.echo(json.dumps(record, ensure_ascii=False) if as_json else _table(found))


def _titled(show: Show, title: str) -> Show:
    return lambda done, total, note: show(done, total, f"{title}, {note}")


def _figures_on(show: Show) -> Callable[[Progress], None]:
    from edgereason.cli.terminal.progress import figures

    return lambda state: show(state.done, state.total, figures(state))


def _trained(folder: Path, point: Point, traces: list[Path]) -> dict[str, Any] | None:
    """What an earlier call trained there, by the same recipe on the same traces."""
    from edgereason.core.bundle import file_sha256
    from edgereason.errors import ConfigError

    record = _finished(folder / "record.json")
    if record is None:
        return None
    learned_from = [entry["sha256"] for entry in record["traces"]]
    if record["recipe"] != point.recipe.to_tables() or learned_from != [file_sha256(one) for one in traces]:
        raise ConfigError(
            f"{folder} holds a run of another recipe or other traces: give a new folder (--output)"
        )
    return record


def _finished(path: Path) -> dict[str, Any] | None:
    """What an earlier call left."""
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def _of_bundle(settings: EvalConfig, bundle: Path) -> EvalConfig:
    from dataclasses import replace

    from edgereason.core.types import Mode

    return replace(settings, bundle=str(bundle), model=None, mode=Mode.THINK)


def _tax(base: Path, folder: Path, threads: int | None) -> dict[str, Any]:
    """What a decode step costs with the adapter on, over one with it off."""
    from edgereason.bench.lab import EndlessEngine, Lab
    from edgereason.bench.step_measures import lora
    from edgereason.core.bundle import write_atomically
    from edgereason.core.machine import usable_cores

    num_threads = threads or usable_cores()
    with EndlessEngine(base, threads=num_threads) as engine:
        lab = Lab(engine, base, num_threads, _TAX_ROUNDS, 0, folder / "bundle" / "reasoning.gguf")
        figures = dict(lora(lab).figures)
    write_atomically(folder / "tax.json", json.dumps(figures) + "\n")
    return figures


def _row(
    name: str, changed: Any, trained: dict[str, Any], judged: dict[str, Any], tax: dict[str, Any]
) -> dict[str, Any]:
    figures = ("accuracy", "ci95", "n", "mean_tokens", "share_cut")
    return (
        {"name": name, "changed": dict(changed)}
        | {figure: judged[figure] for figure in figures}
        | {"loss": trained["end_loss"], "adapter_bytes": trained["adapter"]["size_bytes"]}
        | tax
    )


def _table(found: list[dict[str, Any]]) -> str:
    taxes = [name for name in found[0] if name.startswith("lora_tax")]
    head = ["", "accuracy", "95 % interval", "tokens", "loss", "adapter MB", *taxes]
    rows = [
        [
            point["name"],
            f"{point['accuracy']:.1%}",
            "{:.1%} to {:.1%}".format(*point["ci95"]),
            f"{point['mean_tokens']:.0f}",
            f"{point['loss']:.3f}",
            f"{point['adapter_bytes'] / 1e6:.1f}",
            *("" if point[name] is None else f"{point[name]:.2f}" for name in taxes),
        ]
        for point in found
    ]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
