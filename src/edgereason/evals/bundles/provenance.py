"""What the parts of a bundle were made from, taken from the records of their training.

::

    edgereason-quantize   base               teacher, recipe, text
    edgereason-sft        adapter            traces, recipe, steps
    edgereason-traces     traces             teacher, questions        (those that the adapter learned from)
    edgereason-head       switcher, verifier data, splits, calibration

A record counts if it ends in the very part that is in the bundle: by hash, or, for a head that was put beside
another, by its weights. Entries are plain values without local paths. Knows records; does not know training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from edgereason.core.bundle import MANIFEST, Bundle, file_sha256
from edgereason.errors import BundleError
from edgereason.evals.bundles.records import RecordFile
from edgereason.evals.bundles.results import HEAD
from edgereason.heads.file import Heads, read_heads

SFT: Final = "edgereason-sft"
TRACES: Final = "traces"

_SFT: Final = (
    "num_examples", "num_too_long", "num_hinted", "response_tokens_mean", "steps", "end_loss", "rewarmed_at",
    "torch", "date",
)  # fmt: skip
_QUANTIZE: Final = ("recipe_sha256", "teacher", "learned", "text", "recipe", "num_tokens", "torch", "date")
_TRACES: Final = ("way", "model", "config", "rule", "questions", "from", "against", "yield_of_all", "date")
_HEAD: Final = (
    "config", "prompts", "questions", "against", "tests", "counts", "splits", "fit", "candidates",
    "calibration", "verification_ids", "date",
)  # fmt: skip


class Origin(NamedTuple):
    """What a record says of a part: the part's name, and what it was made from."""

    part: str
    entry: Mapping[str, Any]


def origin_of(record: RecordFile, bundle: Bundle, known: Mapping[str, Any]) -> Origin:
    """What a training's record says of a part of the bundle.

    Args:
        record: of a kind in `ORIGIN_FORMATS`.
        bundle: with its parts' files in its folder.
        known: what is known of other parts; traces are those of the adapter that is there already.

    Raises:
        BundleError: the record is of something else, or not of this version.
    """
    try:
        part, own = ORIGIN_FORMATS[record.format](record, bundle, known)
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"the record {record.name} is not of this version: it lacks {error}") from error
    entry = {"record": record.format, "record_sha256": record.sha256, "commit": record.commit, **own}
    return Origin(part=part, entry={name: value for name, value in entry.items() if value is not None})


def buckets_of(record: RecordFile) -> tuple[int, ...]:
    """Budgets that hints were trained with, as the recipe of a fine-tuning has them; empty for all else."""
    if record.format != SFT:
        return ()
    numbers = record.fields.section("recipe").section("hints").numbers("buckets")
    return tuple(sorted({int(number) for number in numbers if number is not None}))


def _base(record: RecordFile, bundle: Bundle, known: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    _require_same(record, "base", record.values["base"]["sha256"], bundle.base.sha256)
    return "base", _some(record, _QUANTIZE)


def _adapter(record: RecordFile, bundle: Bundle, known: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    values = record.values
    made = values["adapter"]["sha256"] if "adapter" in values else _exported(record)
    _require_same(record, "adapter", made, bundle.adapter_sha256)
    recipe, name = values["recipe"], Path(values["recipe"]["base"]["name"]).name  # it may be a file's path
    return "adapter", {
        "traces": values.get("traces"),
        "recipe": recipe | {"base": recipe["base"] | {"name": name}},
        **_some(record, _SFT),
    }


def _exported(record: RecordFile) -> str | None:
    """Hash of the adapter that `train export` put beside a record that came from another machine.

    Its manifest says of which base and buckets it was made: None unless the record says the same.
    """
    folder = record.folder / "bundle"
    if not (folder / MANIFEST).is_file():
        return None
    made = Bundle.read(folder)
    has_same_base = made.base.sha256 == record.values["base"]["sha256"]
    if made.adapter is None or not has_same_base or set(made.buckets) != set(buckets_of(record)):
        return None
    return file_sha256(made.verified_file(made.adapter))


def _traces(record: RecordFile, bundle: Bundle, known: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    made = record.values["traces"]
    learned = [one["sha256"] for one in known.get("adapter", {}).get("traces") or ()]
    if made["sha256"] not in learned:
        raise BundleError(
            f"the record {record.name} is of traces {made['sha256']}, which the adapter's record lacks: "
            "give the record of its fine-tuning too"
        )
    return TRACES, {"traces": made, **_some(record, _TRACES)}


def _head(record: RecordFile, bundle: Bundle, known: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    head, made = record.values["head"], record.values["heads"]
    if bundle.heads is None:
        raise BundleError(
            f"the record {record.name} is of a {head}, and the bundle has no heads: give --heads"
        )
    if made["sha256"] not in (bundle.heads.sha256, *bundle.earlier_heads):
        beside = record.folder / made["name"]
        if not beside.is_file() or file_sha256(beside) != made["sha256"]:
            raise BundleError(
                f"the record {record.name} is of heads {made['sha256']}, the bundle has "
                f"{bundle.heads.sha256}, and {made['name']} is not beside the record to compare: "
                "give the record's folder"
            )
        ours, theirs = read_heads(bundle.folder / bundle.heads.file), read_heads(beside)
        if not _is_same(head, ours, theirs):
            raise BundleError(f"the record {record.name} is of another {head} than the bundle's")
    return head, {"trained_as": made, **_some(record, _HEAD)}


def _is_same(head: str, ours: Heads, theirs: Heads) -> bool:
    """Whether a head has the same weights; the threshold may differ."""
    if (one := getattr(ours, head, None)) is None or (other := getattr(theirs, head, None)) is None:
        return False
    names = [name for name in type(one).__slots__ if isinstance(getattr(one, name), np.ndarray)]
    arrays = [(getattr(one, name), getattr(other, name)) for name in names]
    return all(np.array_equal(a, b) for a, b in arrays)


def _some(record: RecordFile, names: Sequence[str]) -> dict[str, Any]:
    return {name: record.values[name] for name in names if record.values.get(name) is not None}


def _require_same(record: RecordFile, part: str, got: str | None, expected: str | None) -> None:
    if got is None or got != expected:
        raise BundleError(
            f"the record {record.name} is of another {part}: it made {got}, the bundle has {expected}"
        )


_Reader = Callable[[RecordFile, Bundle, Mapping[str, Any]], tuple[str, dict[str, Any]]]

ORIGIN_FORMATS: Final[Mapping[str, _Reader]] = {
    # In this order: what traces were made from is of interest once it is known that they were learned from.
    "edgereason-quantize": _base,
    SFT: _adapter,
    "edgereason-traces": _traces,
    HEAD: _head,
}
