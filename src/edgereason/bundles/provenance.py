"""What the parts of a bundle were made from, taken from the records of their training.

::

    edgereason-quantize   base               teacher, recipe, text
    edgereason-traces     traces             teacher, questions        (those that an adapter learned from)
    edgereason-shortest   traces             the adapter's own, the shortest right ones
    edgereason-head       switcher, verifier data, splits, calibration

A record counts if it ends in the very part that is in the bundle: by hash, or, for a head that was put beside
another, by its weights. Entries are plain values without local paths. How the adapter itself came about is in
`trainings.py`. Knows records; does not know training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from edgereason.bundles.records import RecordFile
from edgereason.bundles.results import HEAD
from edgereason.bundles.same_heads import is_same
from edgereason.bundles.trainings import ADAPTER, EARLIER
from edgereason.core.bundle import Bundle, file_sha256
from edgereason.errors import BundleError
from edgereason.heads.file import read_heads

TRACES: Final = "traces"

_QUANTIZE: Final = ("recipe_sha256", "teacher", "learned", "text", "recipe", "num_tokens", "torch", "date")
_TRACES: Final = (
    "way", "model", "config", "rule", "run", "questions", "from", "against", "yield_of_all",
    "share_right", "tokens", "date",
)  # fmt: skip
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
        known: what is known of other parts; traces are those that its adapters learned from.

    Raises:
        BundleError: the record is of something else, or not of this version.
    """
    try:
        part, own = ORIGIN_FORMATS[record.format](record, bundle, known)
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"the record {record.name} is not of this version: it lacks {error}") from error
    entry = {"record": record.format, "record_sha256": record.sha256, "commit": record.commit, **own}
    return Origin(part=part, entry={name: value for name, value in entry.items() if value is not None})


def _base(record: RecordFile, bundle: Bundle, known: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    _require_same(record, "base", record.values["base"]["sha256"], bundle.base.sha256)
    return "base", _some(record, _QUANTIZE)


def _traces(record: RecordFile, bundle: Bundle, known: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return _learned(record, record.values["traces"], known)


def _shortest(record: RecordFile, bundle: Bundle, known: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return _learned(record, record.values["examples"], known)


def _learned(
    record: RecordFile, made: Mapping[str, Any], known: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    trainings = [known.get(ADAPTER, {}), *known.get(EARLIER, [])]
    if made["sha256"] not in [one["sha256"] for entry in trainings for one in entry.get("traces") or ()]:
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
        if not is_same(head, ours, theirs):
            raise BundleError(f"the record {record.name} is of another {head} than the bundle's")
    return head, {"trained_as": made, **_some(record, _HEAD)}


def _some(record: RecordFile, names: Sequence[str]) -> dict[str, Any]:
    return {name: record.values[name] for name in names if record.values.get(name) is not None}


def _require_same(record: RecordFile, part: str, got: str | None, expected: str | None) -> None:
    if got is None or got != expected:
        raise BundleError(
            f"the record {record.name} is of another {part}: it made {got}, the bundle has {expected}"
        )


_Reader = Callable[[RecordFile, Bundle, Mapping[str, Any]], tuple[str, dict[str, Any]]]

ORIGIN_FORMATS: Final[Mapping[str, _Reader]] = {
    "edgereason-quantize": _base,
    "edgereason-traces": _traces,
    "edgereason-shortest": _shortest,
    HEAD: _head,
}
