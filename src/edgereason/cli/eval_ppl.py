"""`edgereason eval ppl`: perplexity of a text.

Owns the options and where the record goes. Does not know how it is measured.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edgereason.cli.options import KV, KvOption


def ppl(
    text: Annotated[Path, typer.Argument(metavar="FILE", help="A .raw or .txt file, or rows with a text.")],
    model: Annotated[str | None, typer.Option(help="A name of `edgereason models`, or a GGUF file.")] = None,
    window: Annotated[int, typer.Option(help="Tokens of a window.")] = 2048,
    stride: Annotated[int | None, typer.Option(help="Tokens between windows. [the window]")] = None,
    limit_tokens: Annotated[int | None, typer.Option(help="Only the text's first so many tokens.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. [all]")] = None,
    kv: KvOption = KV.F16,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File of the record.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record.")] = False,
) -> None:
    """Measure the perplexity of a text by sliding windows."""
    from edgereason.cli.pull import fetch
    from edgereason.cli.terminal.interrupt import stop_on_interrupt
    from edgereason.cli.terminal.progress import progress_display, timed
    from edgereason.core.bundle import write_atomically
    from edgereason.evals.runs import run_ppl
    from edgereason.hub.catalog import DEFAULT_MODEL

    with stop_on_interrupt() as should_stop, progress_display() as show:
        counted = timed(show)
        record = run_ppl(
            text,
            model=model or DEFAULT_MODEL,
            window_tokens=window,
            stride_tokens=stride,
            limit_tokens=limit_tokens,
            threads=threads,
            kv="q8_0" if kv is KV.Q8_0 else "f16",
            fetch=fetch,
            progress=lambda share: counted(round(100 * share), 100),
            should_stop=should_stop,
        )
    if record is None:
        typer.echo("stopped", err=True)
        raise typer.Exit(130)
    line = json.dumps(record, ensure_ascii=False)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, line + "\n")
    low_high = record["ppl_ci95"]
    interval = "" if low_high is None else f" (95 % interval {low_high[0]:.3f} to {low_high[1]:.3f})"
    typer.echo(
        line
        if as_json
        else f"perplexity {record['ppl']:.3f}{interval} over {record['num_tokens']} tokens, windows of "
        f"{record['window_tokens']}, {record['stride_tokens']} apart"
    )
