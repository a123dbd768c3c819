"""How each stage is carried out: the recipe's settings and the files of earlier stages, to one entrance.

A stage's entrance takes up what is in its folder, so that a stage that was stopped or killed goes on.
"""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from edgereason.bundles.build import Parts, build
from edgereason.bundles.calibrate import ByCost, ByShare, set_threshold
from edgereason.core.bundle import Bundle, file_sha256, write_atomically
from edgereason.evals.evaluate import EvalConfig
from edgereason.evals.run import PplConfig, run_ppl, run_task
from edgereason.heads.file import Storage, merge_heads, read_heads
from edgereason.hub.catalog import CATALOG, find_by_sha256
from edgereason.hub.fingerprint import known_sha256
from edgereason.hub.local_bases import remember_base
from edgereason.reasoning.model import Model, load
from edgereason.recipe.config import BASE, MakeRecipe, SftStage
from edgereason.recipe.data import Source, write_task_questions
from edgereason.records.context import RunContext
from edgereason.records.folder import RunFolder, file_entry
from edgereason.train.data.decontaminate import Evaluations
from edgereason.train.data.endpoint import teacher_at
from edgereason.train.data.generate import generate
from edgereason.train.data.questions import read_questions
from edgereason.train.data.readers import find_rows, read_into
from edgereason.train.data.traces import TRACES, Lengths
from edgereason.train.grpo import run as grpo_run
from edgereason.train.grpo import shortest as shortest_run
from edgereason.train.grpo.material import QuestionSources
from edgereason.train.grpo.recipe import GrpoRecipe
from edgereason.train.heads.prompt_states import read_prompts
from edgereason.train.heads.record import HEADS
from edgereason.train.heads.switcher import train_switcher
from edgereason.train.heads.verifier import train_verifier
from edgereason.train.lora import run as lora_run
from edgereason.train.quant import run as quant_run

CHOICES: Final = ("rows", "leave_out", "most_steps", "every", "first", "limit", "label")
"""Settings of data that choose among rows; where the rows are from is told by a hash."""

FOLDER: Final = "stages"
EARLIER: Final = "earlier"
_FORMAT_BASE: Final = "edgereason-given-base"

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The recipe's base: a name that records may hold, its file, and its hash."""

    name: str
    path: Path
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a stage is carried out with.

    Attributes:
        recipe: all of it.
        root: folder of what is made.
        sources: where the recipe's data are.
        context: of the run.
    """

    recipe: MakeRecipe
    root: Path
    sources: Mapping[str, Source]
    context: RunContext

    def folder(self, stage: str) -> Path:
        """A stage's own."""
        return self.root / FOLDER / stage

    def data(self, name: str) -> Path:
        """The file of a data set."""
        return self.folder(f"data/{name}") / self.sources[name].file_name

    def against(self, names: Sequence[str]) -> list[Path]:
        """Files whose questions are left out of training: what is evaluated on, and data by name."""
        return [
            self.folder(stage) / f"asked-{name}.jsonl" if kind == "asked" else self.data(name)
            for stage in against_stages(self.recipe, names)
            for kind, _, name in (stage.partition("/"),)
        ]

    def base(self) -> Base:
        """The base that the stage `base` made, or the model as it is given."""
        if (quantize := self.recipe.quantize) is not None:
            path = self.folder("base") / f"{quantize.name}.gguf"
            return Base(name=quantize.name, path=path, sha256=known_sha256(path))
        path = self.context.fetch(self.recipe.model)
        sha256 = known_sha256(path)
        known = find_by_sha256(sha256)
        return Base(name=known.name if known else path.name, path=path, sha256=sha256)

    def on_base(self) -> tuple[RunContext, lora_run.BaseConfig]:
        """A context that finds the base by its name, and what recipes of trainings say of it."""
        base, fetch = self.base(), self.context.fetch
        found = replace(self.context, fetch=lambda name: base.path if name == base.name else fetch(name))
        return found, lora_run.BaseConfig(name=base.name, sha256=base.sha256)

    @contextmanager
    def bundle_of(self, folder: Path) -> Iterator[Model]:
        """A bundle without its heads, loaded for many streams."""
        with load(
            folder,
            base=self.base().path,
            threads=self.context.threads,
            shares_cells=False,
            use_heads=False,
        ) as model:
            yield model


Run = Callable[[Work, Path], Record | None]
"""Carries a stage out in a folder; None if it was stopped."""


# ── which stages stand for what ────────────────────────────────────────────────────────────────────


