"""`edgereason train`: what the reasoning mode is trained with.

::

    train traces --questions …   a teacher's right solutions, made on this engine
    train traces --from …        traces or worked solutions that somebody else made, in our schema
    train answers                what a model says itself, in chat mode
    train sft, train export      an adapter from traces, and a bundle of it
    train shortest               an adapter's own shortest right responses
    train grpo                   an adapter that keeps its budgets
    train heads                  switcher and verifier (`train_heads.py`)
    train sweep                  several recipes, each trained, evaluated and timed
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgereason.cli.help import RARE
from edgereason.cli.long_run import import_torch, run_context, shape_of, show_dry_run, show_record
from edgereason.cli.terminal.echo import echo
from edgereason.cli.train_heads import heads_app

if TYPE_CHECKING:
    from edgereason.train.data.endpoint import EndpointConfig
    from edgereason.train.grpo.material import QuestionSources


train_app = typer.Typer(name="train", no_args_is_help=True)
train_app.add_typer(heads_app)

_Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for adapter, bundle and record.")]
_Against = Annotated[
    list[Path] | None,
    typer.Option(help="Evaluation file whose questions are left out (13 words in a row); repeatable."),
]
_Questions = Annotated[
    list[str],
    typer.Option(metavar="FILE|reasoning-gym:NAME[:COUNT]", help="Questions with their answers; repeatable."),
]
_Base = Annotated[
    str | None,
    typer.Option(help="A name of `edgereason models`, a GGUF file, or a checkpoint. [the recipe's]"),
]
_Resume = Annotated[
    Path | None,
    typer.Option(help="A light checkpoint of another folder to go on from.", rich_help_panel=RARE),
]
_Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many of each source.")]
_Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads. [all]", rich_help_panel=RARE)]
_DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Say what it would take, in memory, disk and time, and whether it fits."),
]
_Assume = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="Of a dry run: devices=8, device_gb=80, rows=…; repeatable.",
        rich_help_panel=RARE,
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="Print the record.")]


class Format(StrEnum):
    """Of traces that are read."""

    OPENTHOUGHTS3 = "openthoughts3"
    MIXTURE_OF_THOUGHTS = "mixture-of-thoughts"
    SHAREGPT = "sharegpt"
    TRL = "trl"
    S1K = "s1k"
    DEEPSCALER = "deepscaler"
    WORKED = "worked"
    PLAIN = "plain"


@train_app.callback()
def _train() -> None:
    """Train the reasoning mode, as in `edgereason train traces --questions gsm8k_train.jsonl -o traces`."""


@train_app.command("traces")
def traces(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of traces and record; one that is there goes on.")
    ],
    questions: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|reasoning-gym:NAME[:COUNT]",
            help="Make traces of these questions, which need answers; repeatable.",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE|FOLDER|NAME[:SUBSET]",
            help="Read traces of a file, of all files of a folder, or of a data set of the hub.",
        ),
    ] = None,
    format_: Annotated[Format | None, typer.Option("--format", help="Of the traces that are read.")] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Evaluation file whose questions are left out (13 words in a row); repeatable."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A name of `edgereason models`, a GGUF file, or a checkpoint: the teacher. "
            "Where traces are read, or with --endpoint, it counts tokens."
        ),
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Solutions of each question. [4]")] = None,
    keep: Annotated[int | None, typer.Option(help="Most traces of each question. [2]")] = None,
    instruction: Annotated[
        str | None,
        typer.Option(
            help="What the teacher is told, as its system message. [to think aloud and to check]",
            rich_help_panel=RARE,
        ),
    ] = None,
    calculator: Annotated[
        bool | None,
        typer.Option(
            help="Force exact results of arithmetic in what the teacher says. [no]", rich_help_panel=RARE
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 is greedy. [0.7]", rich_help_panel=RARE)
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Longest trace. [512; reading, what the context holds]", rich_help_panel=RARE
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many rows of each source.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="[0]", rich_help_panel=RARE)] = None,
    parallel: Annotated[
        int | None,
        typer.Option(help="Samples that run at a time. [16; of an endpoint 64]", rich_help_panel=RARE),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="An OpenAI-compatible server (vLLM, SGLang, `edgereason serve`) whose model is the teacher.",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="What the endpoint calls the teacher. [the only one that it serves]", rich_help_panel=RARE
        ),
    ] = None,
    key_env: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Environment variable with the endpoint's key. [no key]",
            rich_help_panel=RARE,
        ),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File with the endpoint's key. [no key]", rich_help_panel=RARE),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads. [all]", rich_help_panel=RARE)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record.")] = False,
) -> None:
    """Make reasoning traces from questions, or read those of others; stopped or killed, making goes on."""
    from edgereason.hub.catalog import DEFAULT_MODEL
    from edgereason.reasoning.model import load
    from edgereason.train.data.decontaminate import Evaluations
    from edgereason.train.data.endpoint import teacher_at
    from edgereason.train.data.generate import GenerateConfig, generate
    from edgereason.train.data.questions import read_questions
    from edgereason.train.data.readers import find_rows, read_into
    from edgereason.train.data.traces import Lengths

    making: dict[str, Any] = {
        "samples": samples,
        "keep": keep,
        "instruction": instruction,
        "calculator": calculator,
        "temperature": temperature,
        "seed": seed,
        "parallel": parallel,
        "endpoint": endpoint,
    }
    given = {name: value for name, value in making.items() if value is not None}
    _require_one_way(questions, source, format_, given)
    given |= {} if max_tokens is None else {"max_tokens": max_tokens}
    served = _endpoint(given.pop("endpoint", None), given, model=teacher, key_env=key_env, key_file=key_file)
    known = Evaluations.read(against or ())
    with run_context(threads) as context:
        if source is not None and format_ is not None:
            rows = find_rows(source, limit)
            with load(context.fetch(model or DEFAULT_MODEL), threads=threads, shares_cells=False) as loaded:
                record = read_into(
                    output,
                    rows,
                    format_.value,
                    against=known,
                    model=loaded,
                    max_tokens=max_tokens,
                    context=context,
                )
        else:
            config = GenerateConfig(**given)
            asked = [read_questions(one, limit=limit, seed=config.seed) for one in questions or ()]
            with load(context.fetch(model or DEFAULT_MODEL), threads=threads, shares_cells=False) as loaded:
                lengths = Lengths.of(loaded.engine)
                by = None if served is None else teacher_at(served, lengths)
                record = generate(output, config, asked, known, model=loaded, teacher=by, context=context)
    show_record(record, output, as_json, lambda record: _traces_sentence(record, output))


@train_app.command()
def answers(
    questions: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE", help="Rows with a question each; right answers aren't needed; repeatable."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of answers and record; one that is there goes on.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="A name of `edgereason models`, a GGUF file, or a checkpoint (folder or OWNER/NAME)."
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="System message. [the model's own]", rich_help_panel=RARE)
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.", rich_help_panel=RARE)] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.", rich_help_panel=RARE)] = 320,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many rows of each file.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of draws.", rich_help_panel=RARE)] = 0,
    parallel: Annotated[int, typer.Option(help="Answers that run at a time.", rich_help_panel=RARE)] = 16,
    threads: _Threads = None,
    as_json: _Json = False,
) -> None:
    """Let a model answer questions in chat mode, for `quantize --text`; stopped or killed, it goes on."""
    from edgereason.data.rows import read_file
    from edgereason.hub.catalog import DEFAULT_MODEL
    from edgereason.reasoning.model import load
    from edgereason.train.data.own_answers import OwnAnswersConfig, answer

    config = OwnAnswersConfig(
        system=system, temperature=temperature, max_tokens=max_tokens, seed=seed, parallel=parallel
    )
    sources = [read_file(path) for path in questions]
    with (
        run_context(threads) as context,
        load(context.fetch(model or DEFAULT_MODEL), threads=threads, shares_cells=False) as loaded,
    ):
        record = answer(output, config, sources, model=loaded, limit=limit, context=context)
    show_record(record, output, as_json, lambda record: _answers_sentence(record, output))


@train_app.command()
def sft(
    recipe: Annotated[Path, typer.Argument(help="TOML file of the recipe; see configs/sft-*.toml.")],
    output: _Output,
    traces: Annotated[
        list[Path] | None, typer.Option(help="JSONL of `edgereason train traces`; repeatable.")
    ] = None,
    examples: Annotated[
        Path | None, typer.Option(help="Examples in ids instead, as `edgereason train shortest` writes them.")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Folder of a training, or a bundle, whose adapter learns more."),
    ] = None,
    base: _Base = None,
    resume: _Resume = None,
    dry_run: _DryRun = False,
    assume: _Assume = None,
    threads: _Threads = None,
    as_json: _Json = False,
) -> None:
    """Fine-tune a reasoning adapter on traces, with the adapter off on prompts.

    Stopped or killed, the same command goes on. Runs in several processes under `torchrun`, or under
    `accelerate launch --multi_gpu`.
    """
    require_training()
    if dry_run:
        from edgereason.recipe.dry_run import Assumed, dry_sft
        from edgereason.train.lora.run import SftRecipe

        sft_recipe = SftRecipe.read(recipe)
        assumed = Assumed.parse(assume or ()).with_traces(traces or ())
        show_dry_run(dry_sft(sft_recipe, shape_of(base or sft_recipe.base.name), assumed, output), as_json)
        return
    if (traces is None) == (examples is None):
        raise typer.BadParameter("say which: --traces, or --examples in ids")
    with run_context(threads, base=base) as context:
        from edgereason.train.lora.run import SftRecipe, run

        record = run(
            SftRecipe.read(recipe),
            output,
            context,
            traces=traces or (),
            examples=examples,
            start=start,
            resume=resume,
        )
    _show_training(record, output, as_json)


@train_app.command()
def export(
    folder: Annotated[
        Path, typer.Argument(help="Folder of `edgereason train sft`, of this machine or another.")
    ],
    base: _Base = None,
) -> None:
    """Make a bundle of a trained adapter: what `train sft` does at its end, for runs of other machines."""
    require_training()
    with run_context(base=base) as context:
        from edgereason.train.lora import run

        adapter = run.export(folder, context)
    echo(f"{folder / run.BUNDLE}: adapter of {adapter['size_bytes'] / 1e6:.1f} MB")


@train_app.command()
def shortest(
    recipe: Annotated[
        Path,
        typer.Argument(help="TOML file of a recipe of `train grpo`: its buckets, margin and sampling."),
    ],
    start: Annotated[
        Path, typer.Option("--from", help="Folder of a training, or a bundle, whose adapter answers.")
    ],
    questions: _Questions,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for samples, examples and record.")],
    against: _Against = None,
    limit: _Limit = None,
    base: _Base = None,
    threads: _Threads = None,
    as_json: _Json = False,
) -> None:
    """Draw responses under every budget, and keep the shortest right one of each question and budget.

    Stopped or killed, the same command goes on. `train sft --examples` learns from what is kept.
    """
    require_training()
    with run_context(threads, base=base) as context:
        from edgereason.train.grpo.recipe import GrpoRecipe
        from edgereason.train.grpo.shortest import run

        record = run(
            GrpoRecipe.read(recipe),
            output,
            context,
            start=start,
            questions=_sources(questions, against, limit),
        )
    show_record(record, output, as_json, lambda record: _examples_sentence(record, output))


@train_app.command()
def grpo(
    recipe: Annotated[Path, typer.Argument(help="TOML file of the recipe; see configs/grpo-*.toml.")],
    start: Annotated[
        Path,
        typer.Option("--from", help="Folder of `edgereason train sft`, or a bundle, whose adapter learns."),
    ],
    questions: _Questions,
    output: _Output,
    against: _Against = None,
    limit: _Limit = None,
    base: _Base = None,
    resume: _Resume = None,
    dry_run: _DryRun = False,
    assume: _Assume = None,
    threads: _Threads = None,
    as_json: _Json = False,
) -> None:
    """Train an adapter with rewards for right answers within the budget that the hint names (GRPO).

    Responses are drawn on the engine and the base that ship. Stopped or killed, the same command goes on.
    """
    require_training("trl")
    if dry_run:
        from edgereason.recipe.dry_run import Assumed, dry_grpo
        from edgereason.train.grpo.recipe import GrpoRecipe

        grpo_recipe, assumed = GrpoRecipe.read(recipe), Assumed.parse(assume or ())
        shape = shape_of(base or grpo_recipe.base.name)
        show_dry_run(dry_grpo(grpo_recipe, start, shape, assumed, output), as_json)
        return
    with run_context(threads, base=base) as context:
        from edgereason.train.grpo.recipe import GrpoRecipe
        from edgereason.train.grpo.run import run

        record = run(
            GrpoRecipe.read(recipe),
            output,
            context,
            start=start,
            questions=_sources(questions, against, limit),
            resume=resume,
        )
    _show_training(record, output, as_json)


@train_app.command()
def sweep(
    study: Annotated[
        Path, typer.Argument(help="TOML file: recipe, [axes], [eval]; see configs/study-*.toml.")
    ],
    traces: Annotated[list[Path], typer.Option(help="JSONL of `edgereason train traces`; repeatable.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder with a folder for each recipe.")],
    data: Annotated[
        Path | None, typer.Option(help="Questions of the evaluation; by default the task's data set.")
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Every combination, not one setting at a time.")
    ] = False,
    threads: _Threads = None,
    as_json: _Json = False,
) -> None:
    """Train an adapter for each of several recipes, and say what each can do and costs at run time.

    Stopped or killed, the same command goes on.
    """
    require_training()
    with run_context(threads) as context:
        from edgereason.bench.study import Study, run

        record = run(Study.read(study, whole=whole), traces, output, context, data=data)
    show_record(record, output, as_json, lambda record: _study_table(record["points"]))


def require_training(*more: str) -> None:
    """Refuses to begin where what training needs is not installed."""
    import_torch("adapters are trained", "transformers", "safetensors", "peft", "accelerate", *more)


def _sources(questions: list[str], against: list[Path] | None, limit: int | None) -> QuestionSources:
    from edgereason.train.grpo.material import QuestionSources

    return QuestionSources(sources=questions, against=against or (), limit=limit)


def _show_training(record: dict[str, Any] | None, output: Path, as_json: bool) -> None:
    """Says what a training came to, in the one process that has its record."""
    if record != {}:
        show_record(record, output, as_json, lambda record: _training_sentence(record, output))


def _training_sentence(record: dict[str, Any], output: Path) -> str:
    size_bytes = record["adapter"]["size_bytes"]
    return f"{output / 'bundle'}: adapter of {size_bytes / 1e6:.1f} MB, {record['steps']} steps"


def _answers_sentence(record: dict[str, Any], output: Path) -> str:
    file, mean_tokens = record["answers"], record["tokens"]["mean"]
    return f"{output / file['name']}: {file['rows']} answers, {mean_tokens:.0f} tokens on average"


def _examples_sentence(record: dict[str, Any], output: Path) -> str:
    file = record["examples"]
    return f"{output / file['name']}: {file['rows']} shortest right responses of {record['samples']}"


def _require_one_way(
    questions: list[str] | None, source: str | None, format_: Format | None, given: dict[str, Any]
) -> None:
    """Refuses options that do not go together."""
    if (questions is None) == (source is None):
        raise typer.BadParameter("say which: traces made of --questions, or traces read --from somewhere")
    if (source is None) != (format_ is None):
        raise typer.BadParameter(f"--from and --format go together: {', '.join(Format)}")
    if source is not None and given:
        names = ", ".join(f"--{name}" for name in given)
        raise typer.BadParameter(f"{names} is for traces that are made of --questions")


def _endpoint(
    url: str | None,
    making: dict[str, Any],
    *,
    model: str | None,
    key_env: str | None,
    key_file: Path | None,
) -> EndpointConfig | None:
    """Where the teacher is served, if it is; takes what an endpoint has for itself out of `making`."""
    given = {"teacher": model, "key-env": key_env, "key-file": key_file}
    if url is None:
        if names := [f"--{name}" for name, value in given.items() if value is not None]:
            raise typer.BadParameter(f"{', '.join(names)} is for a teacher behind an --endpoint")
        return None
    from edgereason.train.data.endpoint import EndpointConfig

    if making.pop("calculator", None):
        raise typer.BadParameter("--calculator works on this engine: leave it out, or leave out --endpoint")
    parallel = making.pop("parallel", None)
    more = {} if parallel is None else {"parallel": parallel}
    key_file_name = None if key_file is None else str(key_file)
    return EndpointConfig(url=url, model=model, key_env=key_env, key_file=key_file_name, **more)


def _traces_sentence(record: dict[str, Any], output: Path) -> str:
    """How many traces there are, and what became of the rest."""
    from edgereason.train.data.traces import TRACES

    parts = []
    for name, found in record["yield"].items():
        tokens = found["tokens"]
        length = "" if tokens is None else f", {tokens['mean']:.0f} tokens on average"
        if record["way"] == "read":
            kinds = {key: value for key, value in found.items() if isinstance(value, int)}
            rest = ", ".join(f"{k} {v}" for k, v in kinds.items() if k not in ("rows", "traces"))
            parts.append(
                f"{name}: {found['traces']} of {found['rows']} rows{length}{f' ({rest})' if rest else ''}"
            )
        else:
            right = found["share_right"]
            parts.append(
                f"{name}: {found['traces']} traces for {found['questions_with_traces']} of "
                f"{found['questions']} questions{length}"
                + ("" if right is None else f"; {right:.0%} of {found['samples']} samples right")
            )
    total = record["traces"]["rows"]
    return f"{output / TRACES}: {total} trace{'' if total == 1 else 's'}; " + "; ".join(parts)


def _study_table(found: list[dict[str, Any]]) -> str:
    taxes = [name for name in found[0] if name.startswith("lora_tax")]
    head = ["", "accuracy", "95 % interval", "tokens", "loss", "adapter MB", *taxes]
    rows = [
        [
            point["name"],
            f"{point['accuracy']:.1%}",
            "{:.1%} to {:.1%}".format(*point["ci95"]),
            f"{point['mean_tokens']:.0f}",
            f"{point['loss']:.3f}",
            f"{point['adapter_bytes'] / 1e6:.1f}",
            *("" if point[name] is None else f"{point[name]:.2f}" for name in taxes),
        ]
        for point in found
    ]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
