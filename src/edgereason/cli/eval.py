"""`edgereason eval`: how good the answers are, what they cost, and what else recorded rows can tell.

::

    eval TASK      asks a task's questions, or scores its options (--score loglik)
    eval sweep     curves from evaluations that are there
    eval compare   two or more of them, paired by question
    eval ppl       perplexity of a text
"""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperGroup

from edgereason.cli.help import RARE
from edgereason.cli.long_run import finished, run_context
from edgereason.cli.options import KV, CalculatorOption, EnableThinkingOption, KvOption
from edgereason.cli.terminal.echo import echo
from edgereason.core.printable import json_text
from edgereason.core.types import Effort, Mode, Vote

if TYPE_CHECKING:
    from edgereason.evals.record import C


_TASK: Final = "task"


class _TaskGroup(TyperGroup):
    """A group whose unknown subcommands are names of tasks: `eval gsm8k` is `eval task gsm8k`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [_TASK, *args]
        return super().parse_args(ctx, args)


eval_app = typer.Typer(name="eval", cls=_TaskGroup, no_args_is_help=True)


@eval_app.callback()
def _eval() -> None:
    """Evaluate a model on a task, as in `edgereason eval gsm8k --mode think`, or on recorded rows."""


Order = StrEnum("Order", ["CYCLIC", "GIVEN"])
"""In which orders options with letters are asked: in all cyclic ones, or in the file's alone."""

