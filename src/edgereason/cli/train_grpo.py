"""`edgereason train grpo`: teach a reasoning adapter to keep its budgets.

Owns the options, the engine that responses are drawn on, and the folder's bundle. Does not know how an
adapter is trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgereason.cli.train_sft import is_first_process, process_number, require_training

if TYPE_CHECKING:
    from edgereason.train.data.questions import Question
Questions = Annotated[
    list[str],
    typer.Option(metavar="FILE|reasoning-gym:NAME[:COUNT]", help="Questions with their answers; repeatable."),
]
Against = Annotated[
    list[Path] | None,
    typer.Option(help="Evaluation file whose questions are left out (13 words in a row); repeatable."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many of each source.")]


def grpo(
    recipe: Annotated[Path, typer.Argument(help="TOML file of the recipe; see configs/grpo-*.toml.")],
    start: Annotated[
        Path,
        typer.Option("--from", help="Folder of `edgereason train sft`, or a bundle, whose adapter learns."),
    ],
    questions: Questions,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for adapter, bundle and record.")],
    against: Against = None,
    limit: Limit = None,
    base: Annotated[
        str | None, typer.Option(help="A name of `edgereason models`, or a GGUF file. [the recipe's]")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="A light checkpoint of another folder to go on from.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. [all]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record.")] = False,
) -> None:
    """Train an adapter with rewards for right answers within the budget that the hint names (GRPO).

    Responses are drawn on the engine and the base that ship. Stopped or killed, the same command goes on.
    """
    from edgereason.cli.pull import fetch
    from edgereason.cli.terminal.interrupt import stop_on_interrupt
    from edgereason.cli.terminal.training import update_panel
    from edgereason.core.machine import usable_cores
    from edgereason.data.rows import import_optional
    from edgereason.engine.llama import LlamaEngine
    from edgereason.hub.store import models_folder
    from edgereason.reasoning.model import describe_base
    from edgereason.train.lora.finish import finish
    from edgereason.train.lora.start import started_from, trainable

    require_training()
    import_optional("trl", "budgets are trained", extra="train")
    import torch

    from edgereason.quant.gguf_file import GgufModel
    from edgereason.train.grpo.material import engine_swap, material_of, torch_swap
    from edgereason.train.grpo.recipe import GrpoRecipe
    from edgereason.train.grpo.recipe import grpo as carry_out
    from edgereason.train.quant.load import load_torch

    plan = GrpoRecipe.read(recipe)
    chosen, about_questions = usable_questions(questions, against, limit, plan.training.seed)
    path = fetch(base or plan.base.name)
    torch.set_num_threads(threads or usable_cores())
    with (
        stop_on_interrupt() as should_stop,
        update_panel() as report,
        LlamaEngine(path, threads=threads, shares_cells=False) as engine,
        trainable(start, gguf := GgufModel(path), about_base := describe_base(engine, path)) as adapter,
    ):
        material = material_of(engine, chosen, plan.budgets.buckets)
        current = output / "rollout" / str(process_number())
        record = carry_out(
            plan,
            load_torch(gguf, about_base.sha256, models_folder().parent / "converted"),
            about_base.sha256,
            adapter,
            material,
            engine_swap(engine, gguf, about_base.sha256, plan.training, current)
            if plan.training.rollouts == "engine"
            else torch_swap(material.vocabulary, plan.training),
            output,
            resume=resume,
            report=report,
            should_stop=should_stop,
        )
    if record is None:
        typer.echo(f"stopped; the same command goes on from {output}", err=True)
        raise typer.Exit(130)
    if not is_first_process():
        return
    record |= started_from(start) | about_questions
    record = finish(output, record, path, about_base, material.opening, plan.budgets.buckets, threads)
    size_bytes = record["adapter"]["size_bytes"]
    typer.echo(
        json.dumps(record, ensure_ascii=False)
        if as_json
        else f"{output / 'bundle'}: adapter of {size_bytes / 1e6:.1f} MB, {record['steps']} updates"
    )


def usable_questions(
    sources: list[str], against: list[Path] | None, limit: int | None, seed: int
) -> tuple[list[Question], dict[str, Any]]:
    """Questions that no evaluation asks, and what the record says of where they are from."""
    from edgereason.train.data.decontaminate import Evaluations
    from edgereason.train.data.questions import read_questions, require_unique_ids, usable

    read = [read_questions(source, limit=limit, seed=seed) for source in sources]
    require_unique_ids(question for source in read for question in source.questions)
    evaluations = Evaluations.read(against or ())
    chosen, counts = usable(read, evaluations)
    entries = [dict(source.entry) for source in read]
    return chosen, {"questions": entries, "left_out": counts, "against": list(evaluations.files)}
