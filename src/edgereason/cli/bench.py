"""`edgereason bench`: what this machine and this build reach, as a table for people and a line of JSON.

The last line of stdout is the record; with `--json` it is the only one, and the table goes to stderr like
progress does.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from edgereason.cli.help import RARE
from edgereason.cli.long_run import command_given, import_torch
from edgereason.cli.terminal.echo import echo
from edgereason.cli.terminal.progress import minutes
from edgereason.core.printable import json_text, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from edgereason.bench.progress import BenchProgress, Listener

Config = TypeVar("Config")
Record = dict[str, Any]

bench_app = typer.Typer(name="bench", no_args_is_help=True, help="Measure what this machine reaches.")

_Model = Annotated[
    str | None,
    typer.Option(help="One of `edgereason models`, a GGUF file, or a checkpoint; by default the default."),
]
_Rounds = Annotated[int, typer.Option(help="Rounds of every measure; fewer than 7 are a trial.")]
_Threads = Annotated[
    int | None, typer.Option(help="CPU threads; by default all that may be used.", rich_help_panel=RARE)
]
_AsIs = Annotated[
    bool,
    typer.Option(
        "--as-is", help="Measure the file itself, not a plain Q4_0 made of it.", rich_help_panel=RARE
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="Print the JSON record alone.")]


@bench_app.callback()
def _bench() -> None:
    """Measure what this machine reaches."""


@bench_app.command()
def engine(
    model: _Model = None,
    rounds: _Rounds = 7,
    threads: _Threads = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="steps, prefill, switch, streams, cells or lora; may be given several times."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Measure the engine against bare llama.cpp: steps, prefill, switch, streams, cells, adapter."""
    from edgereason.bench.engine import EngineBenchConfig, bench_engine
    from edgereason.hub.catalog import DEFAULT_MODEL

    config = EngineBenchConfig(
        model=model or DEFAULT_MODEL, rounds=rounds, threads=threads, only=tuple(only or ())
    )
    measure(bench_engine, config, _engine_table, as_json)


@bench_app.command()
def parallel(
    model: _Model = None,
    rounds: _Rounds = 7,
    streams: Annotated[str, typer.Option(help="Numbers of streams; 1 is always measured.")] = "1,2,4,8,16",
    depths: Annotated[str, typer.Option(help="Prompt lengths in tokens.")] = "128,512,1024",
    threads: _Threads = None,
    as_is: _AsIs = False,
    as_json: _Json = False,
) -> None:
    """Measure N streams over one prompt at several depths: tokens a second, step time over N = 1, KV."""
    from edgereason.bench.parallel import ParallelBenchConfig, bench_parallel
    from edgereason.hub.catalog import DEFAULT_MODEL

    config = ParallelBenchConfig(
        model=model or DEFAULT_MODEL,
        rounds=rounds,
        threads=threads,
        streams=_numbers(streams, "--streams"),
        depths=_numbers(depths, "--depths"),
        as_is=as_is,
    )
    measure(bench_parallel, config, _parallel_table, as_json)


@bench_app.command()
def compare(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL…", help="Names of `edgereason models`, or files.")
    ],
    rounds: _Rounds = 7,
    streams: Annotated[str, typer.Option(help="Numbers of streams.")] = "1,4,8",
    threads: _Threads = None,
    as_json: _Json = False,
) -> None:
    """Measure model files beside each other, as they are: tokens a second, bytes, memory."""
    from edgereason.bench.compare import CompareBenchConfig, bench_compare

    config = CompareBenchConfig(
        models=tuple(models), rounds=rounds, threads=threads, streams=_numbers(streams, "--streams")
    )
    measure(bench_compare, config, _compare_table, as_json)


@bench_app.command()
def switch(
    model: _Model = None,
    rounds: _Rounds = 7,
    lengths: Annotated[str, typer.Option(help="Prompt lengths in tokens.")] = "64,256,1024,4096",
    threads: _Threads = None,
    as_is: _AsIs = False,
    as_json: _Json = False,
) -> None:
    """Measure the time to the first token: chat, think on the prompt's cells, think encoding it again."""
    from edgereason.bench.switch import SwitchBenchConfig, bench_switch
    from edgereason.hub.catalog import DEFAULT_MODEL

    config = SwitchBenchConfig(
        model=model or DEFAULT_MODEL,
        rounds=rounds,
        threads=threads,
        lengths=_numbers(lengths, "--lengths"),
        as_is=as_is,
    )
    measure(bench_switch, config, _switch_table, as_json)


