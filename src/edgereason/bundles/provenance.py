"""What the parts of a bundle were made from, taken from the records of their training.

::

    edgereason-quantize   base               teacher, recipe, text
    edgereason-traces     traces             teacher, questions        (those that an adapter learned from)
    edgereason-shortest   traces             the adapter's own, the shortest right ones
    edgereason-sft, grpo  adapter, earlier   one training after another, each from what the one before made
    edgereason-head       switcher, verifier data, splits, calibration

A record counts if it ends in the very part that is in the bundle: by hash, or, for a head that was put beside
another, by its weights. A training counts if it made the adapter that is there, or one that a training that
counts began with. Entries are plain values without local paths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from edgereason.bundles.results import HEAD, RecordFile
from edgereason.core.bundle import MANIFEST, Bundle, Result, file_sha256
from edgereason.core.types import Mode
from edgereason.errors import BundleError
from edgereason.heads.file import Heads, read_heads
from edgereason.report.records import SWEEP

SWITCHER: Final = "switcher"
VERIFIER: Final = "verifier"
TRACES: Final = "traces"
ADAPTER: Final = "adapter"
EARLIER: Final = "earlier_adapters"
"""What trainings made before the bundle's adapter, the latest first."""

SFT: Final = "edgereason-sft"
GRPO: Final = "edgereason-grpo"
TRAININGS: Final = (SFT, GRPO)

_QUANTIZE: Final = ("recipe_sha256", "teacher", "learned", "text", "recipe", "num_tokens", "torch", "date")
_TRACES: Final = (
    "way", "model", "config", "rule", "run", "questions", "from", "against", "yield_of_all",
    "share_right", "tokens", "date",
)  # fmt: skip
_HEAD: Final = (
    "config", "prompts", "questions", "against", "tests", "counts", "splits", "fit", "candidates",
    "calibration", "verification_ids", "date",
)  # fmt: skip
_TRAINING: Final = (
    "traces", "started_from", "num_examples", "num_too_long", "num_hinted", "response_tokens_mean",
    "questions", "left_out", "against", "num_problems", "steps", "end_loss", "rewarmed_at", "torch", "date",
)  # fmt: skip
_THRESHOLD: Final = "threshold"
_FORCED: Final = (Mode.CHAT, Mode.THINK)


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
    if (made := record.values["base"]["sha256"]) != bundle.base.sha256:
        raise BundleError(
            f"the record {record.name} is of another base: it made {made}, the bundle has "
            f"{bundle.base.sha256}"
        )
    return "base", _some(record, _QUANTIZE)


def _traces(record: RecordFile, bundle: Bundle, known: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    made = record.values["traces" if record.format == "edgereason-traces" else "examples"]
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


_Reader = Callable[[RecordFile, Bundle, Mapping[str, Any]], tuple[str, dict[str, Any]]]

ORIGIN_FORMATS: Final[Mapping[str, _Reader]] = {
    "edgereason-quantize": _base,
    "edgereason-traces": _traces,
    "edgereason-shortest": _traces,
    HEAD: _head,
}


# ── trainings of the adapter ───────────────────────────────────────────────────────────────────────


class History(NamedTuple):
    """How an adapter came about.

    Attributes:
        entries: what is known of its trainings, the latest first.
        is_continued: whether they lead to the adapter of the bundle to start from.
    """

    entries: tuple[Mapping[str, Any], ...]
    is_continued: bool


def history_of(records: Sequence[RecordFile], bundle: Bundle, start: Bundle | None) -> History:
    """The trainings that made a bundle's adapter.

    Args:
        records: of trainings, in any order; at least one.
        bundle: with its adapter's file in its folder.
        start: that the bundle is made from.

    Raises:
        BundleError: a record is of another adapter, or not of this version.
    """
    left, wanted, entries = [*records], bundle.adapter_sha256, list[Mapping[str, Any]]()
    try:
        while wanted is not None and (found := latest_of(left, wanted)):
            left.remove(found)
            entries.append(_entry(found))
            wanted = found.values.get("started_from")
        if left:
            raise BundleError(
                f"the record {left[0].name} is of another adapter: it made {made_by(left[0])}, the bundle "
                f"has {bundle.adapter_sha256}, and no training given here began with that one"
            )
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"a record of a training is not of this version: it lacks {error}") from error
    known = _known(start)
    is_continued = start is not None and wanted is not None and wanted == start.adapter_sha256
    if is_continued:
        entries += known
    else:  # the bundle may know more of the same training than is said here
        hashes = [entry.get("record_sha256") for entry in known]
        if entries[-1]["record_sha256"] in hashes:
            entries += known[hashes.index(entries[-1]["record_sha256"]) + 1 :]
    return History(entries=tuple(entries), is_continued=is_continued)