def against_stages(recipe: MakeRecipe, names: Sequence[str]) -> list[str]:
    """Stages that hold what is left out of training: what is evaluated on, and data by name."""
    asked = [
        f"asked/{name}" if one.data is None else f"data/{one.data}" for name, one in recipe.evaluation.items()
    ]
    return list(dict.fromkeys([*asked, *(f"data/{name}" for name in names)]))


def learned_from(recipe: MakeRecipe) -> list[str]:
    """Every stage on the way to the last adapter, in order."""
    used = [name for stage in (recipe.sft, recipe.refine) if stage is not None for name in stage.traces]
    made = [f"traces/{name}" for name in dict.fromkeys(used)]
    adapters = [
        name for name in ("sft", "refine", "shortest", "warm", "grpo") if getattr(recipe, name) is not None
    ]
    return [*made, *adapters]


def adapter_before(recipe: MakeRecipe, stage: str) -> str:
    """The stage whose adapter another begins with; what is drawn is learned by the adapter that drew it."""
    there = [name for name in ("sft", "refine", "warm", "grpo") if getattr(recipe, name) is not None]
    return there[there.index("warm" if stage == "shortest" else stage) - 1]


def last_adapter(recipe: MakeRecipe) -> str:
    """The stage that makes the adapter that ships."""
    return learned_from(recipe)[-1]


def last_bundle(recipe: MakeRecipe) -> str:
    """The stage whose bundle is evaluated."""
    return "bundle" if recipe.calibration is None else "calibration"


def model_identity(model: str) -> dict[str, Any]:
    """What decides which model a name or a path means."""
    known = next((one for one in CATALOG if one.name == model), None)
    if known is not None:
        return {"model": known.sha256}
    path = Path(model).expanduser()
    return {"model": known_sha256(path) if path.is_file() else model}


# ── data and base ──────────────────────────────────────────────────────────────────────────────────


def data(source: Source) -> Run:
    """Writes the rows that count."""
    return lambda work, folder: {"rows": source.write(folder)}


def asked(name: str) -> Run:
    """Writes what an evaluation asks."""

    def run(work: Work, folder: Path) -> Record:
        config = work.recipe.evaluation[name].eval
        target = folder / f"asked-{name}.jsonl"
        return {"rows": write_task_questions(config.task, config.limit, config.seed, target)}

    return run


def given_base(work: Work, folder: Path) -> Record:
    """Takes the model as it is."""
    base = work.base()
    remember_base(base.path, base.sha256)
    return RunFolder(folder, "base").write(
        {"format": _FORMAT_BASE, "base": file_entry(base.path)}, "base.json"
    )


def quantized_base(work: Work, folder: Path) -> Record | None:
    """Makes the base in 4 bits, under its name."""
    stage = work.recipe.quantize
    assert stage is not None
    recipe = quant_run.Recipe(
        base=quant_run.QuantizedBaseConfig(name=stage.name, seed=stage.seed, kv8=stage.kv8),
        storage=stage.storage,
        transforms=stage.transforms,
        corrections=stage.corrections,
        local=stage.local,
        end_to_end=stage.end_to_end,
    )
    record = RunFolder(folder, "quantization").record()  # it would be learned once more
    record = record or quant_run.run(
        recipe, work.recipe.model, folder, work.context, text=[work.data(name) for name in stage.text]
    )
    if record is not None:
        named = folder / f"{stage.name}.gguf"
        if (made := folder / quant_run.BASE).is_file():
            made.replace(named)
        remember_base(named, record["base"]["sha256"])
    return record


# ── traces ─────────────────────────────────────────────────────────────────────────────────────────


def traces(name: str) -> Run:
    """Makes a set of traces, or reads it."""

    def run(work: Work, folder: Path) -> Record | None:
        stage, context = work.recipe.traces[name], work.context
        known = Evaluations.read(work.against(stage.against))
        source = str(work.data(stage.data))
        teacher = stage.teacher if stage.format is None else BASE
        path = work.base().path if teacher == BASE else context.fetch(teacher)
        with load(path, threads=context.threads, shares_cells=False) as model:
            if stage.format is not None:
                return read_into(
                    folder,
                    find_rows(source),
                    stage.format,
                    against=known,
                    model=model,
                    max_tokens=stage.max_tokens,
                    context=context,
                )
            asked = [read_questions(source, seed=stage.generate.seed)]
            served = stage.endpoint
            by = None if served is None else teacher_at(served, Lengths.of(model.engine))
            return generate(folder, stage.generate, asked, known, model=model, teacher=by, context=context)

    return run


# ── adapters ───────────────────────────────────────────────────────────────────────────────────────


