"""`edgereason eval TASK`: a task's questions asked and scored, or its options weighed by likelihood.

Owns the options, and which of them go together. Does not know how anything is asked, scored or summed up.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgereason.cli.options import KV
from edgereason.core.types import Effort, Mode, Vote

if TYPE_CHECKING:
    from edgereason.records.folder import C


class Order(StrEnum):
    """In which orders options with letters are asked: in all cyclic ones, or in the file's alone."""

    CYCLIC = "cyclic"
    GIVEN = "given"


class Score(StrEnum):
    """What is scored: answers that are generated, or the likelihood of those given."""

    ANSWER = "answer"
    LOGLIK = "loglik"


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
    score: Annotated[
        Score | None, typer.Option(help="Score answers, or the likelihood of the options given. [answer]")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A name of `edgereason models`, or a GGUF file.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Folder of a bundle.")] = None,
    mode: Annotated[Mode | None, typer.Option(help="chat, think or auto. [auto]")] = None,
    budget: Annotated[int | None, typer.Option(help="Most tokens that a stream may spend.")] = None,
    budget_s: Annotated[float | None, typer.Option(help="Seconds for a request; one runs at a time.")] = None,
    effort: Annotated[Effort | None, typer.Option(help="A budget by name. [medium]")] = None,
    streams: Annotated[int | None, typer.Option(help="Streams a question. [1]")] = None,
    vote: Annotated[Vote | None, typer.Option(help="How streams become one answer.")] = None,
    stop_early: Annotated[
        bool | None,
        typer.Option("--stop-early/--no-stop-early", help="Whether a certain vote stops the others. [yes]"),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Caps a chat answer.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy. [the task's preset]")] = None,
    top_p: Annotated[float | None, typer.Option(help="[the task's preset]")] = None,
    top_k: Annotated[int | None, typer.Option(help="0 is off. [40]")] = None,
    seed: Annotated[int | None, typer.Option(help="[0]")] = None,
    repeats: Annotated[int | None, typer.Option(help="Times each question is asked. [the preset]")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many rows.")] = None,
    parallel: Annotated[int | None, typer.Option(help="Streams that run at a time. [16]")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. [all]")] = None,
    kv: Annotated[KV | None, typer.Option(help="Type of the KV cache. [f16]")] = None,
    orders: Annotated[
        Order | None,
        typer.Option(help="With --score loglik: orders in which options with letters are asked. [cyclic]"),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(help="With --score loglik: examples before each question, the file's first rows. [0]"),
    ] = None,
    run_code: Annotated[
        bool | None, typer.Option("--run-code", help="Let the task run what the model wrote.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="What reports call the run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json's content.")] = False,
) -> None:
    """Ask a task's questions and score the answers; a folder that is there goes on where it stopped."""
    from edgereason.cli.pull import fetch
    from edgereason.cli.terminal.interrupt import stop_on_interrupt
    from edgereason.cli.terminal.progress import figures, progress_display
    from edgereason.evals.evaluate import EvalConfig
    from edgereason.evals.runs import LoglikConfig, run_loglik, run_task

    options = {
        "task": name,
        "model": model,
        "bundle": None if bundle is None else str(bundle),
        "mode": mode,
        "budget": budget,
        "budget_s": budget_s,
        "effort": effort,
        "streams": streams,
        "vote": vote,
        "stop_early": stop_early,
        "max_tokens": max_tokens,
        "system": system,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "seed": seed,
        "repeats": repeats,
        "limit": limit,
        "parallel": parallel,
        "threads": threads,
        "kv": None if kv is None else kv.value,
        "orders": None if orders is None else orders.value,
        "shots": shots,
        "run_code": run_code,
        "label": label,
    }
    given = {key: value for key, value in options.items() if value is not None}
    score = score or _score_of(config)
    is_asked = score is Score.ANSWER
    settings: Any = _settings(EvalConfig if is_asked else LoglikConfig, given, config)
    folder = output or _new_folder(settings.task, score)
    with stop_on_interrupt() as should_stop, progress_display() as show:
        summary = (run_task if is_asked else run_loglik)(
            settings,
            folder,
            data=data,
            fetch=fetch,
            progress=lambda state: show(state.done, state.total, figures(state)),
            should_stop=should_stop,
        )
    if summary is None:
        typer.echo(f"stopped: the same command with -o {folder} goes on", err=True)
        raise typer.Exit(130)
    typer.echo(f"rows are in {folder}", err=True)
    typer.echo(json.dumps(summary, ensure_ascii=False) if as_json else _sentence(summary))


def _score_of(path: Path | None) -> Score:
    """What a run file scores."""
    from edgereason.config import read_toml

    table = {} if path is None else read_toml(path).get("eval", {})
    return Score.LOGLIK if table.get("score") == Score.LOGLIK else Score.ANSWER


def _settings(kind: type[C], given: dict[str, Any], path: Path | None) -> C:
    """The run file's settings, with the options before them."""
    from edgereason.config import parse
    from edgereason.records.folder import read_config

    if path is not None:
        base = read_config(path, kind)
        parse(kind, {"task": base.task, **given}, "the command line")
        return replace(base, **given)  # type: ignore[type-var]
    if "task" not in given:
        raise typer.BadParameter("say which task, or give --config", param_hint="'TASK'")
    return parse(kind, given, "the command line")


def _new_folder(task_name: str, score: Score) -> Path:
    name = task_name.replace(":", "-") + ("" if score is Score.ANSWER else f"-{score}")
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def _sentence(summary: dict[str, Any]) -> str:
    if "acc" in summary:
        low, high = summary["acc_ci95"]
        ppl = "" if summary["ppl"] is None else f"; perplexity {summary['ppl']:.2f}"
        shares = ", ".join(f"{letter} {share:.0%}" for letter, share in (summary["letters"] or {}).items())
        letters = f"; likeliest letter in the given order: {shares}" if shares else ""
        # Letters are all of one length, so that their lengths decide nothing.
        norm = "" if shares or summary["acc_norm"] is None else f"; by length {summary['acc_norm']:.1%}"
        return (
            f"{summary['task']}: {summary['acc']:.1%} likeliest (95 % interval {low:.1%} to {high:.1%}, "
            f"{summary['n']} questions){norm}{ppl}{letters}"
        )
    low, high = summary["ci95"]
    median, p90 = summary["median_tokens"], summary["p90_tokens"]
    return (
        f"{summary['task']}: {summary['accuracy']:.1%} right (95 % interval {low:.1%} to {high:.1%}, "
        f"{summary['num_questions']} questions); tokens: mean {summary['mean_tokens']:.0f}, "
        f"median {median:.0f}, 90 % below {p90:.0f}; {summary['share_cut']:.0%} cut"
    )
