"""Records that a bundle's manifest draws on, as they lie on disk: a JSON object, its hash, its folder.

::

    RUN_FOLDER ─→ summary.json of an evaluation, or record.json of a training
    FILE       ─→ the record itself

Knows files; does not know what a record says.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgereason.core.fields import Fields
from edgereason.errors import BundleError
from edgereason.evals.record import SUMMARY

_NAMES: Final = (SUMMARY, "record.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFile:
    """A record.

    Attributes:
        format: what it says that it is.
        values: all of it.
        sha256: of the file.
        folder: that it lies in.
    """

    name: str
    format: str
    values: dict[str, Any]
    sha256: str
    folder: Path

    @property
    def fields(self) -> Fields:
        """Its values, with their types checked as they are taken."""
        return Fields(self.values, self.name)

    @property
    def commit(self) -> str | None:
        """Of the code that wrote it."""
        return self.fields.text("commit") or self.fields.section("versions").text("commit")

    @property
    def command(self) -> str | None:
        """What measures it again, where it says so itself."""
        words = self.fields.texts("command")
        return shlex.join(("edgereason", *words) if words[0] != "edgereason" else words) if words else None

    @property
    def machine(self) -> str | None:
        """What it was measured on."""
        machine = self.fields.section("machine")
        threads = machine.number("threads")
        parts = (machine.text("cpu"), None if threads is None else f"{threads:.0f} threads")
        return ", ".join(part for part in parts if part) or None


def read_record(path: Path) -> RecordFile:
    """Reads the record at `path`.

    Raises:
        BundleError: there is none, or it is no JSON object that names its format.
    """
    file = path
    if path.is_dir():
        found = [path / name for name in _NAMES if (path / name).is_file()]
        if not found:
            raise BundleError(
                f"{path} holds neither {' nor '.join(_NAMES)}: give the folder of a finished run"
            )
        file = found[0]
    try:
        content = file.read_bytes()
        values = json.loads(content)
    except OSError as error:
        raise BundleError(f"the record {file} can't be read: {error.strerror}") from error
    except ValueError as error:  # no JSON, or no text
        raise BundleError(f"the record {file} is no JSON: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("format"), str):
        raise BundleError(f"{file} is no record: it names no format")
    return RecordFile(
        name=file.name if file.parent == Path() else f"{file.resolve().parent.name}/{file.name}",
        format=values["format"],
        values=values,
        sha256=hashlib.sha256(content).hexdigest(),
        folder=file.parent,
    )
