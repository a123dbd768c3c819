"""`edgereason train shortest`: the shortest right responses of an adapter, to learn from before its rewards.

Owns the options and the engine that responses are drawn on. Does not know which responses are kept.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edgereason.cli.train_grpo import Against, Limit, Questions, usable_questions
from edgereason.cli.train_sft import require_training


def shortest(
    recipe: Annotated[
        Path, typer.Argument(help="TOML file of a recipe of `train grpo`: its buckets, margin and sampling.")
    ],
    start: Annotated[
        Path, typer.Option("--from", help="Folder of a training, or a bundle, whose adapter answers.")
    ],
    questions: Questions,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for samples, examples and record.")],
    against: Against = None,
    limit: Limit = None,
    base: Annotated[
        str | None, typer.Option(help="A name of `edgereason models`, or a GGUF file. [the recipe's]")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. [all]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record.")] = False,
) -> None:
    """Draw responses under every budget, and keep the shortest right one of each question and budget.

    Stopped or killed, the same command goes on. `train sft --examples` learns from what is kept.
    """
    from edgereason.cli.pull import fetch
    from edgereason.cli.terminal.interrupt import stop_on_interrupt
    from edgereason.cli.terminal.progress import progress_display, timed
    from edgereason.engine.llama import LlamaEngine
    from edgereason.reasoning.model import describe_base
    from edgereason.records.folder import about
    from edgereason.train.lora.start import shipped

    require_training()
    from edgereason.train.grpo.groups import Dealer
    from edgereason.train.grpo.material import material_of
    from edgereason.train.grpo.recipe import GrpoRecipe
    from edgereason.train.grpo.rollout import EngineRoller
    from edgereason.train.grpo.shortest import shortest as carry_out

    plan = GrpoRecipe.read(recipe)
    config = plan.training
    chosen, about_questions = usable_questions(questions, against, limit, config.seed)
    bundle, part = shipped(start)
    path = fetch(base or plan.base.name)
    with (
        stop_on_interrupt() as should_stop,
        progress_display() as show,
        LlamaEngine(path, threads=threads, shares_cells=False) as engine,
    ):
        about_base = describe_base(engine, path)
        bundle.check_base(about_base)
        material = material_of(engine, chosen, plan.budgets.buckets)
        for bucket in plan.budgets.buckets:
            material.require_room(bucket, plan.reward.cap_tokens(bucket))
        adapter = engine.load_adapter(bundle.verified_file(part))
        record = carry_out(
            output,
            Dealer(
                problems={problem.id: problem for problem in material.problems},
                opening=material.opening,
                hints=material.hints,
                vocabulary=material.vocabulary,
                rewards=plan.reward,
                count=config.samples,
                seed=config.seed,
            ),
            EngineRoller(
                engine, temperature=config.temperature, max_running=config.parallel, adapter=adapter
            ),
            about_base,
            {
                "adapter": part.sha256,
                "samples": config.samples,
                "temperature": config.temperature,
                "margin": plan.reward.margin,
                "floor": plan.reward.floor,  # floor and kind decide how far responses are drawn
                "kind": str(plan.reward.kind),
                "seed": config.seed,
            },
            about=about(threads) | about_questions,
            progress=timed(lambda done, total, left: show(done, total, f"groups, {left}")),
            should_stop=should_stop,
        )
    if record is None:
        typer.echo(f"stopped; the same command goes on from {output}", err=True)
        raise typer.Exit(130)
    kept = record["examples"]["rows"]
    typer.echo(
        json.dumps(record, ensure_ascii=False)
        if as_json
        else f"{output / record['examples']['name']}: {kept} shortest right responses of {record['samples']}"
    )
