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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgereason.config import read_toml, to_table
from edgereason.core.types import Route
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import ConfigError
from edgereason.evals.budgets import budget_curve
from edgereason.evals.evaluate import EvalConfig, Progress, evaluate
from edgereason.evals.journal import Journal
from edgereason.evals.loglik import ChoiceRow
from edgereason.evals.loglik import run_loglik as weigh
from edgereason.evals.loglik import summarise as summarise_choices
from edgereason.evals.loglik_tasks import load_loglik_task
from edgereason.evals.metrics import summarise
from edgereason.evals.ppl import WINDOW_TOKENS, perplexity, read_text, text_tokens
from edgereason.evals.record import (
    RUN,
    about,
    bundle_entry,
    data_entry,
    model_entry,
    open_folder,
    read_config,
    write_summary,
)
from edgereason.evals.samples import Sample, read_samples
from edgereason.evals.sweep import sweep
from edgereason.evals.tasks.catalog import load_task
from edgereason.hub.catalog import DEFAULT_MODEL
from edgereason.hub.pull import resolve
from edgereason.reasoning.model import Model, load

PPL_FORMAT: Final = "edgereason-ppl"

Report = Callable[[Progress], None]
Share = Callable[[float], None]
Notice = Callable[[str], None]
ShouldStop = Callable[[], bool]


def _never() -> bool:
    return False


def _silent(_: object) -> None:
    pass


def _load(config: EvalConfig, notice: Notice) -> Model:
    return load(config.bundle or config.model, threads=config.threads, notice=notice)


def run_task(
    config: EvalConfig,
    folder: Path,
    *,
    data: Path | None = None,
    load_model: Callable[[EvalConfig, Notice], Model] = _load,
    progress: Report = _silent,
    notice: Notice = _silent,
    should_stop: ShouldStop = _never,
) -> dict[str, Any] | None:
    """Asks a task's questions, or goes on with an evaluation that `folder` holds.

    Args:
        config: what to ask, and how.
        folder: of the record; made if it is not there.
        data: a local file instead of the task's data set.
        load_model: loads what `config` names; by default from catalogue, file or bundle.
        progress: told after every row.
        notice: told in a line what takes long.
        should_stop: once true, rows that are written stay, and None is returned.

    Returns:
        The summary, as `summary.json` has it; None if it was stopped before the last row.

    Raises:
        ConfigError: settings, data or folder are no good; nothing was generated.
    """
    task = load_task(config.task, data=data, limit=config.limit, seed=config.seed)
    if task.runs_code and not config.run_code:
        raise ConfigError(
            f"{config.task} runs what the model writes: allow it with --run-code (run_code = true)"
        )
    resolved = config.resolved(task.preset)
    resolved.request("?", 0)  # refused now, not in the middle
    with load_model(config, notice) as model:
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
        return write_summary(folder, resolved, record, summarise(samples), speed)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoglikConfig:
    """What to weigh by likelihood: no template, no adapter, nothing drawn."""

    task: str
    model: str = DEFAULT_MODEL
    limit: int | None = None
    threads: int | None = None
    label: str | None = None


def run_loglik(
    config: LoglikConfig,
    folder: Path,
    *,
    data: Path | None = None,
    progress: Report = _silent,
    notice: Notice = _silent,
    should_stop: ShouldStop = _never,
) -> dict[str, Any] | None:
    """Weighs a task's options, or goes on with an evaluation that `folder` holds; see `run_task`."""
    task = load_loglik_task(config.task, data=data, limit=config.limit)
    path = resolve(config.model, notice=notice)
    resolved = LoglikConfig(**{**to_table(config), "model": Path(config.model).name})
    start_s = time.perf_counter()
    with LlamaEngine(path, threads=config.threads) as engine:
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
        figures = summarise_choices(task.name, [rows[item.id] for item in task.items]).to_json()
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
    progress: Share = _silent,
    notice: Notice = _silent,
    should_stop: ShouldStop = _never,
) -> dict[str, Any] | None:
    """The record of a text's perplexity; None if it was stopped.

    Args:
        text: a .raw or .txt file, or a data set with a `text` field.
        model: a name of the catalogue or a GGUF file.
        limit_tokens: only the text's first so many.
    """
    source = read_text(text)
    path = resolve(model, notice=notice)
    start_s = time.perf_counter()
    with LlamaEngine(path, threads=threads) as engine:
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
    draws: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    notice: Notice = _silent,
    should_stop: ShouldStop = _never,
) -> dict[str, Any]:
    """Every curve that recorded evaluations have rows for, as a record.

    Args:
        folders: of evaluations.
        limits_tokens: hard budgets at which traces are cut, which takes the model; none by default.
        data: of the runs that are cut, where it was a local file.
        model: of the runs that are cut, where it was a local file or a bundle.
        draws: of vote curves; by default the paper's 20.
        seed: of draws and bootstraps.

    Raises:
        ConfigError: a folder is no evaluation, or data or model are not those of its record.
    """
    runs = [(folder.resolve().name, read_samples(folder)) for folder in folders]
    budgets: dict[str, Any] = {}
    if limits_tokens:
        thinking = [
            (folder, name, samples)
            for folder, (name, samples) in zip(folders, runs, strict=True)
            if all(sample.route is Route.THINK for sample in samples)
        ]
        if not thinking:
            raise ConfigError("hard budgets cut thinking, and no run here thinks on every question")
        for folder, name, samples in thinking:
            budgets[name] = _cut(folder, samples, limits_tokens, data, model, progress, notice, should_stop)
    options = {} if draws is None else {"draws": draws}
    record = sweep(runs, budgets=budgets or None, seed=seed, **options)
    sources = {name: _source(folder) for folder, (name, _) in zip(folders, runs, strict=True)}
    return record | {"runs": sources, "seed": seed, **about(None)}


def _cut(
    folder: Path,
    samples: Sequence[Sample],
    limits_tokens: Sequence[int],
    data: Path | None,
    model: str | None,
    progress: Callable[[int, int], None],
    notice: Notice,
    should_stop: ShouldStop,
) -> dict[str, Any]:
    config = read_config(folder / RUN, EvalConfig)
    record = _source(folder)
    task = load_task(config.task, data=data, limit=config.limit, seed=config.seed)
    if task.data_sha256 != record["data"].get("sha256"):
        raise ConfigError(
            f"{folder.name} was evaluated on {record['data']['name']}, and {task.data_name} is another file: "
            "give the same one (--data)"
        )
    with load(model or config.bundle or config.model, threads=config.threads, notice=notice) as loaded:
        if model_entry(loaded.info)["sha256"] != record["model"].get("sha256"):
            raise ConfigError(
                f"{folder.name} was evaluated with {record['model']['name']}, and this is another model: "
                "give the same one (--model)"
            )
        return budget_curve(
            config,
            {item.id: item for item in task.items},
            samples,
            loaded,
            limits_tokens,
            progress=progress,
            should_stop=should_stop,
        )


def _source(folder: Path) -> dict[str, Any]:
    """What a folder's record says of its data, model and commit."""
    record = read_toml(folder / RUN).get("record", {})
    return {key: record.get(key, {}) for key in ("data", "model", "versions", "date")}
