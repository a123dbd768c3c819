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
import re
import sys
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeVar

import tomli_w

from edgereason.config import parse, read_toml, to_table
from edgereason.core.bundle import Bundle, file_sha256, write_atomically
from edgereason.core.machine import usable_cores
from edgereason.engine.base import ModelInfo
from edgereason.errors import ConfigError
from edgereason.records.lock import is_vacant
from edgereason.records.machine import describe, versions

RUN: Final = "run.toml"
SUMMARY: Final = "summary.json"
FORMAT: Final = "edgereason-eval"
MAY_DIFFER: Final = frozenset({"threads", "parallel", "label"})
"""Settings that change how long a run takes or what it is called, and not what its rows are drawn from."""
BEFORE_NAMED: Final[Mapping[str, Any]] = MappingProxyType({"kv": "f16", "orders": "given", "shots": 0})
"""What settings were before records named them: a record that lacks one was made with this value."""
_DECISIVE: Final = ("edgereason", "llama-cpp-python", "commit")
"""Versions that an unfinished run must go on with: its rows would not be of one kind."""


class RunConfig(Protocol):
    """What records ask of a configuration, which is a frozen dataclass."""

    @property
    def task(self) -> str: ...
    @property
    def threads(self) -> int | None: ...
    @property
    def label(self) -> str | None: ...


C = TypeVar("C", bound=RunConfig)


def read_config(path: Path, kind: type[C]) -> C:
    """The `[eval]` table of a TOML file; a `[record]` beside it is somebody's record and is not read.

    A record that lacks a setting of `BEFORE_NAMED` gets what the setting was then; a run file without a
    record gets the default.

    Raises:
        ConfigError: the file or a setting in it is not understood.
    """
    tables = read_toml(path)
    if unknown := set(tables) - {"eval", "record"}:
        raise ConfigError(f"{path.name} has an unknown table [{min(unknown)}]: an evaluation has [eval]")
    table = tables.get("eval", {})
    if "record" in tables:
        known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
        table = {name: value for name, value in BEFORE_NAMED.items() if name in known} | table
    return parse(kind, table, f"{path.name} [eval]")


def data_entry(name: str, sha256: str | None, revision: str | None) -> dict[str, Any]:
    """What a record says of its data."""
    return {"name": name, "sha256": sha256, "revision": revision}


def model_entry(info: ModelInfo) -> dict[str, Any]:
    """What a record says of its base."""
    return {
        "name": info.path.name if info.path else info.name,
        "sha256": file_sha256(info.path) if info.path else None,
        "size_bytes": info.size_bytes,
    }


def bundle_entry(bundle: Bundle | None) -> dict[str, Any] | None:
    """What a record says of its bundle: the hash of each part, its hints' budgets, what it adds in bytes."""
    if bundle is None:
        return None
    parts = [part for part in (bundle.adapter, bundle.heads) if part]
    return {
        "name": bundle.folder.resolve().name,
        "sha256": [part.sha256 for part in parts],
        "buckets": list(bundle.buckets),
        "size_bytes": sum(bundle.verified_file(part).stat().st_size for part in parts),
    }


def open_folder(
    folder: Path,
    config: RunConfig,
    *,
    data: Mapping[str, Any],
    model: Mapping[str, Any],
    bundle: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Makes the folder of an evaluation, or finds that it is this evaluation's already.

    Returns:
        The record that stands in its `run.toml`.

    Raises:
        ConfigError: the folder holds another evaluation, or something else, or can't be written.
    """
    record: dict[str, Any] = _without_none(
        about(config.threads) | {"data": data, "model": model, "bundle": bundle}
    )
    path = folder / RUN
    if path.is_file():
        found = read_toml(path)
        _require_same(folder, found, config, record)
        return dict(found["record"])
    try:
        if not is_vacant(folder, RUN):
            raise ConfigError(f"{folder} holds something else: evaluate into a new folder (--output)")
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, tomli_w.dumps({"eval": to_table(config), "record": record}))
    except OSError as error:
        raise ConfigError(f"{folder} can't be written: {error.strerror}") from error
    return record


def about(threads: int | None) -> dict[str, Any]:
    """When, by what and on what something is measured."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe(threads or usable_cores()),
        "versions": versions(),
    }


def write_summary(
    folder: Path,
    config: RunConfig,
    record: Mapping[str, Any],
    figures: Mapping[str, Any],
    speed: Mapping[str, Any],
) -> dict[str, Any]:
    """Figures of a finished evaluation, written to its folder and returned.

    A sitting that found every sample there leaves the speed and memory of the one before.

    Args:
        figures: what the rows come to.
        speed: of this sitting; `timed_samples` is how many it added.
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
        **figures,
        **measured,
        "config": to_table(config),
        "commit": record.get("versions", {}).get("commit"),
        **{key: record.get(key) for key in ("data", "model", "bundle", "machine", "date")},
    }
    write_atomically(path, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    return summary


def peak_rss_bytes() -> int | None:
    """Most memory that this process has had resident so far; None where the system does not tell (Windows).

    Linux's getrusage answers with the parent's peak where that was higher: it survives fork and exec.
    """
    status = Path("/proc/self/status")
    found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE) if status.is_file() else None
    if found:
        return int(found[1]) * 1024
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _require_same(
    folder: Path, found: Mapping[str, Any], config: RunConfig, record: Mapping[str, Any]
) -> None:
    before, now = ({**BEFORE_NAMED, **table} for table in (found.get("eval", {}), to_table(config)))
    settings = sorted({**before, **now}.keys() - MAY_DIFFER)
    different = [
        f"{k}: {before.get(k)!r} there, {now.get(k)!r} now" for k in settings if before.get(k) != now.get(k)
    ]
    known = found.get("record", {})
    for key in ("data", "model", "bundle"):
        there, here = (_identity(one.get(key)) for one in (known, record))
        if there != here:
            different.append(f"{key}: {there} there, {here} now")
    if not (folder / SUMMARY).is_file():
        versions_there, versions_here = known.get("versions", {}), record["versions"]
        different += [
            f"{key}: {versions_there.get(key)} there, {versions_here.get(key)} now"
            for key in _DECISIVE
            if versions_there.get(key) != versions_here.get(key)
        ]
    if different:
        raise ConfigError(
            f"{folder} holds another evaluation ({'; '.join(different)}): evaluate into a new folder "
            "(--output), or repeat its settings to go on with it"
        )


def _identity(entry: Mapping[str, Any] | None) -> str:
    """What a data set, model or bundle is, whatever its file is called."""
    if not entry:
        return "none"
    parts = entry.get("sha256") or entry.get("revision") or entry.get("name")
    return ", ".join(part[:12] for part in parts) if isinstance(parts, list) else str(parts)[:40]


def _without_none(value: Any) -> Any:
    """What TOML can spell of a value: tables without their absent entries."""
    if isinstance(value, Mapping):
        return {key: _without_none(one) for key, one in value.items() if one is not None}
    return value