@bench_app.command()
def serve(
    model: _Model = None,
    rounds: _Rounds = 7,
    tokens: Annotated[
        int, typer.Option(min=1, help="Of every answer whose speed is measured.", rich_help_panel=RARE)
    ] = 64,
    threads: _Threads = None,
    as_is: _AsIs = False,
    as_json: _Json = False,
) -> None:
    """Measure the server over HTTP against the library: speed, gaps, kept prompts, a full queue, its end."""
    from edgereason.bench.serve import ServeBenchConfig, bench_serve
    from edgereason.hub.catalog import DEFAULT_MODEL

    config = ServeBenchConfig(
        model=model or DEFAULT_MODEL, rounds=rounds, tokens=tokens, threads=threads, as_is=as_is
    )
    measure(bench_serve, config, _serve_table, as_json)


class TrainMeasure(StrEnum):
    """What `bench train` measures."""

    STEP = "step"
    ROLLOUTS = "rollouts"


@bench_app.command()
def train(
    model: _Model = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; a plain step takes minutes.")] = 3,
    prompt_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of the prompt.", rich_help_panel=RARE)
    ] = 1000,
    responses: Annotated[int, typer.Option(min=1, help="Over one prompt.", rich_help_panel=RARE)] = 8,
    response_tokens: Annotated[
        int, typer.Option(min=2, help="Tokens of each response.", rich_help_panel=RARE)
    ] = 100,
    dtype: Annotated[
        str, typer.Option(help="Of the training step: float32 or bfloat16.", rich_help_panel=RARE)
    ] = "float32",
    only: Annotated[list[TrainMeasure] | None, typer.Option(help="Leave the other out.")] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Folder of a training, or a bundle, whose adapter draws. [the bare base]"
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(min=1, help="Responses that are drawn to each of 8 questions.", rich_help_panel=RARE),
    ] = 8,
    cap_tokens: Annotated[int, typer.Option(min=17, help="Longest of them.", rich_help_panel=RARE)] = 320,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads. [all]", rich_help_panel=RARE)
    ] = None,
    as_json: _Json = False,
) -> None:
    """Measure what masking saves in a training step, and what the engine saves in drawing responses.

    The one against full sequences, the other against transformers in float32.
    """
    from edgereason.cli.models import fetch
    from edgereason.hub.catalog import DEFAULT_MODEL

    import_torch("training steps are measured", "transformers", "safetensors", "peft")
    from edgereason.bench.train import RolloutShape, StepShape, TrainBenchConfig, run

    config = TrainBenchConfig(
        model=str(fetch(model or DEFAULT_MODEL)),
        rounds=rounds,
        threads=threads,
        dtype=dtype,
        only=tuple(map(str, only or ())),
        step=StepShape(prompt_tokens=prompt_tokens, responses=responses, response_tokens=response_tokens),
        rollouts=RolloutShape(samples=samples, cap_tokens=cap_tokens),
        start=start,
    )
    measure(run, config, _train_table, as_json)


