"""`edgereason train heads`: the switcher, from labelled prompts; the verifier, from a model's own traces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgereason.cli.help import RARE
from edgereason.cli.long_run import import_torch, run_context, show_record

if TYPE_CHECKING:
    from edgereason.heads.features import FeaturePart
    from edgereason.reasoning.model import Model
    from edgereason.records.context import RunContext

heads_app = typer.Typer(name="heads", no_args_is_help=True)

Output = Annotated[
    Path, typer.Option("--output", "-o", help="Folder of states, head and record; one that is there goes on.")
]
Into = Annotated[
    Path | None,
    typer.Option(help="A file of heads that gets this head too, beside or in place of what it holds."),
]
Int8 = Annotated[bool, typer.Option("--int8", help="Store weights in 8 bits.", rich_help_panel=RARE)]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Of each source that is learned from, only the first so many rows.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads. [all]", rich_help_panel=RARE)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the record.")]
Named = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="A name of `edgereason models`, a GGUF file, or a checkpoint (folder or OWNER/NAME).",
    ),
]
Base = Annotated[
    str | None,
    typer.Option(help="The bundle's base, where it is not to be found otherwise.", rich_help_panel=RARE),
]


class Reads(StrEnum):
    """What a verifier reads of a trace."""

    MEANS = "means"
    PROMPT = "prompt"


@heads_app.callback()
def _heads() -> None:
    """Train the switcher and the verifier of a bundle, on states of the engine that will run them."""


@heads_app.command("switcher")
def switcher(
    prompts: Annotated[
        list[Path],
        typer.Option(metavar="FILE", help="Rows {id, prompt, label 0 or 1, source}; repeatable."),
    ],
    output: Output,
    test: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="More such rows, which are only judged; repeatable."),
    ] = None,
    model: Named = None,
    bundle: Annotated[Path | None, typer.Option(help="Folder of a bundle: its base counts.")] = None,
    base: Base = None,
    layer: Annotated[
        list[int] | None,
        typer.Option(
            max=-2,
            help="Whose states are read, counted from the end; repeatable. [the best of four depths]",
            rich_help_panel=RARE,
        ),
    ] = None,
    parts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="average|last|average+last",
            help="What is read of them; repeatable. [the best of the three]",
            rich_help_panel=RARE,
        ),
    ] = None,
    weight_decay: Annotated[
        list[float] | None,
        typer.Option(min=0, help="To choose among; repeatable. [0.1, 1, 10]", rich_help_panel=RARE),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="The most that may be chosen. [40]", rich_help_panel=RARE)
    ] = None,
    into: Into = None,
    int8: Int8 = False,
    seed: Annotated[
        int, typer.Option(min=0, help="Of splits, first weights and noise.", rich_help_panel=RARE)
    ] = 0,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Train the switcher, which decides between chat and think; stopped or killed, it goes on."""
    _require_training(threads, model, bundle, base)
    from edgereason.heads.file import Storage
    from edgereason.train.heads.mlp import MlpConfig
    from edgereason.train.heads.prompt_states import read_prompts
    from edgereason.train.heads.switcher import SwitcherConfig, train_switcher

    given: dict[str, Any] = {"parts": tuple(map(_parts, parts))} if parts else {}
    mlp: dict[str, Any] = {"max_epochs": epochs} if epochs else {}
    if weight_decay:
        given["weight_decays"], mlp["weight_decay"] = tuple(weight_decay), weight_decay[0]
    config = SwitcherConfig(mlp=MlpConfig(seed=seed, **mlp), seed=seed, layers=tuple(layer or ()), **given)
    learned, judged = ([read_prompts(path) for path in paths] for paths in (prompts, test or []))
    with run_context(threads) as context, _loaded(model, bundle, base, context, into) as loaded:
        record = train_switcher(
            output,
            config,
            learned,
            judged,
            model=loaded,
            storage=Storage.INT8 if int8 else Storage.F32,
            context=context,
        )
    _end(record, output, into, as_json=as_json)


