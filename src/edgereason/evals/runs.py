"""Whole evaluations: data, model, record and rows put together, for the command line and for scripts.

::

    run_task     questions asked through the pipeline          → FOLDER with rows and a summary
    run_loglik   texts weighed by their likelihood             → the same
    run_ppl      perplexity of a text                          → a record
    run_sweep    curves from folders that are there            → a record

Whatever can be refused is, before a model is loaded or a folder made. Knows the parts by name and what
belongs together; does not know how any of them works, nor terminals.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, Self

from edgereason.config import read_toml
from edgereason.core.bundle import Bundle
from edgereason.core.types import Route
from edgereason.data.texts import read_text
from edgereason.engine.llama import LlamaEngine
from edgereason.engine.params import KvType
from edgereason.errors import ConfigError
from edgereason.evals.curves.budgets import budget_curve, require_cuttable
from edgereason.evals.curves.sweep import require_names, sweep
from edgereason.evals.curves.votes import NUM_DRAWS
from edgereason.evals.evaluate import EvalConfig, Progress, evaluate
from edgereason.evals.likelihood.loglik import ChoiceRow
from edgereason.evals.likelihood.loglik import run_loglik as weigh
from edgereason.evals.likelihood.loglik import summarise as summarise_choices
from edgereason.evals.likelihood.ppl import WINDOW_TOKENS, perplexity, text_tokens
from edgereason.evals.likelihood.tasks import Orders, load_loglik_task, resolved_orders
from edgereason.evals.limits import require_at_least_one
from edgereason.evals.metrics import summarise
from edgereason.evals.samples import Sample, read_samples
from edgereason.evals.tasks.base import Item
from edgereason.evals.tasks.catalog import Task, load_task
from edgereason.hub.bundles import bundle_folder
from edgereason.hub.catalog import DEFAULT_MODEL
from edgereason.hub.locate import base_file
from edgereason.hub.pull import resolve
from edgereason.reasoning.model import Model, load
from edgereason.records.folder import (
    RUN,
    about,
    bundle_entry,
    data_entry,
    model_entry,
    open_folder,
    read_config,
    write_summary,
)
from edgereason.records.journal import Journal

PPL_FORMAT: Final = "edgereason-ppl"

Report = Callable[[Progress], None]
Share = Callable[[float], None]
Fetch = Callable[[str], Path]
ShouldStop = Callable[[], bool]


def _never() -> bool:
    return False


def _silent(_: object) -> None:
    pass


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
    *,
    data: Path | None = None,
    load_model: Callable[[EvalConfig, Fetch], Model] = _load,
    fetch: Fetch = resolve,
    progress: Report = _silent,
    should_stop: ShouldStop = _never,
) -> dict[str, Any] | None:
    """Asks a task's questions, or goes on with an evaluation that `folder` holds.

    Args:
        config: what to ask, and how.
        folder: of the record; made if it is not there.
        data: a local file instead of the task's data set.
        load_model: loads what `config` names; by default from catalogue, file or bundle.
        fetch: gives a model's file by its name; by default pulls it, unseen.
        progress: told after every row.
        should_stop: once true, rows that are written stay, and None is returned.

    Returns:
        The summary, as `summary.json` has it; None if it was stopped before the last row.

    Raises:
        ConfigError: settings, data or folder are no good; nothing was generated.
    """
    task = _allowed_task(config, data, run_code=config.run_code)
    resolved = config.resolved(task.preset)
    resolved.request("?", 0)  # refused now, not in the middle
    with load_model(config, fetch) as model:
        record = open_folder(
            folder,
            resolved,
            data=data_entry(task.data_name, task.data_sha256, task.data_revision),
            model=model_entry(model.info),
            bundle=bundle_entry(model.bundle),
        )
        samples, speed = evaluate(
            resolved, task.items, model, folder, progress=progress, should_stop=should_stop
        )
        if len(samples) < len(task.items) * (resolved.repeats or 1):
            return None
        return write_summary(folder, resolved, record, summarise(samples, budget_s=resolved.budget_s), speed)


def _allowed_task(config: EvalConfig, data: Path | None, *, run_code: bool) -> Task:
    task = load_task(config.task, data=data, limit=config.limit, seed=config.seed)
    if task.runs_code and not run_code:
        raise ConfigError(f"{config.task} runs what the model writes: allow it with --run-code")
    return task


@dataclass(frozen=True, slots=True, kw_only=True)
class LoglikConfig:
    """What to weigh by likelihood: no template, no adapter, nothing drawn.

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
    *,
    data: Path | None = None,
    fetch: Fetch = resolve,
    progress: Report = _silent,
    should_stop: ShouldStop = _never,
) -> dict[str, Any] | None:
    """Weighs a task's options, or goes on with an evaluation that `folder` holds; see `run_task`."""
    resolved = config.resolved()
    task = load_loglik_task(
        config.task, data=data, limit=config.limit, orders=resolved.orders, shots=config.shots
    )
    path = fetch(config.model)
    start_s = time.perf_counter()
    with LlamaEngine(path, threads=config.threads, kv=config.kv) as engine:
        record = open_folder(
            folder,
            resolved,
            data=data_entry(task.data_name, task.data_sha256, task.data_revision),
            model=model_entry(engine.info),
        )
        with Journal(folder, ChoiceRow) as journal:
            rows = {row.id: row for row in journal.found}
            pending = [item for item in task.items if item.id not in rows]

            def on_done(row: ChoiceRow) -> None:
                journal.append(row)
                rows[row.id] = row
                spent_s, fresh = time.perf_counter() - start_s, len(rows) - len(journal.found)
                progress(
                    Progress(
                        done=len(rows),
                        total=len(task.items),
                        accuracy=sum(row.is_right for row in rows.values()) / len(rows),
                        tokens_per_s=None,
                        left_s=spent_s / fresh * (len(task.items) - len(rows)),
                    )
                )

            if pending:
                weigh(engine, pending, task=task.name, on_done=on_done, should_stop=should_stop)
        if len(rows) < len(task.items):
            return None
        figures = summarise_choices(
            task.name,
            [rows[item.id] for item in task.items],
            has_letters=task.items[0].has_letters,
        ).to_json()
        speed = {"timed_samples": len(pending), "wall_s": time.perf_counter() - start_s}
        return write_summary(folder, resolved, record, figures, speed)


