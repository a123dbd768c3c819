"""`python -m benchmarks.peers`: our runtime beside others, on the same file, from the repository's root.

The last line of stdout is the record; with `--json` it is the only one.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.peers.bench import PeersBenchConfig, bench_peers
from benchmarks.peers.cases import OURS, PEERS
from edgereason.cli.bench import figure, measure, new_table
from edgereason.hub.catalog import DEFAULT_MODEL

if TYPE_CHECKING:
    from rich.table import Table


def main(
    model: Annotated[str, typer.Option(help="One of `edgereason models`, or a GGUF file.")] = DEFAULT_MODEL,
    rounds: Annotated[int, typer.Option(help="Rounds of every measure; fewer than 7 are a trial.")] = 7,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{', '.join(name for name in PEERS if name != OURS)}; repeatable.",
        ),
    ] = None,
    peer_python: Annotated[
        str, typer.Option(help="The interpreter that has the peers and edgereason; by default this one.")
    ] = sys.executable,
    threads: Annotated[int | None, typer.Option(help="CPU threads; by default all that may be used.")] = None,
    as_is: Annotated[
        bool, typer.Option("--as-is", help="Measure the file itself, not a plain Q4_0 made of it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON record alone.")] = False,
) -> None:
    """Measure ours beside other runtimes on the same file: first token, decoding, time to a voted answer."""
    config = PeersBenchConfig(
        model=model,
        rounds=rounds,
        threads=threads,
        only=tuple(only or ()),
        peer_python=peer_python,
        as_is=as_is,
    )
    measure(bench_peers, config, _table, as_json)


def _table(record: dict[str, Any]) -> Table:
    rows = new_table(record, "case", "contender", "seconds", "÷ ours", "tok/s", "answers", left=2)
    for name, case in record["cases"].items():
        for contender, figures in case["contenders"].items():
            answers = figures.get("num_answers")
            rows.add_row(
                name if contender == next(iter(case["contenders"])) else "",
                contender,
                *(figure(figures[key]) for key in ("min_s", "over_ours", "tokens_per_s")),
                "" if answers is None else f"{answers} of {case['completions']}",
            )
        rows.add_section()
    return rows


if __name__ == "__main__":
    typer.run(main)