def sft(name: str) -> Run:
    """Fine-tunes an adapter, from the start or from the one before."""

    def run(work: Work, folder: Path) -> Record | None:
        stage: SftStage = getattr(work.recipe, name)
        context, base = work.on_base()
        recipe = lora_run.SftRecipe(base=base, lora=stage.lora, hints=stage.hints, training=stage.training)
        return lora_run.run(
            recipe,
            folder,
            context,
            traces=[work.folder(f"traces/{one}") / TRACES for one in stage.traces],
            examples=work.folder("shortest") / shortest_run.EXAMPLES if name == "warm" else None,
            start=None if name == "sft" else work.folder(adapter_before(work.recipe, name)),
        )

    return run


def shortest(work: Work, folder: Path) -> Record | None:
    """Draws the shortest right responses."""
    stage = work.recipe.shortest
    assert stage is not None
    context, base = work.on_base()
    return shortest_run.run(
        GrpoRecipe(base=base, budgets=stage.budgets, reward=stage.reward, training=stage.training),
        folder,
        context,
        start=work.folder(adapter_before(work.recipe, "shortest")),
        questions=_questions(work, stage.data, stage.against),
    )


def grpo(work: Work, folder: Path) -> Record | None:
    """Trains the adapter to keep its budgets."""
    stage = work.recipe.grpo
    assert stage is not None
    context, base = work.on_base()
    return grpo_run.run(
        GrpoRecipe(base=base, budgets=stage.budgets, reward=stage.reward, training=stage.training),
        folder,
        context,
        start=work.folder(adapter_before(work.recipe, "grpo")),
        questions=_questions(work, stage.data, stage.against),
    )


def _questions(work: Work, names: Sequence[str], against: Sequence[str]) -> QuestionSources:
    return QuestionSources(sources=[str(work.data(name)) for name in names], against=work.against(against))


# ── heads ──────────────────────────────────────────────────────────────────────────────────────────


def switcher(work: Work, folder: Path) -> Record | None:
    """Trains the switcher on the base."""
    stage, context = work.recipe.switcher, work.context
    assert stage is not None
    torch.set_num_threads(context.num_threads)
    learned, judged = ([read_prompts(work.data(one)) for one in names] for names in (stage.data, stage.tests))
    with load(work.base().path, threads=context.threads, shares_cells=False) as model:
        return train_switcher(
            folder,
            stage.training,
            learned,
            judged,
            model=model,
            storage=Storage.INT8 if stage.int8 else Storage.F32,
            context=context,
        )


def verifier(work: Work, folder: Path) -> Record | None:
    """Trains the verifier on traces of the adapter that ships."""
    stage, context = work.recipe.verifier, work.context
    assert stage is not None
    torch.set_num_threads(context.num_threads)
    seed = stage.training.seed
    learned, judged = (
        [read_questions(str(work.data(one)), seed=seed) for one in names]
        for names in (stage.data, stage.tests)
    )
    known = Evaluations.read(work.against(stage.against))
    with work.bundle_of(work.folder(last_adapter(work.recipe)) / lora_run.BUNDLE) as model:
        return train_verifier(
            folder,
            stage.training,
            learned,
            known,
            judged,
            model=model,
            storage=Storage.INT8 if stage.int8 else Storage.F32,
            context=context,
        )


# ── bundle ─────────────────────────────────────────────────────────────────────────────────────────


def bundle(work: Work, folder: Path) -> Record:
    """Puts adapter and heads together, with their history."""
    recipe, base = work.recipe, work.base()
    heads = [name for name in ("switcher", "verifier") if getattr(recipe, name) is not None]
    both = folder / HEADS
    both.unlink(missing_ok=True)
    for name in heads:
        merge_heads(both, read_heads(work.folder(name) / HEADS))
    trained = lora_run.shipped(work.folder(last_adapter(recipe)))[0]
    made = ["base"] if recipe.quantize is not None else []
    parts = Parts(
        base=base.path,
        adapter=trained.folder / trained.adapter.file if trained.adapter else None,
        heads=both if heads else None,
        buckets=trained.buckets,
        calculator=trained.calculator,
        records=tuple(work.folder(name) for name in (*made, *learned_from(recipe), *heads)),
        name=recipe.name,
    )
    return _built(work, folder, parts)


def calibration(work: Work, folder: Path) -> Record | None:
    """Sets the switcher's threshold, in a copy of the bundle."""
    stage, context = work.recipe.calibration, work.context
    assert stage is not None
    start = Bundle.read(work.folder("bundle") / work.recipe.name)
    _built(work, folder, Parts(base=work.base().path, start=start, name=work.recipe.name))
    copy = Bundle.read(folder / work.recipe.name)
    prompts = folder / "prompts.jsonl"
    write_atomically(prompts, "".join(work.data(name).read_text("utf-8") for name in stage.data))
    way: ByShare | ByCost
    if stage.share is not None:
        way = ByShare.read(stage.share, prompts)
    else:
        way = ByCost.read(stage.needless_cost, prompts)
    with load(copy.folder, base=work.base().path, threads=context.threads) as model:
        found = way.find(model, partial(context.progress, "prompts"), context.should_stop)
    return None if found is None else _about(set_threshold(copy, found))


