"""The folder of an evaluation: what makes it reproducible beside its rows, and what it comes to.

::

    FOLDER/
      run.toml          [eval] the resolved configuration, [record] commit, machine, data, model
      samples.jsonl     one row a sample
      summary.json      figures; there once every sample is

A folder holds one evaluation: another configuration, data set or model is refused, naming what differs.
Records hold names and hashes, no local paths: `edgereason eval --config run.toml --data FILE` runs it again.
Knows files and figures; does not know how samples come about.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import tomli_w

from edgereason.config import parse, read_toml, to_table
from edgereason.core.bundle import Bundle, file_sha256, write_atomically
from edgereason.engine.base import ModelInfo
from edgereason.engine.params import usable_cores
from edgereason.errors import ConfigError
from edgereason.evals.evaluate import EvalConfig
from edgereason.evals.machine import describe, versions
from edgereason.evals.metrics import summarise
from edgereason.evals.samples import Sample
from edgereason.evals.tasks.catalog import Task

RUN: Final = "run.toml"
SUMMARY: Final = "summary.json"
FORMAT: Final = "edgereason-eval"
_MAY_DIFFER: Final = frozenset({"threads", "parallel", "label"})
"""Settings that change how long a run takes, or what it is called, and none of its rows."""


def read_config(path: Path) -> EvalConfig:
    """The `[eval]` table of a TOML file; a `[record]` beside it is somebody's record and is not read.

    Raises:
        ConfigError: the file or a setting in it is not understood.
    """
    tables = read_toml(path)
    if unknown := set(tables) - {"eval", "record"}:
        raise ConfigError(f"{path.name} has an unknown table [{min(unknown)}]: an evaluation has [eval]")
    return parse(EvalConfig, tables.get("eval", {}), f"{path.name} [eval]")


def resolve_config(config: EvalConfig, task: Task) -> EvalConfig:
    """Fills in what the configuration leaves to the task's preset.

    Greedy decoding is asked once: its repetitions would say the same.
    """
    temperature = task.preset.temperature if config.temperature is None else config.temperature
    default_repeats = task.preset.repeats if temperature > 0 else 1
    return replace(
        config,
        temperature=temperature,
        top_p=task.preset.top_p if config.top_p is None else config.top_p,
        repeats=config.repeats or default_repeats,
        model=Path(config.model).name,
        bundle=None if config.bundle is None else Path(config.bundle).resolve().name,
    )


def open_folder(
    folder: Path, config: EvalConfig, task: Task, model: ModelInfo, bundle: Bundle | None
) -> dict[str, Any]:
    """Makes the folder of an evaluation, or finds that it is this evaluation's already.

    Returns:
        The record that stands in its `run.toml`.

    Raises:
        ConfigError: the folder holds another evaluation, or something else.
    """
    record = {
        "format": FORMAT,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": {"name": task.data_name, "sha256": task.data_sha256, "revision": task.data_revision},
        "model": _model(model),
        "bundle": None if bundle is None else _bundle(bundle),
        "machine": describe(config.threads or usable_cores()),
        "versions": versions(),
    }
    path = folder / RUN
    if path.is_file():
        found = read_toml(path)
        _require_same(folder, found, config, record)
        return dict(found["record"])
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} holds something else: evaluate into a new folder (--output)")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tables = {"eval": to_table(config), "record": _without_none(record)}
        write_atomically(path, tomli_w.dumps(tables))
    except OSError as error:
        raise ConfigError(f"{folder} can't be written: {error.strerror}") from error
    return record


def write_summary(
    folder: Path,
    config: EvalConfig,
    record: Mapping[str, Any],
    samples: Sequence[Sample],
    speed: Mapping[str, Any],
) -> dict[str, Any]:
    """Figures of a finished evaluation, written to its folder and returned.

    A sitting that found every sample there leaves the speed and memory of the one before.
    """
    path = folder / SUMMARY
    measured = dict(speed) | {"peak_rss_bytes": peak_rss_bytes()}
    if not speed["timed_samples"] and path.is_file():
        before = json.loads(path.read_text("utf-8"))
        measured = {key: before.get(key) for key in measured}
    summary = {
        "format": FORMAT,
        "task": config.task,
        "label": config.label,
        **summarise(samples),
        **measured,
        "config": to_table(config),
        "commit": record.get("versions", {}).get("commit"),
        **{key: record.get(key) for key in ("data", "model", "bundle", "machine", "date")},
    }
    write_atomically(path, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    return summary


def peak_rss_bytes() -> int:
    """Most memory that this process has had resident so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _model(info: ModelInfo) -> dict[str, Any]:
    return {
        "name": info.path.name if info.path else info.name,
        "sha256": file_sha256(info.path) if info.path else None,
        "size_bytes": info.size_bytes,
    }


def _bundle(bundle: Bundle) -> dict[str, Any]:
    files = [bundle.verified_file(part) for part in (bundle.adapter, bundle.heads) if part]
    return {"name": bundle.folder.resolve().name, "size_bytes": sum(f.stat().st_size for f in files)}


def _require_same(
    folder: Path, found: Mapping[str, Any], config: EvalConfig, record: Mapping[str, Any]
) -> None:
    before, now = found.get("eval", {}), to_table(config)
    different = [
        key for key in {**before, **now} if before.get(key) != now.get(key) and key not in _MAY_DIFFER
    ]
    for key in ("data", "model", "bundle"):
        if found.get("record", {}).get(key) != _without_none(record).get(key):
            different.append(key)
    if different:
        key = different[0]
        what = (
            f"{before.get(key)!r} there, {now.get(key)!r} now" if key in {**before, **now} else "another file"
        )
        raise ConfigError(
            f"{folder} holds an evaluation with other settings ({', '.join(different)}; {key}: {what}): "
            "evaluate into a new folder (--output), or repeat its settings to go on with it"
        )


def _without_none(value: Any) -> Any:
    """What TOML can spell of a value: tables without their absent entries."""
    if isinstance(value, Mapping):
        return {key: _without_none(one) for key, one in value.items() if one is not None}
    return value