def _numbers(text: str, option: str) -> tuple[int, ...]:
    """What a list such as 1,2,4 says."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{option} takes numbers such as 1,2,4, got {text!r}") from error


def measure(
    bench: Callable[[Config, Listener], Record],
    config: Config,
    table: Callable[[Record], Table],
    as_json: bool,
) -> None:
    """Runs a benchmark in view of the user.

    Shows its table and its machine, then the record, alone on stdout with `as_json`.
    """
    from rich.console import Console

    with display() as listener:
        record = bench(config, listener) | {"command": list(command_given(sys.argv[1:]))}
    console = Console(stderr=as_json, highlight=False, markup=False)
    console.print(table(record))
    _print_machine(record, console)
    echo(json_text(record, ensure_ascii=False))


def _engine_table(record: Record) -> Table:
    from edgereason.bench.engine import TARGETS

    default = record["default_file"]
    table = new_table(record, "figure", "Q4_0", "target", "", "default file")
    for name in (key for key in record if key != "rounds" and _is_figure(default.get(key, ""))):
        target = TARGETS.get(name)
        verdict = "" if target is None else "✓" if target.is_met(record[name]) else "✗"
        wanted = "" if target is None else str(target)
        table.add_row(name, figure(record[name]), wanted, verdict, figure(default[name]))
    return table


def _parallel_table(record: Record) -> Table:
    table = new_table(
        record, "tokens deep", "streams", "tok/s", "median tok/s", "step ÷ one stream's", "KV MB"
    )
    for case in record["cases"]:
        figures = (case["tokens_per_s"], case["median_tokens_per_s"], case["latency_ratio"])
        megabytes = case["kv_bytes"] / 1e6
        table.add_row(str(case["depth"]), str(case["streams"]), *map(figure, figures), figure(megabytes))
    return table


def _compare_table(record: Record) -> Table:
    streams = record["config"]["streams"]
    table = new_table(record, "file", "MB", "peak MB", "prefill tok/s", *(f"N = {n} tok/s" for n in streams))
    for file in record["files"]:
        speeds = [(file["prefill_tokens_per_s"], file["prefill_over_first"])]
        speeds += [(file[f"decode_tokens_per_s_n{n}"], file[f"decode_n{n}_over_first"]) for n in streams]
        table.add_row(
            printable(file["model"]["name"]),
            figure(file["model_bytes"] / 1e6),
            "unknown" if (peak := file["peak_rss_bytes"]) is None else figure(peak / 1e6),
            *(f"{figure(speed)} (× {1 / ratio:.2f})" for speed, ratio in speeds),
        )
    return table


def _switch_table(record: Record) -> Table:
    cases = {
        "chat": "chat, s",
        "chat_with_features": "with features, s",
        "think_shared": "think, s",
        "think_reencoded": "encoded again, s",
    }
    ratios = {
        "reencoded_over_shared": "again ÷ think",
        "shared_over_chat": "think ÷ chat",
        "features_over_chat": "features ÷ chat",
    }
    table = new_table(record, "prompt", *cases.values(), *ratios.values())
    for row in record["lengths"]:
        figures = [row["ttft"][case]["min_s"] for case in cases] + [row[ratio] for ratio in ratios]
        table.add_row(str(row["prompt_tokens"]), *map(figure, figures))
    return table


def _serve_table(record: Record) -> Table:
    from edgereason.bench.serve import TARGETS

    table = new_table(record, "figure", "", "target", "")
    for name, target in TARGETS.items():
        table.add_row(name, figure(record[name]), str(target), "✓" if record["targets_met"][name] else "✗")
    return table


def _train_table(record: Record) -> Table:
    table = new_table(record, "figure", "")
    for name, value in record.items():
        if isinstance(value, float) and name not in ("total_s", "steal_share", "others_share"):
            table.add_row(name, figure(value))
    return table


def new_table(record: Record, *headings: str, left: int = 1) -> Table:
    """A table of a record, whose columns after the first `left` are numbers."""
    from rich.table import Table

    table = Table(*headings, title=printable(record["source"]["name"]))
    for column in table.columns[left:]:
        column.justify = "right"
    return table


def _print_machine(record: Record, console: Console) -> None:
    machine = record["machine"]
    bandwidth = f"{machine['read_bytes_per_s'] / 1e9:.1f} GB/s"
    console.print(
        f"{machine['cpu']}, {machine['threads']} threads, reads {bandwidth}; "
        f"the hypervisor took {_percent(record['steal_share'])} of the CPUs, "
        f"other processes {_percent(record['others_share'])}; {record['total_s']:.0f} s",
        soft_wrap=True,
    )
    for note in record["notes"]:
        console.print(printable(note), soft_wrap=True)


def _is_figure(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def figure(value: float | None) -> str:
    """A figure of a record for its table."""
    if value is None:
        return "failed"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}" if value < 10 else f"{value:,.1f}"


def _percent(share: float | None) -> str:
    return "an unknown share" if share is None else f"{share:.0%}"


@contextmanager
def display() -> Iterator[Listener]:
    """Shows on stderr what a benchmark tells."""
    from rich.console import Console

    from edgereason.bench.progress import Listener

    console = Console(stderr=True, highlight=False, markup=False)
    start_s: float | None = None

    def line(state: BenchProgress) -> str:
        nonlocal start_s
        # Counted from the first report on: what came before, a pull perhaps, says nothing of the rest.
        start_s = time.monotonic() if start_s is None else start_s
        spent_s = time.monotonic() - start_s
        left = minutes(spent_s * (1 / state.done - 1)) + " left" if state.done > 0.01 else "…"
        return f"{printable(state.file)}: {state.measure}, {state.done:.0%}, {left}"

    if not console.is_terminal:
        yield Listener(_sparse(line), lambda text: echo(text, err=True))
        return
    with console.status("starting") as status:
        yield Listener(
            lambda state: status.update(line(state)),
            lambda text: console.print(printable(text), soft_wrap=True),
        )


def _sparse(line: Callable[[BenchProgress], str]) -> Callable[[BenchProgress], None]:
    """A line when a measure begins, and at every twentieth of the run, for logs."""
    last: tuple[object, ...] = ()

    def report(state: BenchProgress) -> None:
        nonlocal last
        text, now = line(state), (state.file, state.measure, int(20 * state.done))
        if now != last:
            last = now
            echo(text, err=True)

    return report