def latest_of(trainings: Sequence[RecordFile], adapter: str) -> RecordFile | None:
    """The last training that made an adapter, by its hash; None if none did.

    More than one did if the later ones changed nothing: they began with the adapter that they made.
    """
    made = [one for one in trainings if made_by(one) == adapter]
    return max(
        made,
        key=lambda one: (one.values.get("started_from") == adapter, str(one.values.get("date", ""))),
        default=None,
    )


def made_by(record: RecordFile) -> str | None:
    """Hash of the adapter that a training made, as it ships; None if that isn't known.

    A training of another machine does not say; `train export` puts the adapter beside its record, and the
    manifest there says of which base and buckets it was made: it counts only if the record says the same.
    """
    values = record.values
    if "adapter" in values:
        return str(values["adapter"]["sha256"])
    folder = record.folder / "bundle"
    if not (folder / MANIFEST).is_file():
        return None
    made = Bundle.read(folder)
    has_same_base = made.base.sha256 == record.fields.section("base").text("sha256")
    if made.adapter is None or not has_same_base or set(made.buckets) != set(buckets_of(record)):
        return None
    return file_sha256(made.verified_file(made.adapter))


def buckets_of(record: RecordFile) -> tuple[int, ...]:
    """Budgets that hints were trained with; empty for a record of something else.

    Older records of fine-tuning don't name them; for those they are the recipe's.
    """
    if record.format not in TRAININGS:
        return ()
    recipe = record.fields.section("recipe")
    settings = recipe.section("hints" if record.format == SFT else "budgets")
    numbers = (record.fields if "buckets" in record.fields else settings).numbers("buckets")
    return tuple(sorted({int(number) for number in numbers if number is not None}))


def _entry(record: RecordFile) -> dict[str, Any]:
    values = record.values
    recipe, name = values["recipe"], Path(values["recipe"]["base"]["name"]).name  # it may be a file's path
    entry = {
        "record": record.format,
        "record_sha256": record.sha256,
        "commit": record.commit,
        "recipe": recipe | {"base": recipe["base"] | {"name": name}},
        **{name: values.get(name) for name in _TRAINING},
    }
    return {name: value for name, value in entry.items() if value is not None}


def _known(start: Bundle | None) -> list[Mapping[str, Any]]:
    if start is None or ADAPTER not in start.provenance:
        return []
    return [start.provenance[ADAPTER], *start.provenance.get(EARLIER, [])]


# ── heads that stay the same ───────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class SameHeads:
    """What a bundle's heads have in common with those of the bundle that it is made from.

    Attributes:
        kinds: of the heads that are the same in both.
        has_same_threshold: whether the switcher is one of them, and begins to think where it did.
        before: hashes that their file had.
    """

    kinds: frozenset[str] = frozenset()
    has_same_threshold: bool = False
    before: frozenset[str] = frozenset()

    @classmethod
    def of(cls, bundle: Bundle, start: Bundle | None) -> SameHeads:
        """Compares the files of two bundles.

        Raises:
            BundleError: a file can't be read, or is not the one that its manifest names.
        """
        if start is None or start.heads is None or bundle.heads is None:
            return cls()
        ours = read_heads(bundle.folder / bundle.heads.file)
        theirs = read_heads(start.verified_file(start.heads))
        kinds = frozenset(kind for kind in (SWITCHER, VERIFIER) if is_same(kind, ours, theirs))
        return cls(
            kinds=kinds,
            has_same_threshold=SWITCHER in kinds
            and _plain(ours.switcher)[_THRESHOLD] == _plain(theirs.switcher)[_THRESHOLD],
            before=frozenset((start.heads.sha256, *start.earlier_heads)),
        )

    def moved(self, result: Result, sha256: str | None) -> Result:
        """A result, told of the file that its heads are in now, if that is another file.

        One of a head needs this head to be the same. One of a forced mode, or of votes over traces, had no
        switcher to ask, so that it needs the same verifier only.
        """
        if sha256 is None or sha256 in self.before:
            return result
        asked = result.what.split()[0] if result.record == HEAD else VERIFIER
        if asked not in self.kinds or (result.record != HEAD and not _is_forced(result)):
            return result
        return replace(result, parts=tuple(sha256 if part in self.before else part for part in result.parts))


def _is_forced(result: Result) -> bool:
    """Whether no switcher had a say in it."""
    return result.record == SWEEP or any(f" --mode {mode} " in f"{result.command} " for mode in _FORCED)


def is_same(kind: str, ours: Heads, theirs: Heads) -> bool:
    """Whether a head has the same weights and reads the same; the threshold may differ."""
    one, other = getattr(ours, kind), getattr(theirs, kind)
    if one is None or other is None:
        return False
    a, b = _plain(one), _plain(other)
    return all(_equal(a[name], b[name]) for name in a if name != _THRESHOLD)


def _equal(one: Any, other: Any) -> bool:
    return bool(np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other)


def _plain(head: Any) -> dict[str, Any]:
    return {field.name: getattr(head, field.name) for field in fields(head)}
