"""The folder of a long run: claimed by what the run depends on, locked, ended by a record.

::

    FOLDER/
      recipe.toml, run.toml or record.json     what the run depends on, from the start
      samples.jsonl, checkpoint-…              how far it is
      record.json or summary.json              what was done, once it is done

A folder holds one run. The same command goes on with it; another recipe, data set or model is refused,
and the message names what differs. Records hold names and hashes, no local paths.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import tomli_w

from edgereason.config import load_json, load_toml
from edgereason.core.bundle import file_sha256, write_atomically
from edgereason.core.machine import usable_cores
from edgereason.data.rows import Rows
from edgereason.engine.base import ModelInfo
from edgereason.errors import ConfigError
from edgereason.records.lock import FolderLock, is_vacant
from edgereason.records.machine import describe, versions

RECORD: Final = "record.json"
RECIPE: Final = "recipe.toml"

Table = Mapping[str, Any]
Compare = Callable[[Table, Table], list[str]]
"""Takes what stands in a folder and what a run depends on now; names what differs."""


def differences(found: Table, now: Table, under: str = "") -> list[str]:
    """Every value that two nested tables do not share, as "training.seed: 1 there, 2 now"."""
    different = []
    for key in sorted({*found, *now}):
        there, here = found.get(key), now.get(key)
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            different += differences(there, here, f"{under}{key}.")
        elif there != here:
            different.append(f"{under}{key}: {there!r} there, {here!r} now")
    return different


def differences_but(free: Collection[str], newer: Collection[str] = ()) -> Compare:
    """A comparison that lets some differences pass.

    Args:
        free: settings that may change between calls, such as "training.micro_rows".
        newer: tables and settings that folders of earlier versions lack; where they stand, they count.
    """

    def compare(found: Table, now: Table) -> list[str]:
        passed = (*(f"{name}: " for name in free), *(f"{name}: None there, " for name in newer))
        return [line for line in differences(found, now) if not line.startswith(passed)]

    return compare


class RunFolder:
    """One run's folder.

    Args:
        path: of the folder; `claim` makes it.
        holds: what a run of this kind is called in messages, such as "evaluation".
    """

    def __init__(self, path: Path, holds: str) -> None:
        self.path = path
        self._holds = holds

    def claim(self, name: str, content: Table, compare: Compare = differences) -> dict[str, Any]:
        """Writes down what the run depends on, or finds that the folder is this run's already.

        Args:
            name: of the file, TOML or JSON by its suffix.
            content: plain values, without None in TOML.
            compare: says what differs between the file's content and `content`.

        Returns:
            What stands in the file now.

        Raises:
            ConfigError: the folder holds another run or something else, or can't be written.
        """
        file = self.path / name
        loads, text = (
            (load_toml, _writable(tomli_w.dumps(content)))
            if file.suffix == ".toml"
            else (_load_json, to_json(content))
        )

        def found() -> dict[str, Any]:
            there = loads(file.read_text("utf-8"))
            if different := compare(there, loads(text)):
                raise ConfigError(
                    f"{self.path} holds another {self._holds} ({'; '.join(different)}): give a new "
                    "folder (--output), or repeat its settings to go on with it"
                )
            return there

        try:
            if file.is_file():
                return found()
            if not is_vacant(self.path, name):
                raise ConfigError(f"{self.path} holds something else: give a new folder (--output)")
            self.path.mkdir(parents=True, exist_ok=True)
            with self.lock():  # two processes may have found it vacant
                if file.is_file():
                    return found()
                write_atomically(file, text)
        except OSError as error:
            raise ConfigError(f"{self.path} can't be written: {error.strerror}") from error
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(f"{file} can't be read: {error}: give a new folder (--output)") from error
        return loads(text)

    def claim_record(self, form: str, run: Table) -> None:
        """Claims the folder with the beginning of its record.

        Args:
            form: the record's format; a folder of another one is refused.
            run: what the folder's rows depend on.
        """

        def compare(found: Table, now: Table) -> list[str]:
            return differences({"format": found.get("format")}, {"format": form}) or differences(
                found.get("run", {}), now["run"]
            )

        self.claim(RECORD, {"format": form, "run": run}, compare)

    def lock(self) -> FolderLock:
        """The right to write to the folder, held by one process at a time; see `FolderLock`."""
        return FolderLock(self.path)

    def record(self, name: str = RECORD) -> dict[str, Any] | None:
        """The record that is there, if one is.

        Raises:
            ConfigError: it can't be read.
        """
        file = self.path / name
        try:
            return _load_json(file.read_text("utf-8")) if file.is_file() else None
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{file} can't be read: {error}: give a new folder (--output)") from error

    def write(self, record: Table, name: str = RECORD) -> dict[str, Any]:
        """Writes a record, whole or not at all; returns it as it reads back."""
        text = to_json(record)
        write_atomically(self.path / name, text)
        return _load_json(text)


def to_json(record: Table) -> str:
    """A record as its file has it."""
    return _writable(json.dumps(record, indent=2, ensure_ascii=False)) + "\n"


def _writable(text: str) -> str:
    """A text as UTF-8 can hold it: bytes of a file's name that are something else become question marks."""
    return text.encode("utf-8", "replace").decode()


def about(threads: int | None) -> dict[str, Any]:
    """When, by what and on what something is measured."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe(threads or usable_cores()),
        "versions": versions(),
    }


def data_entry(name: str, sha256: str | None, revision: str | None) -> dict[str, Any]:
    """What a record says of its data."""
    return {"name": name, "sha256": sha256, "revision": revision}


def source_entry(rows: Rows) -> dict[str, Any]:
    """What a record says of a data set."""
    return {"name": rows.name, "sha256": rows.sha256, "revision": rows.revision, "rows": len(rows.rows)}


def model_entry(info: ModelInfo) -> dict[str, Any]:
    """What a record says of its base."""
    return {
        "name": info.file_name,
        "sha256": file_sha256(info.path) if info.path else None,
        "size_bytes": info.size_bytes,
    }


def file_entry(path: Path) -> dict[str, Any]:
    """What a record says of a file."""
    return {"name": path.name, "sha256": file_sha256(path), "size_bytes": path.stat().st_size}


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


def forget_peak_rss() -> None:
    """Begins to measure the most memory anew, where the system allows it (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _load_json(text: str) -> dict[str, Any]:
    found = load_json(text)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found
