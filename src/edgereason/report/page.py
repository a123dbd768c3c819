"""The report: one Markdown page and its figures, drawn from records and from nothing else.

::

    records ─ every part of PARTS ─→ blocks: text, tables, plots ─→ a temporary folder ─ moved ─→ DIR
                               └─ nothing to draw ─→ a line at the end, saying what would be needed

Everything is read and drawn before anything in DIR changes, and the page comes last. The same records give
the same bytes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Final

from edgereason.errors import ConfigError
from edgereason.report.benchmarks import engine_blocks, parallel_blocks, peer_blocks, switch_blocks
from edgereason.report.curves import budget_blocks, threshold_blocks, vote_blocks
from edgereason.report.lengths import length_blocks, reduction_blocks
from edgereason.report.markdown import DASH, cell, table
from edgereason.report.overview import overview_blocks, quantization_blocks, system_blocks
from edgereason.report.records import Record, Records, RecordSource, Run, distinct, read_records
from edgereason.report.style import Block, Plot, save

PAGE: Final = "report.md"


@dataclass(frozen=True, slots=True)
class PagePart:
    """A section of the page.

    Attributes:
        title: its heading.
        blocks: what it shows of the records; nothing if they don't hold it.
        needs: what it is drawn from, for those who miss it.
    """

    title: str
    blocks: Callable[[Records], list[Block]]
    needs: str


def _each_task(blocks: Callable[[str, Sequence[Run]], list[Block]]) -> Callable[[Records], list[Block]]:
    return lambda records: [block for of in records.tasks().items() for block in blocks(*of)]


def _each_sweep(blocks: Callable[[Record], list[Block]]) -> Callable[[Records], list[Block]]:
    return lambda records: [block for sweep in records.sweeps for block in blocks(sweep)]


def _each_bench(name: str, blocks: Callable[[Record], list[Block]]) -> Callable[[Records], list[Block]]:
    kind = f"edgereason-bench-{name}"
    return lambda records: [block for record in records.benches[kind] for block in blocks(record)]


PARTS: Final = (
    PagePart(
        "The whole system", system_blocks, "folders of evaluations, in the order in which parts were added"
    ),
    PagePart("Accuracy against tokens", _each_task(overview_blocks), "two evaluations of a task"),
    PagePart("Lengths of responses", _each_task(length_blocks), "an evaluation"),
    PagePart(
        "What became of each question's length",
        _each_task(reduction_blocks),
        "two evaluations of the same questions",
    ),
    PagePart(
        "The switcher",
        _each_sweep(threshold_blocks),
        "a sweep over a chat run, a think run and one with a switcher",
    ),
    PagePart(
        "Hard budgets", budget_blocks, "a sweep over hard budgets, or evaluations alike in all but theirs"
    ),
    PagePart("Votes", _each_sweep(vote_blocks), "a sweep over a run with several finished traces a question"),
    PagePart("Parallel scaling", _each_bench("parallel", parallel_blocks), "the record of `bench parallel`"),
    PagePart("Peers", _each_bench("peers", peer_blocks), "the record of `benchmarks.peers`"),
    PagePart("Switching", _each_bench("switch", switch_blocks), "the record of `bench switch`"),
    PagePart("Quantization", quantization_blocks, "records of `eval ppl`, or evaluations by likelihood"),
    PagePart("The engine", _each_bench("engine", engine_blocks), "the record of `bench engine`"),
)
"""The page, in order."""


def write_report(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Draws what the records hold into `folder`.

    Returns:
        What was written: the page, then the figures in its order.

    Raises:
        ConfigError: a record can't be read, matplotlib is missing, or the folder can't be written; then
            nothing in it was changed.
    """
    records = read_records(paths)
    target = folder.resolve()
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{folder} is a file: name a folder for the report")
    try:
        beside = target if target.is_dir() else target.parent  # on the same file system, so that moving is
        beside.mkdir(parents=True, exist_ok=True)  # renaming
        with tempfile.TemporaryDirectory(dir=beside, prefix=f".{PAGE}.") as temporary:
            stage = Path(temporary)
            page, figures = _draw(records, stage)
            (stage / PAGE).write_text(page, encoding="utf-8")
            target.mkdir(exist_ok=True)
            for name in (*figures, PAGE):
                (stage / name).replace(target / name)
    except OSError as error:
        raise ConfigError(f"{folder} can't be written: {error.strerror or error}") from error
    return [folder / name for name in (PAGE, *figures)]


def _draw(records: Records, stage: Path) -> tuple[str, list[str]]:
    """Draws all figures into `stage`; the page's text, and their names."""
    lines = [
        "# Report",
        "",
        "Drawn by `edgereason report` from these records, and from nothing else; each figure names its own.",
        "",
        _record_table(records),
        "",
    ]
    figures: list[str] = []
    names = set[str]()
    missing: list[str] = []
    for part in PARTS:
        blocks = part.blocks(records)
        if not blocks:
            missing.append(f"*{part.title}* needs {part.needs}")
            continue
        lines += [f"## {part.title}", ""]
        for block in blocks:
            if isinstance(block, Plot):
                name = save(replace(block, name=distinct(block.name, names, "-{}")), stage).name
                figures.append(name)
                lines += [f"![{cell(block.alt)}]({name})", "", _caption(block), ""]
            else:
                lines += [block, ""]
    if missing:
        lines += [f"Not drawn, for want of records: {'; '.join(missing)}.", ""]
    return "\n".join(lines), figures


def _caption(plot: Plot) -> str:
    sources = ", ".join(cell(str(source)) for source in plot.sources)
    return f"{plot.caption} Record{'s' if len(plot.sources) > 1 else ''}: {sources}."


def _record_table(records: Records) -> str:
    rows = [_record_row(run.source, _what(run), run.machine) for run in records.runs]
    rows += [
        _record_row(one.source, f"likelihoods on {one.values.text('task')}", one.machine)
        for one in records.likelihoods
    ]
    for record in (*records.sweeps, *records.perplexities, *chain(*records.benches.values())):
        kind = record.values.need("format", record.values.text).removeprefix("edgereason-")
        rows.append(_record_row(record.source, kind.replace("-", " "), record.machine))
    return table(["record", "what", "commit", "machine"], rows, right=False)


def _what(run: Run) -> str:
    name = "" if run.label == run.source.name else f": {run.label}"
    return f"evaluation on {run.task}{name}"


def _record_row(source: RecordSource, what: str, machine: str | None) -> list[str]:
    return [cell(source.name), cell(what), source.short_commit or DASH, cell(machine or DASH)]
