"""`edgereason eval`: how good the answers are, what they cost, and what else the rows can tell.

::

    eval TASK      asks a task's questions: rows, then figures
    eval sweep     curves from rows that are there
    eval ppl       perplexity of a text

Owns the options and the progress display. Does not know how anything is asked, scored or summed up.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperGroup

from edgereason.core.types import Effort, Mode, Vote

if TYPE_CHECKING:
    from edgereason.evals.evaluate import EvalConfig, Progress

_TASK: Final = "task"


class _TaskGroup(TyperGroup):
    """A group whose unknown subcommands are names of tasks: `eval gsm8k` is `eval task gsm8k`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [_TASK, *args]
        return super().parse_args(ctx, args)


eval_app = typer.Typer(
    name="eval", cls=_TaskGroup, no_args_is_help=True, help="Evaluate a model on a task, or on recorded rows."
)


@eval_app.callback()
def _eval() -> None:
    """Evaluate: `edgereason eval gsm8k --mode think --budget 512`; TASK may stand for a subcommand."""


@eval_app.command(_TASK)
def task(
    name: Annotated[
        str | None,
        typer.Argument(metavar="TASK", help="gsm8k, math500, …, or gym:GENERATOR of reasoning-gym."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A TOML file with [eval]; options go before it.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="A local JSONL or Parquet file; by default the task's data set.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the record; one that is there goes on.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A name of `edgereason models`, or a GGUF file.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Folder of a bundle.")] = None,
    mode: Annotated[Mode | None, typer.Option(help="chat, think or auto. [auto]")] = None,
    budget: Annotated[int | None, typer.Option(help="Most tokens that a stream may spend.")] = None,
    effort: Annotated[Effort | None, typer.Option(help="A budget by name. [medium]")] = None,
    streams: Annotated[int | None, typer.Option(help="Streams a question. [1]")] = None,
    vote: Annotated[Vote | None, typer.Option(help="How streams become one answer.")] = None,
    stop_early: Annotated[
        bool | None,
        typer.Option(
            "--stop-early/--no-stop-early",
            help="Whether a certain vote stops the other streams. [yes]",
        ),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Caps a chat answer.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy. [the task's preset]")] = None,
    top_p: Annotated[float | None, typer.Option(help="[the task's preset]")] = None,
    seed: Annotated[int | None, typer.Option(help="[0]")] = None,
    repeats: Annotated[int | None, typer.Option(help="Times each question is asked. [the preset]")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many rows.")] = None,
    parallel: Annotated[int | None, typer.Option(help="Streams that run at a time. [16]")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. [all]")] = None,
    run_code: Annotated[
        bool | None,
        typer.Option("--run-code", help="Let code tasks run what the model wrote, in a limited process."),
    ] = None,
    label: Annotated[str | None, typer.Option(help="What reports call the run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json's content.")] = False,
) -> None:
    """Ask a task's questions and score the answers."""
    given = {
        "task": name,
        "model": model,
        "bundle": None if bundle is None else str(bundle),
        "mode": mode,
        "budget": budget,
        "effort": effort,
        "streams": streams,
        "vote": vote,
        "stop_early": stop_early,
        "max_tokens": max_tokens,
        "system": system,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "repeats": repeats,
        "limit": limit,
        "parallel": parallel,
        "threads": threads,
        "run_code": run_code,
        "label": label,
    }
    settings = _settings({key: value for key, value in given.items() if value is not None}, config)
    summary = _run(settings, data, output or _new_folder(settings))
    if summary is None:
        raise typer.Exit(130)
    if as_json:
        typer.echo(json.dumps(summary, ensure_ascii=False))
    else:
        _print(summary)


def _settings(given: dict[str, Any], path: Path | None) -> EvalConfig:
    """The run file's settings with the options before them."""
    from edgereason.evals.evaluate import EvalConfig
    from edgereason.evals.record import read_config

    if path is not None:
        return replace(read_config(path), **given)
    if "task" not in given:
        raise typer.BadParameter("say which task, or give --config", param_hint="'TASK'")
    assert given.keys() <= {field.name for field in fields(EvalConfig)}
    return EvalConfig(**given)


def _new_folder(config: EvalConfig) -> Path:
    name = config.task.replace(":", "-")
    return Path("runs") / f"{name}-{config.mode}-{datetime.now():%Y%m%d-%H%M%S}"


def _run(config: EvalConfig, data: Path | None, folder: Path) -> dict[str, Any] | None:
    """The summary; None if it was interrupted."""
    from edgereason.cli.interrupt import stop_on_interrupt
    from edgereason.cli.pull import display
    from edgereason.errors import ConfigError
    from edgereason.evals.evaluate import evaluate
    from edgereason.evals.record import open_folder, resolve_config, write_summary
    from edgereason.evals.tasks.catalog import load_task
    from edgereason.reasoning.model import load

    # Everything that may be refused is, before a model is loaded or a folder made.
    loaded_task = load_task(config.task, data=data, limit=config.limit, seed=config.seed)
    if loaded_task.runs_code and not config.run_code:
        raise ConfigError(f"{config.task} runs programs that the model writes: allow it with --run-code")
    resolved = resolve_config(config, loaded_task)
    resolved.request("?", 0)
    with display() as (report, notice):
        model = load(config.bundle or config.model, threads=config.threads, progress=report, notice=notice)
    with model, stop_on_interrupt() as should_stop:
        record = open_folder(folder, resolved, loaded_task, model.info, model.bundle)
        with _progress(folder) as progress:
            samples, speed = evaluate(
                resolved, loaded_task.items, model, folder, progress=progress, should_stop=should_stop
            )
        if len(samples) < len(loaded_task.items) * (resolved.repeats or 1):
            typer.echo(f"stopped; the same command with -o {folder} goes on", err=True)
            return None
        return write_summary(folder, resolved, record, samples, speed)


def _print(summary: dict[str, Any]) -> None:
    low, high = summary["ci95"]
    median, p90 = summary["median_tokens"], summary["p90_tokens"]
    typer.echo(
        f"{summary['task']}: {summary['accuracy']:.1%} right (95 % interval {low:.1%} to {high:.1%}, "
        f"{summary['num_questions']} questions); tokens: mean {summary['mean_tokens']:.0f}, "
        f"median {median:.0f}, 90 % below {p90:.0f}; {summary['share_cut']:.0%} cut"
    )


@contextmanager
def _progress(folder: Path) -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal; a line a minute elsewhere; both on stderr."""
    import time

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True, highlight=False, markup=False)
    typer.echo(f"rows go to {folder}", err=True)
    if not console.is_terminal:
        last_s = 0.0

        def line(state: Progress) -> None:
            nonlocal last_s
            if time.monotonic() - last_s >= 60 or state.done == state.total:
                last_s = time.monotonic()
                typer.echo(f"{state.done} of {state.total} done, {_figures(state)}", err=True)

        yield line
        return
    with Bar(
        MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}", markup=False), console=console
    ) as bar:
        number = bar.add_task("starting")
        yield lambda state: bar.update(
            number, completed=state.done, total=state.total, description=_figures(state)
        )


def _figures(state: Progress) -> str:
    accuracy = "" if state.accuracy is None else f"{state.accuracy:.1%} right, "
    speed = "" if state.tokens_per_s is None else f"{state.tokens_per_s:.0f} tok/s, "
    left = "…" if state.left_s is None else f"{state.left_s // 60:.0f}:{state.left_s % 60:02.0f} left"
    return accuracy + speed + left
