"""`edgereason doctor`: what this machine has, what answers cost on it, and what suits it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgereason.cli.options import KV, BundleOption, KvOption, ModelOption, ThreadsOption, require_one
from edgereason.cli.terminal.echo import echo
from edgereason.core.printable import json_text, printable

if TYPE_CHECKING:
    from rich.table import Table

    from edgereason.bench.costs import Costs
    from edgereason.bench.doctor import Checkup, Machine


def doctor(
    bundle: BundleOption = None,
    model: ModelOption = None,
    threads: ThreadsOption = None,
    kv: KvOption = KV.F16,
    facts_only: Annotated[
        bool, typer.Option("--facts-only", help="Measure nothing: only what this machine has.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look at this machine, and measure in about 10 seconds what answers cost on it; fetches nothing."""
    from rich.console import Console

    from edgereason.bench.doctor import examine

    require_one(bundle, model, None)
    errors = Console(stderr=True, highlight=False, markup=False)
    shown = errors.status("looking at this machine …") if errors.is_terminal else nullcontext()
    with shown as status:
        found = examine(
            bundle=bundle,
            model=model,
            threads=threads,
            kv="q8_0" if kv is KV.Q8_0 else "f16",
            measures=not facts_only,
            tell=lambda what: status.update(f"{what} …") if status else None,
        )
    if as_json:
        echo(json_text(_to_json(found)))
        return
    console = Console(highlight=False, markup=False)
    for line in _machine_lines(found.machine):
        console.print(printable(line), soft_wrap=True)
    console.print()
    if found.costs is not None:
        console.print(printable(_title(found, found.costs)), soft_wrap=True)
        console.print(_costs_table(found.costs))
    console.print(_files_table(found))
    for line in _advice(found):
        console.print(printable(line), soft_wrap=True)


def _to_json(found: Checkup) -> dict[str, Any]:
    """The checkup with examples worked out."""
    from edgereason.bench.costs import SHALLOW_TOKENS
    from edgereason.bench.doctor import ANSWER_TOKENS

    costs = found.costs
    examples = (
        []
        if costs is None
        else [
            {
                "route": "think" if thinks else "chat",
                "streams": num_streams,
                "step_s": costs.step_s(num_streams, SHALLOW_TOKENS, thinks=thinks),
                "prompt_tokens": SHALLOW_TOKENS,
                "answer_tokens": ANSWER_TOKENS,
                "answer_s": costs.answer_s(SHALLOW_TOKENS, [ANSWER_TOKENS] * num_streams, thinks=thinks),
            }
            for thinks, num_streams in _cases(costs)
        ]
    )
    return {**asdict(found), "examples": examples}


def _cases(costs: Costs) -> list[tuple[bool, int]]:
    return [(False, 1), *((True, step.num_streams) for step in costs.think)]


def _machine_lines(machine: Machine) -> list[str]:
    extras = ", ".join(
        f"{extra} ({version})" if version else f"{extra} is not installed"
        for extra, version in machine.extras.items()
    )
    return [
        f"processor  {machine.processor}, {machine.system}",
        f"           {' '.join(machine.instructions) or 'its instructions are not known on this system'}",
        f"cores      {machine.cores} that this process may use",
        f"memory     {_gigabytes(machine.memory_bytes)}, {_gigabytes(machine.available_bytes)} available",
        f"disk       {_gigabytes(machine.disk_free_bytes)} are free where models are kept",
        f"kernels    {machine.kernels}",
        f"extras     {extras}",
    ]


def _gigabytes(num_bytes: int | None) -> str:
    return "unknown" if num_bytes is None else f"{num_bytes / 1e9:.1f} GB"


def _title(found: Checkup, costs: Costs) -> str:
    measured = "" if found.measured == found.model else f", estimated from {found.measured}"
    return (
        f"What answers of {found.model} cost{measured} ({costs.rounds} rounds; seconds of the whole command):"
    )


def _costs_table(costs: Costs) -> Table:
    from rich.table import Table

    from edgereason.bench.costs import SHALLOW_TOKENS
    from edgereason.bench.doctor import ANSWER_TOKENS

    table = Table("", "a step", "tokens/s", f"{ANSWER_TOKENS} tokens", f"{2 * ANSWER_TOKENS} tokens")
    for thinks, num_streams in _cases(costs):
        step_s = costs.step_s(num_streams, SHALLOW_TOKENS, thinks=thinks)
        table.add_row(
            f"think, {num_streams} stream{'' if num_streams == 1 else 's'}" if thinks else "chat",
            f"{1e3 * step_s:.1f} ms",
            f"{num_streams / step_s:.0f}",
            *(
                f"{costs.answer_s(SHALLOW_TOKENS, [length] * num_streams, thinks=thinks):.1f} s"
                for length in (ANSWER_TOKENS, 2 * ANSWER_TOKENS)
            ),
        )
    prompts = ", ".join(f"{costs.prompt_s(length):.2f} s for {length}" for length in (64, 256, 512))
    table.caption = f"behind a prompt of {SHALLOW_TOKENS} tokens; prompts: {prompts} tokens"
    if costs.peak_bytes is not None:
        table.caption += f"; memory: {costs.peak_bytes / 1e6:,.0f} MB at most"
    return table


def _files_table(found: Checkup) -> Table:
    from rich.table import Table

    from edgereason.bench.doctor import ANSWER_TOKENS

    table = Table("model", "size", "here", "memory", "tokens/s", f"{ANSWER_TOKENS} tokens", "suits")
    for file in found.files:
        table.add_row(
            file.name + (" *" if file.is_base else ""),
            f"{file.size_bytes / 1e6:,.0f} MB",
            "yes" if file.is_here else "no",
            "" if file.peak_bytes is None else f"{file.peak_bytes / 1e6:,.0f} MB",
            "" if file.tokens_per_s is None else f"{file.tokens_per_s:.0f}",
            "" if file.answer_s is None else f"{file.answer_s:.1f} s",
            "no" if file.obstacle else "" if found.costs is None else "yes",
        )
    table.columns[0].no_wrap = True
    table.caption = "* the base of the built-in bundle"
    if found.costs is not None:
        table.caption += "; figures are in proportion to sizes"
    return table


def _advice(found: Checkup) -> list[str]:
    lines = [f"{file.name} {file.obstacle}" for file in found.files if file.obstacle]
    if found.costs is not None:
        suits = f"no: it {found.obstacle}" if found.obstacle else "yes"
        lines.append(f"Does {found.model} suit this machine? {suits}")
        lines.append(f"Model that suits: {found.suggested or 'none of the catalogue'}")
        lines.append(f"Streams that cost little: {found.streams}")
    return lines + [f"note: {note}" for note in found.notes]
