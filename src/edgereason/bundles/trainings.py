"""How an adapter came about: one training after another, each from the adapter that the one before it made.

::

    records      grpo ── started_from ──→ sft ── started_from ──→ … ──→ the adapter of the bundle to
                  │                                                     start from: its history goes on
                  └─ made ─→ the adapter in the bundle

A training counts if it made the adapter that is there, or one that a training that counts began with.
Knows records of trainings, and bundles; does not know how adapters are trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from edgereason.bundles.records import RecordFile
from edgereason.core.bundle import MANIFEST, Bundle, file_sha256
from edgereason.errors import BundleError

SFT: Final = "edgereason-sft"
GRPO: Final = "edgereason-grpo"
TRAININGS: Final = (SFT, GRPO)

ADAPTER: Final = "adapter"
EARLIER: Final = "earlier_adapters"
"""What trainings made before the bundle's adapter, the latest first."""

_SAID: Final = (
    "traces", "started_from", "num_examples", "num_too_long", "num_hinted", "response_tokens_mean",
    "questions", "left_out", "against", "num_problems", "steps", "end_loss", "rewarmed_at", "torch", "date",
)  # fmt: skip


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
        while found := next((one for one in left if wanted is not None and made_by(one) == wanted), None):
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
        **{name: values.get(name) for name in _SAID},
    }
    return {name: value for name, value in entry.items() if value is not None}


def _known(start: Bundle | None) -> list[Mapping[str, Any]]:
    if start is None or ADAPTER not in start.provenance:
        return []
    return [start.provenance[ADAPTER], *start.provenance.get(EARLIER, [])]