@heads_app.command("verifier")
def verifier(
    questions: Annotated[
        list[str],
        typer.Option(
            metavar="FILE|reasoning-gym:NAME[:COUNT]", help="Questions with right answers; repeatable."
        ),
    ],
    output: Output,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Evaluation file whose questions are left out (13 words in a row); repeatable.",
        ),
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="More questions, which are only judged; repeatable."),
    ] = None,
    model: Named = None,
    bundle: Annotated[Path | None, typer.Option(help="Folder of a bundle, whose adapter thinks.")] = None,
    base: Base = None,
    into: Into = None,
    samples: Annotated[int | None, typer.Option(help="Traces of each question. [8]")] = None,
    temperature: Annotated[float | None, typer.Option(help="[0.7]", rich_help_panel=RARE)] = None,
    budget: Annotated[int | None, typer.Option(help="Most tokens of a trace. [512]")] = None,
    reads: Annotated[
        Reads | None,
        typer.Option(
            help="A mean of the trace's states, or the state behind the paper's verification prompt. [means]"
        ),
    ] = None,
    int8: Int8 = False,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(min=0, help="Of draws and splits.", rich_help_panel=RARE)] = 0,
    parallel: Annotated[
        int | None, typer.Option(help="Traces that run at a time. [16]", rich_help_panel=RARE)
    ] = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Train the verifier, which scores finished traces; stopped or killed, it goes on."""
    _require_training(threads, model, bundle, base)
    from edgereason.heads.file import Storage
    from edgereason.train.data.decontaminate import Evaluations
    from edgereason.train.data.questions import read_questions
    from edgereason.train.heads.trace_states import TraceConfig
    from edgereason.train.heads.verifier import VerifierConfig, train_verifier

    options = {"samples": samples, "temperature": temperature, "budget": budget, "parallel": parallel}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    config = VerifierConfig(
        traces=TraceConfig(seed=seed, **given), reads_prompt=reads is Reads.PROMPT, seed=seed
    )
    learned = [read_questions(one, limit=limit, seed=seed) for one in questions]
    judged = [read_questions(one, seed=seed) for one in test or []]
    known = Evaluations.read(against or ())
    with run_context(threads) as context, _loaded(model, bundle, base, context, into) as loaded:
        record = train_verifier(
            output,
            config,
            learned,
            known,
            judged,
            model=loaded,
            storage=Storage.INT8 if int8 else Storage.F32,
            context=context,
        )
    _end(record, output, into, as_json=as_json)


def _parts(text: str) -> tuple[FeaturePart, ...]:
    """Parts of features, as ``average+last``."""
    from edgereason.heads.features import FeaturePart

    try:
        return tuple(map(FeaturePart, text.split("+")))
    except ValueError as error:
        raise typer.BadParameter(
            f"invalid value {text!r}; expected {', '.join(FeaturePart)}, or two with + between",
            param_hint="'--parts'",
        ) from error


def _require_training(threads: int | None, model: str | None, bundle: Path | None, base: str | None) -> None:
    """Refuses to begin without torch, or with two models."""
    from edgereason.core.machine import require_threads, usable_cores

    if model is not None and bundle is not None:
        raise typer.BadParameter("a bundle brings its model: give one of the two", param_hint="'--model'")
    if base is not None and bundle is None:
        raise typer.BadParameter("only a bundle has a base: give --bundle too", param_hint="'--base'")
    torch = import_torch("heads are trained")
    require_threads(threads)
    torch.set_num_threads(threads or usable_cores())


@contextmanager
def _loaded(
    model: str | None, bundle: Path | None, base: str | None, context: RunContext, into: Path | None
) -> Iterator[Model]:
    """The model that will run, without the heads that its bundle may have; `into` may get its heads."""
    from edgereason.cli.models import display
    from edgereason.core.bundle import Bundle
    from edgereason.heads.file import require_base
    from edgereason.hub.catalog import DEFAULT_MODEL
    from edgereason.reasoning.model import load
    from edgereason.train.heads.record import base_sha256

    if bundle is None:
        opened = load(context.fetch(model or DEFAULT_MODEL), threads=context.threads, shares_cells=False)
    else:
        Bundle.read(bundle)  # or a folder without a bundle would be taken for a model's name
        with display() as (report, notice):
            opened = load(
                bundle,
                base=None if base is None else context.fetch(base),
                threads=context.threads,
                shares_cells=False,
                use_heads=False,
                progress=report,
                notice=notice,
            )
    with opened as loaded:
        if into is not None and into.exists():  # refused now, not after hours
            require_base(into, base_sha256(loaded))
        yield loaded


def _end(record: dict[str, Any] | None, output: Path, into: Path | None, *, as_json: bool) -> None:
    """Says how it ended, after the head has gone where it is wanted too."""
    from edgereason.heads.file import merge_heads, read_heads

    path = into or output / "heads.safetensors"
    if record is not None and into is not None:
        merge_heads(into, read_heads(output / "heads.safetensors"))
    show_record(record, output, as_json, lambda record: _sentence(record, path))


def _sentence(record: dict[str, Any], path: Path) -> str:
    """How well the head judges what it has not learned from."""
    parts = []
    for name, figures in record["reliability"].items():
        if name != "train":
            ranks = (
                "no AUROC (one label only)" if figures["auroc"] is None else f"AUROC {figures['auroc']:.3f}"
            )
            if figures.get("auroc_standard_error") is not None:
                ranks += f" ± {figures['auroc_standard_error']:.3f}"
            parts.append(f"{name}: {ranks}, ECE {figures['ece']:.3f} of {figures['n']}")
    return f"{path}: {record['head']}; " + "; ".join(parts)
