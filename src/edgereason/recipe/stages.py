"""The stages of a recipe, in the order in which they are carried out.

::

    data ─→ base ─→ traces ─→ sft ─→ refine ─→ shortest ─→ warm ─→ grpo ─┐
                 └→ switcher ────────────────────────────→ verifier ←────┤
                                             card ←─ evaluation ←─ calibration ←─ bundle

Each of them is an entrance that also has a command of its own, in a folder of its own. A stage says what it
needs, by which settings it is carried out, and which files it leaves; `run.py` decides whether it has to be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from edgereason.recipe import work
from edgereason.recipe.config import MakeRecipe, SftStage, TracesStage, plain
from edgereason.recipe.data import Source

Count = Callable[[Mapping[str, int]], float]
"""How much there is to do, by the number of rows of each data set."""

ALL: Final = ("*",)
_PARTS: Final = ("*.gguf", "*.safetensors")
"""Of a bundle: what it answers with. Its manifest tells its history too, which no answer depends on."""
_ADAPTER: Final = ("adapter/adapter_model.safetensors", "bundle/reasoning.gguf", "bundle/bundle.json")
_EXAMPLES: Final = 0.5
"""Share of questions and budgets that some response gets right, for an estimate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A step on the way from a base to a bundle.

    Attributes:
        name: of the stage, and of its folder.
        needs: stages before it, and patterns of those of their files that it depends on.
        config: its settings, in plain values.
        products: patterns of the files in its folder that others depend on; each has to match.
        run: carries it out, or goes on with what is there; returns None if it was stopped.
        amount: how much there is to do, in `unit`; None for next to nothing.
        keeps: beginnings of settings and needs whose change goes on with the rows that are there.
    """

    name: str
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    products: tuple[str, ...]
    run: work.Run
    amount: Count | None = None
    unit: str = ""
    keeps: tuple[str, ...] = ()


def stages_of(recipe: MakeRecipe, sources: Mapping[str, Source]) -> list[Stage]:
    """Every stage that the recipe has, in order.

    Args:
        recipe: what to make.
        sources: where its data are.
    """
    return [
        *_data(recipe, sources),
        _base(recipe),
        *_perplexity(recipe),
        *(_traces(recipe, name, one) for name, one in recipe.traces.items()),
        *_adapters(recipe),
        *_heads(recipe),
        *_bundle(recipe),
        *(_evaluation(recipe, name) for name in recipe.evaluation),
        _card(recipe),
    ]


def _data(recipe: MakeRecipe, sources: Mapping[str, Source]) -> Iterator[Stage]:
    for name, config in recipe.data.items():
        source = sources[name]
        chosen = {k: v for k, v in plain(config).items() if k in work.CHOICES}
        yield Stage(
            name=f"data/{name}",
            config=chosen | source.identity(),
            products=(source.file_name,),
            run=work.data(source),
        )
    for name, evaluation in recipe.evaluation.items():
        if evaluation.data is None:
            asked = evaluation.eval
            yield Stage(
                name=f"asked/{name}",
                config={"task": asked.task, "limit": asked.limit or 0, "seed": asked.seed},
                products=(f"asked-{name}.jsonl",),
                run=work.asked(name),
            )


def _base(recipe: MakeRecipe) -> Stage:
    quantize = recipe.quantize
    identity = work.model_identity(recipe.model)
    if quantize is None:
        return Stage(name="base", config=identity, products=("base.json",), run=work.given_base)
    tokens = quantize.end_to_end.num_tokens
    return Stage(
        name="base",
        needs=_data_needs(quantize.text),
        config=identity | plain(quantize),
        products=(f"{quantize.name}.gguf",),
        run=work.quantized_base,
        amount=(lambda _: tokens) if tokens else None,
        unit="tokens",
    )


def _traces(recipe: MakeRecipe, name: str, stage: TracesStage) -> Stage:
    is_made = stage.format is None
    config = plain(stage)
    config = {k: v for k, v in config.items() if k in (_MADE if is_made else _READ)}
    if is_made and stage.teacher != "base":
        config["teacher"] = work.model_identity(stage.teacher)
    if stage.endpoint is not None:  # where it is served decides nothing
        config["teacher"] = {"endpoint": stage.endpoint.model or ""}
    samples = stage.generate.samples if is_made else 1
    return Stage(
        name=f"traces/{name}",
        needs={"base": ALL} | _data_needs((stage.data,)) | _against(recipe, stage.against),
        config=config,
        products=("traces.jsonl",),
        run=work.traces(name),
        amount=lambda counts: counts[stage.data] * samples,
        unit="samples" if is_made else "rows",
        keeps=("config.generate.samples:", "config.generate.keep:", *_QUESTIONS) if is_made else (),
    )


_QUESTIONS: Final = ("config.data:", "config.against:", "needs.data/", "needs.asked/")
"""What may change where answers to single questions are kept: those that are asked already still count."""
_MADE: Final = ("data", "teacher", "against", "generate")
_READ: Final = ("data", "format", "against", "max_tokens")


def _adapters(recipe: MakeRecipe) -> Iterator[Stage]:
    yield _sft(recipe, "sft", recipe.sft)
    if recipe.refine is not None:
        yield _sft(recipe, "refine", recipe.refine)
    if recipe.shortest is not None and recipe.warm is not None:
        shortest, warm = recipe.shortest, recipe.warm
        drawn = len(shortest.budgets.buckets) * shortest.training.samples
        before = work.adapter_before(recipe, "shortest")
        yield Stage(
            name="shortest",
            needs={"base": ALL, before: ALL}
            | _data_needs(shortest.data)
            | _against(recipe, shortest.against),
            config=plain(shortest),
            products=("examples.jsonl",),
            run=work.shortest,
            amount=lambda counts: drawn * _rows(counts, shortest.data),
            unit="responses",
            keeps=_QUESTIONS,
        )
        yield Stage(
            name="warm",
            needs={"base": ALL, before: ALL, "shortest": ALL},
            config=plain(warm),
            products=_ADAPTER,
            run=work.sft("warm"),
            amount=lambda counts: (
                _EXAMPLES
                * warm.training.epochs
                * len(shortest.budgets.buckets)
                * _rows(counts, shortest.data)
            ),
            unit="rows",
        )
    if recipe.grpo is not None:
        training = recipe.grpo.training
        yield Stage(
            name="grpo",
            needs={"base": ALL, work.adapter_before(recipe, "grpo"): ALL}
            | _data_needs(recipe.grpo.data)
            | _against(recipe, recipe.grpo.against),
            config=plain(recipe.grpo),
            products=_ADAPTER,
            run=work.grpo,
            amount=lambda _: training.steps * training.prompts * (training.draws or training.samples),
            unit="responses",
        )


def _sft(recipe: MakeRecipe, name: str, stage: SftStage) -> Stage:
    before = {} if name == "sft" else {work.adapter_before(recipe, name): ALL}

    def amount(counts: Mapping[str, int]) -> float:
        return stage.training.epochs * sum(_num_traces(recipe, one, counts) for one in stage.traces)

    return Stage(
        name=name,
        needs={"base": ALL} | before | {f"traces/{one}": ALL for one in stage.traces},
        config=plain(stage),
        products=_ADAPTER,
        run=work.sft(name),
        amount=amount,
        unit="rows",
    )


def _num_traces(recipe: MakeRecipe, name: str, counts: Mapping[str, int]) -> float:
    """At most so many traces are in a set."""
    stage = recipe.traces[name]
    return counts[stage.data] * (stage.generate.keep if stage.format is None else 1)


def _heads(recipe: MakeRecipe) -> Iterator[Stage]:
    if recipe.switcher is not None:
        names = (*recipe.switcher.data, *recipe.switcher.tests)
        yield Stage(
            name="switcher",
            needs={"base": ALL} | _data_needs(names),
            config=plain(recipe.switcher),
            products=("heads.safetensors",),
            run=work.switcher,
            amount=lambda counts: _rows(counts, names),
            unit="prompts",
            keeps=(
                *("config.data:", "config.tests:", "config.int8:", "needs.data/", "config.training.mlp."),
                *(f"config.training.{one}:" for one in ("seed", "parts", "weight_decays", "held_out_share")),
            ),
        )
    if recipe.verifier is not None:
        verifier = recipe.verifier
        asked = (*verifier.data, *verifier.tests)
        yield Stage(
            name="verifier",
            needs={"base": ALL, work.last_adapter(recipe): ALL}
            | _data_needs(asked)
            | _against(recipe, verifier.against),
            config=plain(verifier),
            products=("heads.safetensors",),
            run=work.verifier,
            amount=lambda counts: verifier.training.traces.samples * _rows(counts, asked),
            unit="traces",
            keeps=(
                *("config.training.traces.samples:", "config.training.l2:", "config.training.folds:"),
                *("config.training.reads_prompt:", "config.int8:", "config.tests:", *_QUESTIONS),
            ),
        )


def _bundle(recipe: MakeRecipe) -> Iterator[Stage]:
    heads = [name for name in ("switcher", "verifier") if getattr(recipe, name) is not None]
    has_heads = (f"{recipe.name}/heads*.safetensors",) if heads else ()
    parts = (f"{recipe.name}/bundle.json", f"{recipe.name}/reasoning.gguf", *has_heads)
    yield Stage(
        name="bundle",
        needs=dict.fromkeys(("base", *work.learned_from(recipe), *heads), ALL),
        config={"name": recipe.name},
        products=parts,
        run=work.bundle,
    )
    if recipe.calibration is not None:
        data = recipe.calibration.data
        yield Stage(
            name="calibration",
            needs={"base": ALL, "bundle": ALL} | _data_needs(data),
            config=plain(recipe.calibration),
            products=parts,
            run=work.calibration,
            amount=lambda counts: _rows(counts, data),
            unit="prompts",
        )


def _evaluation(recipe: MakeRecipe, name: str) -> Stage:
    stage = recipe.evaluation[name]
    data = stage.data
    config, repeats = plain(stage), stage.eval.streams * (stage.eval.repeats or 1)

    def amount(counts: Mapping[str, int]) -> float:
        there = counts[f"asked-{name}"] if data is None else counts[data]
        return min(there, stage.eval.limit or there) * repeats

    return Stage(
        name=f"evaluation/{name}",
        needs={"base": ALL, work.last_bundle(recipe): _PARTS} | _data_needs((data,) if data else ()),
        config=config,
        products=("summary.json",),
        run=work.evaluation(name),
        amount=amount,
        unit="responses",
    )


def _perplexity(recipe: MakeRecipe) -> Iterator[Stage]:
    if recipe.perplexity is not None:
        yield Stage(
            name="perplexity",
            needs={"base": ALL} | _data_needs((recipe.perplexity.data,)),
            config=plain(recipe.perplexity),
            products=("base.json", "model.json") if recipe.quantize else ("base.json",),
            run=work.perplexity,
        )


def _card(recipe: MakeRecipe) -> Stage:
    measured = [f"evaluation/{name}" for name in recipe.evaluation]
    if recipe.perplexity is not None:
        measured.append("perplexity")
    return Stage(
        name="card",
        needs=dict.fromkeys(("base", work.last_bundle(recipe), *measured), ALL),
        config={"name": recipe.name},
        products=(f"{recipe.name}/bundle.json", f"{recipe.name}/README.md"),
        run=work.card,
    )


def _rows(counts: Mapping[str, int], names: tuple[str, ...]) -> int:
    return sum(counts[name] for name in names)


def _data_needs(names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return {f"data/{name}": ALL for name in names}


def _against(recipe: MakeRecipe, names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Data whose questions are left out: what the bundle is evaluated on, and what else is named."""
    return dict.fromkeys(work.against_stages(recipe, names), ALL)