def run_ppl(
    text: Path,
    *,
    model: str = DEFAULT_MODEL,
    window_tokens: int = WINDOW_TOKENS,
    stride_tokens: int | None = None,
    limit_tokens: int | None = None,
    threads: int | None = None,
    kv: KvType = "f16",
    fetch: Fetch = resolve,
    progress: Share = _silent,
    should_stop: ShouldStop = _never,
) -> dict[str, Any] | None:
    """The record of a text's perplexity; None if it was stopped.

    Args:
        text: a .raw or .txt file, or a data set with a `text` field.
        model: a name of the catalogue or a GGUF file.
        limit_tokens: only the text's first so many.
        kv: type of the KV cache.
    """
    require_at_least_one(limit_tokens=limit_tokens, threads=threads)
    source = read_text(text)
    path = fetch(model)
    start_s = time.perf_counter()
    with LlamaEngine(path, threads=threads, kv=kv) as engine:
        result = perplexity(
            engine,
            text_tokens(engine, source.text)[:limit_tokens],
            window_tokens=window_tokens,
            stride_tokens=stride_tokens,
            on_progress=progress,
            should_stop=should_stop,
        )
        if result is None:
            return None
        return {
            "format": PPL_FORMAT,
            **result.to_json(),
            "wall_s": time.perf_counter() - start_s,
            "limit_tokens": limit_tokens,
            "kv": kv,
            "data": data_entry(source.name, source.sha256, None),
            "model": model_entry(engine.info),
            **about(threads),
        }


def run_sweep(
    folders: Sequence[Path],
    *,
    limits_tokens: Sequence[int] = (),
    data: Path | None = None,
    model: str | None = None,
    run_code: bool = False,
    draws: int = NUM_DRAWS,
    seed: int = 0,
    fetch: Fetch = resolve,
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: ShouldStop = _never,
) -> dict[str, Any] | None:
    """Every curve that recorded evaluations have rows for, as a record; None if it was stopped.

    Args:
        folders: of evaluations, their names different.
        limits_tokens: hard budgets at which traces are cut, which takes the model; none by default.
        data: of the runs that are cut, where it was a local file.
        model: of the runs that are cut, where it was a local file; a bundle's folder where it was one.
        run_code: allows code tasks to run what the model wrote.
        draws: of vote curves.
        seed: of draws and bootstraps.
        fetch: as for `run_task`.

    Raises:
        ConfigError: a folder is no evaluation, or data or model are not those of its record.
    """
    runs = [(folder.resolve().name, read_samples(folder)) for folder in folders]
    require_names(runs)
    budgets: dict[str, Any] = {}
    if limits_tokens:
        cuts = [
            _Cut.of(folder, samples, limits_tokens, data, run_code=run_code)
            for folder, (_, samples) in zip(folders, runs, strict=True)
            if all(sample.route is Route.THINK for sample in samples)
        ]
        if not cuts:
            raise ConfigError("hard budgets cut thinking, and no run here thinks on every question")
        for cut in cuts:
            with cut.load(model, fetch) as loaded:
                curve = budget_curve(
                    cut.config, cut.items, cut.samples, loaded, limits_tokens, progress, should_stop
                )
            if curve is None:
                return None
            budgets[cut.folder.resolve().name] = curve
    sources = {name: _source(folder) for folder, (name, _) in zip(folders, runs, strict=True)}
    bases = {name: source["model"].get("sha256") for name, source in sources.items()}
    record = sweep(runs, bases=bases, budgets=budgets or None, draws=draws, seed=seed)
    return record | {"runs": sources, "seed": seed, **about(None)}


@dataclass(frozen=True, slots=True)
class _Cut:
    """A recorded run whose traces are to be cut, checked against its record as far as that goes unloaded."""

    folder: Path
    config: EvalConfig
    items: Mapping[str, Item]
    samples: Sequence[Sample]

    @classmethod
    def of(
        cls,
        folder: Path,
        samples: Sequence[Sample],
        limits_tokens: Sequence[int],
        data: Path | None,
        *,
        run_code: bool,
    ) -> Self:
        config, source = read_config(folder / RUN, EvalConfig), _source(folder)
        found = source["data"]
        task = _allowed_task(config, data, run_code=run_code)
        if (task.data_sha256, task.data_revision) != (found.get("sha256"), found.get("revision")):
            raise ConfigError(
                f"{folder.name} was evaluated on {found.get('name')}, and {task.data_name} is not that: "
                "give the same file (--data)"
            )
        items = {item.id: item for item in task.items}
        require_cuttable(config, items, samples, limits_tokens, source["bundle"].get("buckets", ()))
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
