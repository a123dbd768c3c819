"""Whole evaluations: data, model, record and rows put together, for the command line and for scripts.

::

    run_task     questions asked through the pipeline          → FOLDER with rows and a summary
    run_loglik   texts scored by their likelihood             → the same
    run_ppl      perplexity of a text                          → a record
    run_sweep    curves from folders that are there            → a record

Whatever can be refused is, before a model is loaded or a folder made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, Self

from edgereason.config import read_toml, require_at_least_one
from edgereason.core.bundle import Bundle
from edgereason.core.types import Route
from edgereason.data.rows import read_text
from edgereason.engine.base import KvType
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import ConfigError
from edgereason.evals.curves.budgets import budget_curve, require_cuttable
from edgereason.evals.curves.sweep import require_names, sweep
from edgereason.evals.curves.votes import NUM_DRAWS
from edgereason.evals.evaluate import EvalConfig, evaluate
from edgereason.evals.likelihood.loglik import ChoiceRow
from edgereason.evals.likelihood.loglik import run_loglik as score_options
from edgereason.evals.likelihood.loglik import summarise as summarise_choices
from edgereason.evals.likelihood.ppl import WINDOW_TOKENS, perplexity, text_tokens
from edgereason.evals.likelihood.tasks import Orders, load_loglik_task, resolved_orders
from edgereason.evals.metrics import summarise
from edgereason.evals.record import RUN, bundle_entry, open_folder, read_config, write_summary
from edgereason.evals.samples import Sample, read_samples
from edgereason.evals.sandbox import boundary
from edgereason.evals.tasks.base import Item
from edgereason.evals.tasks.catalog import Task, load_task
from edgereason.hub.catalog import DEFAULT_MODEL, bundle_folder
from edgereason.hub.pull import base_file
from edgereason.reasoning.model import Model, load
from edgereason.records.context import RunContext
from edgereason.records.folder import data_entry, model_entry
from edgereason.records.journal import Journal

PPL_FORMAT: Final = "edgereason-ppl"

Fetch = Callable[[str], Path]


def _load(config: EvalConfig, fetch: Fetch) -> Model:
    return _loaded(config, config.model or bundle_folder(config.bundle), fetch)


def _loaded(config: EvalConfig, named: str | Path, fetch: Fetch) -> Model:
    """A bundle by its folder, or a bare model."""
    bundle = Bundle.read(Path(named)) if Path(named).is_dir() else None
    return load(
        fetch(str(named)) if bundle is None else bundle.folder,
        base=None if bundle is None else base_file(bundle, fetch),
        threads=config.threads,
        kv=config.kv,
        shares_cells=config.shares_cells,
    )


def run_task(
    config: EvalConfig,
    folder: Path,
    context: RunContext = RunContext(),
    *,
    data: Path | None = None,
    load_model: Callable[[EvalConfig, Fetch], Model] = _load,
) -> dict[str, Any] | None:
    """Asks a task's questions, or goes on with an evaluation that `folder` holds.

    Args:
        config: what to ask, and how.
        folder: of the record; made if it is not there.
        context: stopped, it keeps the rows that are written; the configuration has the threads.
        data: a local file instead of the task's data set.
        load_model: loads what `config` names; by default from catalogue, file or bundle.

    Returns:
        The summary, as `summary.json` has it; None if it was stopped before the last row.

    Raises:
        ConfigError: settings, data or folder can't be used; nothing was generated.
    """
    task = _allowed_task(config, data, run_code=config.run_code)
    resolved = config.resolved(task.preset)
    resolved.request("?", 0)  # refused now, not in the middle
    with load_model(config, context.fetch) as model:
        # A bundle that changes its mind later is not to change what this record says.
        resolved = replace(resolved, calculator=model.pipeline.calculates(resolved.request("?", 0)))
        record = open_folder(
            folder,
            resolved,
            data=data_entry(task.data_name, task.data_sha256, task.data_revision),
            model=model_entry(model.info),
            bundle=bundle_entry(model.bundle),
            command=context.command,
        )
        samples, speed = evaluate(resolved, task.items, model, folder, context)
        if len(samples) < len(task.items) * (resolved.repeats or 1):
            return None
        figures, session = summarise(samples, budget_s=resolved.budget_s), dict(speed)
        if task.runs_code:  # with the session's figures: another machine may hold programs by other means
            session["boundary"] = boundary()
        return write_summary(folder, resolved, record, figures, session)


def _allowed_task(config: EvalConfig, data: Path | None, *, run_code: bool) -> Task:
    task = load_task(config.task, data=data, limit=config.limit, seed=config.seed)
    if task.runs_code and not run_code:
        raise ConfigError(f"{config.task} runs what the model writes: allow it with --run-code")
    return task


@dataclass(frozen=True, slots=True, kw_only=True)
class LoglikConfig:
    """What to score by likelihood: no template, no adapter, nothing drawn.

    Attributes:
        orders: in which options with letters are asked, by default in all cyclic ones; None where options
            have no letters.
        shots: examples before each question, taken from the file's first rows (of the question's subject
            where there are subjects).
        kv: type of the KV cache.
    """

    task: str
    score: Literal["loglik"] = "loglik"
    model: str = DEFAULT_MODEL
    limit: int | None = None
    orders: Orders | None = None
    shots: int = 0
    threads: int | None = None
    kv: KvType = "f16"
    label: str | None = None

    def __post_init__(self) -> None:
        require_at_least_one(limit=self.limit, threads=self.threads)
        if self.shots < 0:
            raise ConfigError(f"shots must be at least 0, got {self.shots}")

    def resolved(self) -> LoglikConfig:
        """The configuration with nothing left to defaults, and no local path in it."""
        orders = resolved_orders(self.task, self.orders, self.shots)
        return replace(self, model=Path(self.model).name, orders=orders)


def run_loglik(
    config: LoglikConfig,
    folder: Path,
    context: RunContext = RunContext(),
    *,
    data: Path | None = None,
) -> dict[str, Any] | None:
    """Scores a task's options, or goes on with an evaluation that `folder` holds; see `run_task`."""
    resolved = config.resolved()
    task = load_loglik_task(
        config.task, data=data, limit=config.limit, orders=resolved.orders, shots=config.shots
    )
    path = context.fetch(config.model)
    start_s = time.perf_counter()
    with LlamaEngine(path, threads=config.threads, kv=config.kv) as engine:
        record = open_folder(
            folder,
            resolved,
            data=data_entry(task.data_name, task.data_sha256, task.data_revision),
            model=model_entry(engine.info),
            command=context.command,
        )
        with Journal(folder, ChoiceRow) as journal:
            rows = {row.id: row for row in journal.found}
            pending = [item for item in task.items if item.id not in rows]

            def on_done(row: ChoiceRow) -> None:
                journal.append(row)
                rows[row.id] = row
                share = sum(row.is_right for row in rows.values()) / len(rows)
                context.progress("", len(rows), len(task.items), f"{share:.1%} right")

            if pending:
                score_options(
                    engine, pending, task=task.name, on_done=on_done, should_stop=context.should_stop
                )
        if len(rows) < len(task.items):
            return None
        figures = summarise_choices(
            task.name,
            [rows[item.id] for item in task.items],
            has_letters=task.items[0].has_letters,
        ).to_json()
        speed = {"timed_samples": len(pending), "wall_s": time.perf_counter() - start_s}
        return write_summary(folder, resolved, record, figures, speed)


