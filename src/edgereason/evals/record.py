"""The folder of an evaluation: what makes it reproducible beside its rows, and what it comes to.

::

    FOLDER/
      run.toml          [eval] the resolved configuration, [record] commit, machine, data, model
      samples.jsonl     one row a sample
      summary.json      figures; there once every sample is

A folder holds one evaluation: another configuration, data set or model is refused, naming what differs.
Records hold names and hashes, no local paths: `edgereason eval --config run.toml --data FILE` runs it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeVar

from edgereason.config import parse, read_toml, to_table
from edgereason.core.bundle import Bundle
from edgereason.errors import ConfigError
from edgereason.records.folder import RunFolder, about, differences, peak_rss_bytes

RUN: Final = "run.toml"
SUMMARY: Final = "summary.json"
FORMAT: Final = "edgereason-eval"
BEFORE_NAMED: Final[Mapping[str, Any]] = MappingProxyType(
    {"kv": "f16", "orders": "given", "shots": 0, "calculator": False}
)
"""What settings were before records named them: a record that lacks one was made with this value."""
MAY_DIFFER: Final = frozenset({"threads", "parallel", "label"})
"""Settings that change how long a run takes or what it is called, and not what its rows are drawn from."""
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
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """Makes the folder of an evaluation, or finds that it is this evaluation's already.

    Returns:
        The record that stands in its `run.toml`.

    Raises:
        ConfigError: the folder holds another evaluation, or something else, or can't be written.
    """
    record: dict[str, Any] = _without_none(
        about(config.threads)
        | {"command": list(command) or None, "data": data, "model": model, "bundle": bundle}
    )
    content = {"eval": to_table(config), "record": record}
    found = RunFolder(folder, "evaluation").claim(RUN, content, partial(_differences, folder))
    return dict(found["record"])


def write_summary(
    folder: Path,
    config: RunConfig,
    record: Mapping[str, Any],
    figures: Mapping[str, Any],
    speed: Mapping[str, Any],
) -> dict[str, Any]:
    """Figures of a finished evaluation, written to its folder and returned.

    A session that found every sample there leaves the speed and memory of the one before.

    Args:
        figures: what the rows come to.
        speed: of this session; `timed_samples` is how many it added.
    """
    run = RunFolder(folder, "evaluation")
    measured = dict(speed) | {"peak_rss_bytes": peak_rss_bytes()}
    if not speed["timed_samples"] and (before := run.record(SUMMARY)):
        measured = {key: before.get(key) for key in measured}
    summary = {
        "format": FORMAT,
        "task": config.task,
        "label": config.label,
        **figures,
        **measured,
        "config": to_table(config),
        "commit": record.get("versions", {}).get("commit"),
        **{key: record.get(key) for key in ("data", "model", "bundle", "machine", "date", "command")},
    }
    try:
        return run.write(summary, SUMMARY)
    except OSError:
        if speed["timed_samples"]:
            raise
        return summary  # of rows on a disk that can only be read


def _differences(folder: Path, found: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What makes the evaluation of a folder another one: settings, data, model, versions if it goes on."""
    asked, asking = (
        {k: value for k, value in (BEFORE_NAMED | one.get("eval", {})).items() if k not in MAY_DIFFER}
        for one in (found, now)
    )
    different = differences(asked, asking)
    before, after = found.get("record", {}), now["record"]
    for key in ("data", "model", "bundle"):
        there, here = _identity(before.get(key)), _identity(after.get(key))
        if there != here:
            different.append(f"{key}: {there} there, {here} now")
    if not (folder / SUMMARY).is_file():
        old, new = ({key: one.get("versions", {}).get(key) for key in _DECISIVE} for one in (before, after))
        different += differences(old, new)
    return different


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