Score = StrEnum("Score", ["ANSWER", "LOGLIK"])
"""What is scored: answers that are generated, or the likelihood of those given."""


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
    score: Annotated[
        Score | None, typer.Option(help="Score answers, or the likelihood of the options given. [answer]")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A name of `edgereason models`, a GGUF file, or a checkpoint (folder or OWNER/NAME)."
        ),
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="Folder of a bundle.")] = None,
    mode: Annotated[Mode | None, typer.Option(help="chat, think or auto. [auto]")] = None,
    budget: Annotated[int | None, typer.Option(help="Most tokens that a stream may spend.")] = None,
    budget_s: Annotated[
        float | None, typer.Option(help="Seconds for a request; one runs at a time.", rich_help_panel=RARE)
    ] = None,
    effort: Annotated[Effort | None, typer.Option(help="A budget by name. [medium]")] = None,
    streams: Annotated[int | None, typer.Option(help="Streams a question. [1]")] = None,
    vote: Annotated[Vote | None, typer.Option(help="How streams become one answer.")] = None,
    stage: Annotated[
        str | None,
        typer.Option(
            help="Streams that begin, as 5 of 8; the others only while the vote is open.",
            rich_help_panel=RARE,
        ),
    ] = None,
    stop_early: Annotated[
        bool | None,
        typer.Option(
            "--stop-early/--no-stop-early",
            help="Whether a certain vote stops the others. [yes]",
            rich_help_panel=RARE,
        ),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Caps a chat answer.", rich_help_panel=RARE)] = None,
    system: Annotated[str | None, typer.Option(help="A system message.", rich_help_panel=RARE)] = None,
    calculator: CalculatorOption = None,
    enable_thinking: EnableThinkingOption = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy. [the task's preset]")] = None,
    top_p: Annotated[float | None, typer.Option(help="[the task's preset]", rich_help_panel=RARE)] = None,
    top_k: Annotated[int | None, typer.Option(help="0 is off. [40]", rich_help_panel=RARE)] = None,
    seed: Annotated[int | None, typer.Option(help="[0]")] = None,
    repeats: Annotated[int | None, typer.Option(help="Times each question is asked. [the preset]")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many rows.")] = None,
    parallel: Annotated[
        int | None, typer.Option(help="Streams that run at a time. [16]", rich_help_panel=RARE)
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. [all]", rich_help_panel=RARE)] = None,
    kv: Annotated[KV | None, typer.Option(help="Type of the KV cache. [f16]", rich_help_panel=RARE)] = None,
    orders: Annotated[
        Order | None,
        typer.Option(
            help="With --score loglik: orders in which options with letters are asked. [cyclic]",
            rich_help_panel=RARE,
        ),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(
            help="With --score loglik: examples before each question, the file's first rows. [0]",
            rich_help_panel=RARE,
        ),
    ] = None,
    run_code: Annotated[
        bool | None, typer.Option("--run-code", help="Let the task run what the model wrote.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="What reports call the run.", rich_help_panel=RARE)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json's content.")] = False,
) -> None:
    """Ask a task's questions and score the answers; a folder that is there goes on where it stopped."""
    from edgereason.evals.evaluate import EvalConfig
    from edgereason.evals.run import LoglikConfig, run_loglik, run_task

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
        "stage": None if stage is None else _numbers(stage, "--stage"),
        "stop_early": stop_early,
        "max_tokens": max_tokens,
        "system": system,
        "calculator": calculator,
        "enable_thinking": enable_thinking,
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
    with run_context() as context:
        summary = finished(
            (run_task if is_asked else run_loglik)(settings, folder, context, data=data), folder
        )
    echo(f"rows are in {folder}", err=True)
    echo(json_text(summary, ensure_ascii=False) if as_json else _sentence(summary))


def _score_of(path: Path | None) -> Score:
    """What a run file scores."""
    from edgereason.config import read_toml

    table = {} if path is None else read_toml(path).get("eval", {})
    return Score.LOGLIK if table.get("score") == Score.LOGLIK else Score.ANSWER


def _settings(kind: type[C], given: dict[str, Any], path: Path | None) -> C:
    """The run file's settings, with the options before them."""
    from edgereason.config import parse
    from edgereason.evals.record import read_config

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


@eval_app.command()
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
        bool,
        typer.Option(
            "--run-code", help="With --budgets: let the task run what the model wrote.", rich_help_panel=RARE
        ),
    ] = False,
    draws: Annotated[int, typer.Option(min=2, help="Draws of a vote curve.", rich_help_panel=RARE)] = 20,
    seed: Annotated[int, typer.Option(help="Of draws and bootstraps.", rich_help_panel=RARE)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record.")] = False,
) -> None:
    """Draw curves from evaluations: votes over streams, the switcher's threshold, hard budgets."""
    from edgereason.evals.run import CutConfig, run_sweep

    limits = _numbers(budgets or "", "--budgets")
    cut = CutConfig(limits_tokens=limits, data=data, model=model, run_code=run_code) if limits else None
    with run_context() as context:
        record = finished(run_sweep(runs, context, cut=cut, draws=draws, seed=seed))
    text = json_text(record, ensure_ascii=False)
    _write(output, text)
    for note in record["notes"]:
        echo(note, err=True)
    if as_json or output is None:
        echo(text)


def _numbers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise typer.BadParameter(
            f"expected numbers with commas between them, got {text!r}", param_hint=f"'{option}'"
        ) from error


@eval_app.command()
def compare(
    base: Annotated[
        Path,
        typer.Argument(
            metavar="BASE", help="Folder of one evaluation, or a sweep that cut one at hard budgets."
        ),
    ],
    others: Annotated[list[Path], typer.Argument(metavar="FOLDER…", help="Those to compare with it.")],
    seed: Annotated[int, typer.Option(help="Of the bootstrap.", rich_help_panel=RARE)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object on stdout.")] = False,
) -> None:
    """Pair evaluations by question: difference with its 95 % interval, questions won and lost, sign test."""
    from edgereason.evals.compare import compare_folders

    differences = compare_folders(base, others, seed=seed)
    if as_json:
        rows = [{"name": o.resolve().name, **asdict(d)} for o, d in zip(others, differences, strict=True)]
        echo(json_text({"base": base.resolve().name, "compared": rows}))
        return
    for other, found in zip(others, differences, strict=True):
        low, high = (100 * end for end in found.ci95)
        echo(
            f"{other}: {100 * found.accuracy:.1f} % against {100 * found.base_accuracy:.1f} % "
            f"on {found.num_questions} questions, {100 * found.difference:+.1f} points "
            f"({low:+.1f} to {high:+.1f}), {found.won} won, {found.lost} lost, p = {found.p_value:.2g}"
        )


@eval_app.command()
def ppl(
    text: Annotated[Path, typer.Argument(metavar="FILE", help="A .raw or .txt file, or rows with a text.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="A name of `edgereason models`, a GGUF file, or a checkpoint (folder or OWNER/NAME)."
        ),
    ] = None,
    window: Annotated[int, typer.Option(help="Tokens of a window.")] = 2048,
    stride: Annotated[
        int | None, typer.Option(help="Tokens between windows. [the window]", rich_help_panel=RARE)
    ] = None,
    limit_tokens: Annotated[
        int | None, typer.Option(help="Only the text's first so many tokens.", rich_help_panel=RARE)
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. [all]", rich_help_panel=RARE)] = None,
    kv: KvOption = KV.F16,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File of the record.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record.")] = False,
) -> None:
    """Measure the perplexity of a text by sliding windows."""
    from edgereason.evals.run import PplConfig, run_ppl
    from edgereason.hub.catalog import DEFAULT_MODEL

    config = PplConfig(
        model=model or DEFAULT_MODEL,
        window_tokens=window,
        stride_tokens=stride,
        limit_tokens=limit_tokens,
        kv="q8_0" if kv is KV.Q8_0 else "f16",
    )
    with run_context(threads) as context:
        record = finished(run_ppl(text, config, context))
    line = json_text(record, ensure_ascii=False)
    _write(output, line)
    low_high = record["ppl_ci95"]
    interval = "" if low_high is None else f" (95 % interval {low_high[0]:.3f} to {low_high[1]:.3f})"
    echo(
        line
        if as_json
        else f"perplexity {record['ppl']:.3f}{interval} over {record['num_tokens']} tokens, windows of "
        f"{record['window_tokens']}, {record['stride_tokens']} apart"
    )


def _write(output: Path | None, text: str) -> None:
    """Writes a record to a file, if one was named."""
    from edgereason.core.bundle import write_atomically

    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, text + "\n")


def report(
    records: Annotated[
        list[Path],
        typer.Argument(
            metavar="RECORD",
            help="Folders of evaluations, in the order in which the system was built up, and JSON records of "
            "`eval sweep`, `eval ppl` and `bench`.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for report.md and its figures.")],
) -> None:
    """Draw figures and one Markdown page from records."""
    from edgereason.report.page import write_report

    page, *figures = write_report(records, output)
    echo(f"{len(figures)} figures", err=True)
    echo(page)