@dataclass(frozen=True, slots=True, kw_only=True)
class PplConfig:
    """How a perplexity is measured.

    Attributes:
        model: a name of the catalogue or a GGUF file.
        window_tokens: of a window.
        stride_tokens: between windows; None for a window's length.
        limit_tokens: only the text's first so many.
        kv: type of the KV cache.
    """

    model: str = DEFAULT_MODEL
    window_tokens: int = WINDOW_TOKENS
    stride_tokens: int | None = None
    limit_tokens: int | None = None
    kv: KvType = "f16"

    def __post_init__(self) -> None:
        require_at_least_one(limit_tokens=self.limit_tokens)


def run_ppl(
    text: Path, config: PplConfig = PplConfig(), context: RunContext = RunContext()
) -> dict[str, Any] | None:
    """The record of a text's perplexity; None if it was stopped.

    Args:
        text: a .raw or .txt file, or a data set with a `text` field.
        config: how.
        context: asked before every window whether to stop.
    """
    require_at_least_one(threads=context.threads)
    source = read_text(text)
    path = context.fetch(config.model)
    start_s = time.perf_counter()
    with LlamaEngine(path, threads=context.threads, kv=config.kv) as engine:
        result = perplexity(
            engine,
            text_tokens(engine, source.text)[: config.limit_tokens],
            window_tokens=config.window_tokens,
            stride_tokens=config.stride_tokens,
            on_progress=lambda share: context.progress("", round(100 * share), 100),
            should_stop=context.should_stop,
        )
        if result is None:
            return None
        return {
            "format": PPL_FORMAT,
            **result.to_json(),
            "wall_s": time.perf_counter() - start_s,
            "limit_tokens": config.limit_tokens,
            "kv": config.kv,
            "data": data_entry(source.name, source.sha256, None),
            "model": model_entry(engine.info),
            **context.about(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CutConfig:
    """Hard budgets at which recorded traces are cut, which takes the model again.

    Attributes:
        limits_tokens: the budgets.
        data: of the runs, where it was a local file.
        model: of the runs, where it was a local file; a bundle's folder where it was one.
        run_code: allows code tasks to run what the model wrote.
    """

    limits_tokens: Sequence[int]
    data: Path | None = None
    model: str | None = None
    run_code: bool = False


def run_sweep(
    folders: Sequence[Path],
    context: RunContext = RunContext(),
    *,
    cut: CutConfig | None = None,
    draws: int = NUM_DRAWS,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Every curve that recorded evaluations have rows for, as a record; None if it was stopped.

    Args:
        folders: of evaluations, their names different.
        context: asked between steps whether to stop.
        cut: at which hard budgets traces are cut; None for no such curve.
        draws: of vote curves.
        seed: of draws and bootstraps.

    Raises:
        ConfigError: a folder is not an evaluation, or data or model are not those of its record.
    """
    runs = [(folder.resolve().name, read_samples(folder)) for folder in folders]
    require_names(runs)
    budgets: dict[str, Any] = {}
    if cut is not None:
        cuts = [
            _Cut.of(folder, samples, cut)
            for folder, (_, samples) in zip(folders, runs, strict=True)
            if all(sample.route is Route.THINK for sample in samples)
        ]
        if not cuts:
            raise ConfigError("hard budgets cut thinking, and no run here thinks on every question")
        for one in cuts:
            with one.load(cut.model, context.fetch) as loaded:
                curve = budget_curve(one.config, one.items, one.samples, loaded, cut.limits_tokens, context)
            if curve is None:
                return None
            budgets[one.folder.resolve().name] = curve
    sources = {name: _source(folder) for folder, (name, _) in zip(folders, runs, strict=True)}
    bases = {name: source["model"].get("sha256") for name, source in sources.items()}
    record = sweep(runs, bases=bases, budgets=budgets or None, draws=draws, seed=seed)
    return record | {"runs": sources, "seed": seed, **context.about()}


@dataclass(frozen=True, slots=True)
class _Cut:
    """A recorded run whose traces are to be cut, checked against its record as far as that goes unloaded."""

    folder: Path
    config: EvalConfig
    items: Mapping[str, Item]
    samples: Sequence[Sample]

    @classmethod
    def of(cls, folder: Path, samples: Sequence[Sample], cut: CutConfig) -> Self:
        config, source = read_config(folder / RUN, EvalConfig), _source(folder)
        found = source["data"]
        task = _allowed_task(config, cut.data, run_code=cut.run_code)
        if (task.data_sha256, task.data_revision) != (found.get("sha256"), found.get("revision")):
            raise ConfigError(
                f"{folder.name} was evaluated on {found.get('name')}, and {task.data_name} is not that: "
                "give the same file (--data)"
            )
        items = {item.id: item for item in task.items}
        require_cuttable(config, items, samples, cut.limits_tokens, source["bundle"].get("buckets", ()))
        return cls(folder, config, items, samples)

    def load(self, model: str | None, fetch: Fetch) -> Model:
        """The run's model, or its bundle."""
        config, record = self.config, _source(self.folder)
        loaded = _loaded(config, model or config.model or bundle_folder(config.bundle), fetch)
        here = (model_entry(loaded.info)["sha256"], (bundle_entry(loaded.bundle) or {}).get("sha256"))
        if here != (record["model"].get("sha256"), record["bundle"].get("sha256")):
            loaded.close()
            name = record["bundle"].get("name") or record["model"].get("name")
            raise ConfigError(f"{self.folder.name} was evaluated with {name}: give the same (--model)")
        return loaded


def _source(folder: Path) -> dict[str, Any]:
    """What a folder's record says of its data, model and commit."""
    record = read_toml(folder / RUN).get("record", {})
    return {key: record.get(key, {}) for key in ("data", "model", "bundle", "versions", "date")}