def evaluation(name: str) -> Run:
    """Evaluates the bundle."""

    def run(work: Work, folder: Path) -> Record | None:
        stage, recipe = work.recipe.evaluation[name], work.recipe
        of = work.folder(last_bundle(recipe)) / recipe.name
        base, threads = work.base().path, work.context.threads

        def load_model(config: EvalConfig, fetch: Callable[[str], Path]) -> Model:
            return load(of, base=base, threads=threads, kv=config.kv, shares_cells=config.shares_cells)

        return run_task(
            replace(stage.eval, bundle=str(of), threads=threads),
            folder,
            work.context,
            data=None if stage.data is None else work.data(stage.data),
            load_model=load_model,
        )

    return run


def perplexity(work: Work, folder: Path) -> Record | None:
    """Measures the base's perplexity, and that of the model that it was made of."""
    stage, context = work.recipe.perplexity, work.context
    assert stage is not None
    files = {"base": work.base().path}
    if work.recipe.quantize is not None:
        files["model"] = context.fetch(work.recipe.model)
    found = {}
    for name, path in files.items():
        config = PplConfig(
            model=str(path),
            window_tokens=stage.window_tokens,
            stride_tokens=stage.stride_tokens,
            limit_tokens=stage.limit_tokens,
        )
        record = run_ppl(work.data(stage.data), config, replace(context.titled(name), fetch=Path))
        if record is None:
            return None
        RunFolder(folder, "perplexity").write(record, f"{name}.json")
        found[name] = record["ppl"]
    return found


def card(work: Work, folder: Path) -> Record:
    """Puts the figures into the bundle and writes its card; a copy goes where people look for it."""
    recipe = work.recipe
    start = Bundle.read(work.folder(last_bundle(recipe)) / recipe.name)
    records = [work.folder(f"evaluation/{name}") for name in recipe.evaluation]
    if recipe.perplexity is not None:
        records.append(work.folder("perplexity") / "base.json")
    parts = Parts(base=work.base().path, start=start, records=tuple(records), name=recipe.name)
    record = _built(work, folder, parts)
    publish(folder / recipe.name, work.root / recipe.name)
    return record


def publish(made: Path, target: Path) -> None:
    """Puts a copy of a bundle in the place of the one before it, which moves to `earlier`.

    Somebody may have changed that one, by `bundle calibrate` for instance.
    """
    partial_copy = target.with_name(f".{target.name}.copy")
    shutil.rmtree(partial_copy, ignore_errors=True)
    shutil.copytree(made, partial_copy)
    if target.exists():
        target.rename(vacant(target.parent / EARLIER, target.name))
    partial_copy.rename(target)


def vacant(folder: Path, name: str) -> Path:
    """The first of NAME-1, NAME-2, … that is not in a folder, which is made."""
    place = next(one for n in range(1, 10**6) if not (one := folder / f"{name}-{n}").exists())
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _built(work: Work, folder: Path, parts: Parts) -> Record:
    """A bundle in the stage's folder; what a killed run left there is made again."""
    target = folder / work.recipe.name
    shutil.rmtree(target, ignore_errors=True)
    return _about(build(target, parts, work.context.notice))


def _about(made: Bundle) -> Record:
    return {"parts": {part.file: part.sha256 for part in made.parts}, "results": len(made.results)}


def free_memory() -> None:
    """Gives back what a stage left: trainers and models hold each other, and glibc keeps what is freed."""
    gc.collect()
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def file_hashes(folder: Path, patterns: Sequence[str]) -> dict[str, str] | None:
    """The hashes of the files that patterns match; None if one matches none.

    Models are not read again if their size and time are the same.
    """
    found = {}
    for pattern in patterns:
        paths = sorted(folder.glob(pattern))
        if not paths:
            return None
        for path in paths:
            name = path.relative_to(folder).as_posix()
            is_large = path.suffix == ".gguf" and path.stat().st_size > _LARGE_BYTES
            found[name] = known_sha256(path) if is_large else file_sha256(path)
    return found


_LARGE_BYTES: Final = 50_000_000


def disk_bytes(folder: Path) -> int:
    """Of all files in a folder."""
    return sum(
        os.path.getsize(Path(root) / name)  # noqa: PTH202
        for root, _, names in os.walk(folder)
        for name in names
        if not (Path(root) / name).is_symlink()
    )
