"""What the training of both heads ends in: a file of heads, and a record of what it is worth.

::

    FOLDER/
      samples.jsonl, states.f32    what was learned from     (`head_states.py`)
      heads.safetensors            the head
      record.json                  data, splits, reliability

Reliability is judged on the weights as the file has them. Records hold names and hashes, no local paths.
Knows files and records; does not know where states come from, nor how a head is trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgereason.errors import ConfigError
from edgereason.heads.base import Array
from edgereason.heads.file import Heads, read_heads, write_heads
from edgereason.heads.reliability import summary
from edgereason.records.folder import RunFolder, file_entry
from edgereason.train.data.decontaminate import Evaluations
from edgereason.train.heads.linear import Calibration, Labels

FORMAT: Final = "edgereason-head"
HEADS: Final = "heads.safetensors"


def store(folder: Path, heads: Heads) -> Heads:
    """Writes the head of a folder, and returns it as it reads back."""
    write_heads(folder / HEADS, heads)
    return read_heads(folder / HEADS)


def judge(p: Array, labels: Labels, sources: Sequence[str]) -> dict[str, Any]:
    """Reliability of probabilities, for the record, and how they go by source."""
    of_source = {name: np.array([source == name for source in sources]) for name in sorted(set(sources))}
    by_source = {
        name: {
            "n": int(rows.sum()),
            "share_true": float(labels[rows].mean()),
            "mean_p": float(p[rows].mean()),
        }
        for name, rows in of_source.items()
    }
    return summary(p, labels) | {"by_source": by_source}


def calibration_entry(calibration: Calibration) -> dict[str, Any]:
    """What a record says of a calibration."""
    return {**calibration._asdict(), "is_used": calibration.keeps_order}


def finish(folder: Path, run: Mapping[str, Any], heads: Heads, record: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the record of a folder that has its head; returns it as it reads back."""
    path = folder / HEADS
    whole = {
        "format": FORMAT,
        "run": run,
        "heads": {
            **file_entry(path),
            "storage": str(heads.storage),
            "base_sha256": heads.base_sha256,
            "adapter_sha256": heads.adapter_sha256,
            "buckets": heads.buckets,
        },
        **record,
    }
    return RunFolder(folder, "head").write(whole)


def require_names(entries: Sequence[Mapping[str, Any]]) -> None:
    """Refuses two files of one name, which a record could not tell apart.

    Raises:
        ConfigError: there are such.
    """
    name, times = Counter(entry["name"] for entry in entries).most_common(1)[0]
    if times > 1:
        raise ConfigError(f"{times} files are called {name}: give every file once, under its own name")


def both(one: Evaluations, other: Evaluations) -> Evaluations:
    """What either asks."""
    return Evaluations(one.files + other.files, one.ngrams | other.ngrams, one.short | other.short)
