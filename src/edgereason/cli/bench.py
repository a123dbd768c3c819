"""`edgereason bench`: what this machine and this build reach, as a table for people and a line of JSON.

The last line of stdout is the record; with `--json` it is the only one, and the table goes to stderr like
progress does. Does not know how anything is measured.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from edgereason.evals.bench.progress import BenchProgress

bench_app = typer.Typer(name="bench", no_args_is_help=True, help="Measure what this machine reaches.")


@bench_app.callback()
def _bench() -> None:
    """Measure what this machine reaches."""


@bench_app.command()
def engine(
    model: Annotated[
        str | None, typer.Option(help="One of `edgereason models`, or a GGUF file; by default the default.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of every measure; fewer than 7 are a trial.")] = 7,
    threads: Annotated[int | None, typer.Option(help="CPU threads; by default all that may be used.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="steps, prefill, switch, streams, cells or lora; may be given several times."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON record alone.")] = False,
) -> None:
    """Measure the engine against bare llama.cpp: steps, prefill, switch, streams, cells, adapter."""
    from rich.console import Console

    from edgereason.evals.bench.engine import EngineBenchConfig, bench_engine
    from edgereason.hub.catalog import DEFAULT_MODEL

    config = EngineBenchConfig(
        model=model or DEFAULT_MODEL, rounds=rounds, threads=threads, only=tuple(only or ())
    )
    with _display() as (report, notice):
        record = bench_engine(config, report, notice)
    _print_table(record, Console(stderr=as_json, highlight=False, markup=False))
    typer.echo(json.dumps(record, ensure_ascii=False))


def _print_table(record: dict[str, Any], console: Console) -> None:
    from rich.table import Table

    from edgereason.evals.bench.engine import TARGETS

    default = record["default_file"]
    table = Table("figure", "Q4_0", "target", "", "default file", title=f"{record['source']['name']}")
    for column in table.columns[1:]:
        column.justify = "right"
    for name in (key for key in record if key != "rounds" and _is_figure(default.get(key, ""))):
        target = TARGETS.get(name)
        verdict = "" if target is None else "✓" if target.is_met(record[name]) else "✗"
        wanted = "" if target is None else str(target)
        table.add_row(name, _format(record[name]), wanted, verdict, _format(default[name]))
    console.print(table)
    machine = record["machine"]
    bandwidth = f"{machine['read_bytes_per_s'] / 1e9:.1f} GB/s"
    console.print(
        f"{machine['cpu']}, {machine['threads']} threads, reads {bandwidth}; "
        f"the hypervisor took {_percent(record['steal_share'])} of the CPUs, "
        f"other processes {_percent(record['others_share'])}; {record['total_s']:.0f} s",
        soft_wrap=True,
    )
    for note in record["notes"]:
        console.print(note, soft_wrap=True)


def _is_figure(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _format(value: float | None) -> str:
    if value is None:
        return "failed"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}" if value < 10 else f"{value:,.1f}"


def _percent(share: float | None) -> str:
    return "an unknown share" if share is None else f"{share:.0%}"


@contextmanager
def _display() -> Iterator[tuple[Callable[[BenchProgress], None], Callable[[str], None]]]:
    """Something to report progress to, and something to give notices to; both on stderr."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False)
    start_s: float | None = None

    def line(state: BenchProgress) -> str:
        nonlocal start_s
        # Counted from the first report on: what came before, a pull perhaps, says nothing of the rest.
        start_s = time.monotonic() if start_s is None else start_s
        spent_s = time.monotonic() - start_s
        left = _minutes(spent_s * (1 / state.done - 1)) + " left" if state.done > 0.01 else "…"
        return f"{state.file}: {state.measure}, {state.done:.0%}, {left}"

    if not console.is_terminal:
        yield _sparse(line), lambda text: typer.echo(text, err=True)
        return
    with console.status("starting") as status:
        yield lambda state: status.update(line(state)), lambda text: console.print(text, soft_wrap=True)


def _sparse(line: Callable[[BenchProgress], str]) -> Callable[[BenchProgress], None]:
    """A line when a measure begins, and at every twentieth of the run, for logs."""
    last: tuple[object, ...] = ()

    def report(state: BenchProgress) -> None:
        nonlocal last
        text, now = line(state), (state.file, state.measure, int(20 * state.done))
        if now != last:
            last = now
            typer.echo(text, err=True)

    return report


def _minutes(seconds: float) -> str:
    return f"{seconds // 60:.0f}:{seconds % 60:02.0f}"
