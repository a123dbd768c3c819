"""Parts become a bundle: copied, checked against each other, described, and put in place at once.

::

    base, adapter, heads, records ─→ .DIR.1f2e… ─ copies fit one another? ─ manifest, card ─→ DIR
    another bundle ────────────────↗

What is to be added to a bundle starts from it, in a new folder; in place only a threshold is changed
(`calibrate.py`). Figures that no longer hold are left behind: those of parts that were replaced or of the
adapter under other buckets, and the accuracy that a threshold was expected to reach with them.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Any, Final

from edgereason.bundles.card import CARD, render_card
from edgereason.bundles.provenance import (
    ADAPTER,
    EARLIER,
    ORIGIN_FORMATS,
    SWITCHER,
    TRACES,
    TRAININGS,
    VERIFIER,
    SameHeads,
    buckets_of,
    history_of,
    latest_of,
    origin_of,
)
from edgereason.bundles.results import HEAD, RESULT_FORMATS, RecordFile, read_record, results_of
from edgereason.bundles.verify import BaseFile, read_base, require_adapter
from edgereason.core.bundle import BASE_FILE, Bundle, Part, Result, file_sha256, write_atomically
from edgereason.core.chat import CLOSING
from edgereason.errors import BundleError, ConfigError
from edgereason.hub.local_bases import remember_base
from edgereason.quant.gguf_file import CHECKPOINT, GgufModel
from edgereason.reasoning.model import heads_of
from edgereason.records.lock import LOCK, FolderLock
from edgereason.records.machine import versions

ADAPTER_FILE: Final = "reasoning.gguf"
HEADS_FILE: Final = "heads.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a bundle is to be made of.

    Attributes:
        base: its file.
        start: a bundle whose parts are taken where none are given here.
        buckets: budgets that the adapter's hints were trained with; None for those of the record of its
            fine-tuning, or of `start`.
        calculator: whether exact results are forced in thinking; None for as `start` has it, else not.
        records: files or folders, of measurements and of trainings.
        name: what it is called; None for what the folder is called, or `start` if its adapter stays.
        include_base: whether the base is copied, too.
    """

    base: Path
    start: Bundle | None = None
    adapter: Path | None = None
    heads: Path | None = None
    buckets: tuple[int, ...] | None = None
    calculator: bool | None = None
    records: tuple[Path, ...] = ()
    name: str | None = None
    include_base: bool = False


def build(folder: Path, parts: Parts, notice: Callable[[str], None] = lambda line: None) -> Bundle:
    """Makes a bundle, whole or not at all.

    Args:
        folder: that must not be there yet.
        parts: what it is made of.
        notice: told in a line what was left out.

    Raises:
        BundleError: parts don't fit one another, a record is of something else, or it can't be written.
    """
    if folder.exists():
        raise BundleError(
            f"{folder} is there already, and parts are never added in place: give a new folder (-o), and "
            "this one with --from to start from it"
        )
    records = [read_record(path) for path in dict.fromkeys(parts.records)]
    _require_known(records)
    base = read_base(parts.base, _base_name(parts.start))
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        _clear_killed(folder)
        partial.mkdir(parents=True)
        lock = FolderLock(partial)
    except OSError as error:
        raise BundleError(f"{folder} can't be written: {error.strerror or error}") from error
    try:
        bundle = _with_parts(partial, parts, base, _buckets(parts, records))
        same = SameHeads.of(bundle, parts.start)
        bundle = _with_records(bundle, records, parts.start, same, notice)
        bundle = _with_calibration(bundle, parts.start, same, notice)
        bundle = replace(bundle, name=parts.name or bundle.name or folder.resolve().name)
        card = render_card(bundle)
        bundle.write()
        write_atomically(partial / CARD, card)
        lock.close()
        (partial / LOCK).unlink()
        remember_base(parts.base, base.base.sha256)  # before the end: a run that is killed here is run again
        partial.rename(folder)
    except OSError as error:
        raise BundleError(f"{folder} can't be written: {error.strerror or error}") from error
    finally:
        lock.close()
        shutil.rmtree(partial, ignore_errors=True)
    return replace(bundle, folder=folder)


def _clear_killed(folder: Path) -> None:
    """Removes what builders of this folder left that were killed; who still builds holds a lock."""
    for left in folder.parent.glob(f".{escape(folder.name)}.{'[0-9a-f]' * 8}"):
        with suppress(ConfigError), FolderLock(left):
            shutil.rmtree(left, ignore_errors=True)


def _base_name(start: Bundle | None) -> str | None:
    return start.base.name if start else None


def _require_known(records: list[RecordFile]) -> None:
    known = (*RESULT_FORMATS, *ORIGIN_FORMATS, *TRAININGS)
    for record in records:
        if record.format not in known:
            raise BundleError(
                f"the record {record.name} has the format {record.format!r}, which bundles do not use; "
                f"known: {', '.join(sorted(set(known)))}"
            )


def _buckets(parts: Parts, records: list[RecordFile]) -> tuple[int, ...]:
    """Budgets that the adapter's hints were trained with: as given, else as recorded, else as they were."""
    if parts.buckets is not None:
        return tuple(sorted(set(parts.buckets)))
    adapter = _source(parts.adapter, parts.start, "adapter")
    made = None if adapter is None else file_sha256(adapter)
    trainings = [record for record in records if buckets_of(record)]
    if made is not None and (latest := latest_of(trainings, made)):
        return buckets_of(latest)
    return parts.start.buckets if parts.start and parts.adapter is None else ()


def _with_parts(folder: Path, parts: Parts, base: BaseFile, buckets: tuple[int, ...]) -> Bundle:
    """A bundle of copies in `folder` that fit one another; new parts have no history."""
    start = parts.start
    calculator = parts.calculator if parts.calculator is not None else bool(start and start.calculator)
    bundle = Bundle(
        folder=folder,
        base=base.base,
        opening_ids=base.opening_ids,
        closing=CLOSING,
        buckets=buckets,
        calculator=calculator,
    )
    if start is not None:
        start.check_base(base.base)
        start.check_seams(base.opening_ids, CLOSING)
        name = start.name if parts.adapter is None else None
        bundle = replace(bundle, name=name, provenance=start.provenance, results=start.results)
    adapter, heads = (
        _source(one, start, kind) for one, kind in ((parts.adapter, "adapter"), (parts.heads, "heads"))
    )
    if adapter is not None:
        part = _copy(adapter, folder / ADAPTER_FILE)
        require_adapter(folder / part.file, base.base, base.opening_ids, base.path)
        bundle = replace(bundle, adapter=part)
    elif buckets:
        raise BundleError(
            "buckets are budgets that an adapter was trained with, and there is no adapter: give --adapter"
        )
    if heads is not None:
        part = _copy(heads, folder / HEADS_FILE)
        bundle = replace(bundle, heads=part)
        heads_of(bundle)
    if parts.adapter is not None:
        bundle = _without(bundle, ADAPTER, EARLIER, TRACES)
    if (origin := GgufModel(base.path).checkpoint) is not None:
        bundle = replace(bundle, provenance=dict(bundle.provenance) | {CHECKPOINT: origin.to_record()})
    if start is not None and parts.heads is None:
        bundle = replace(bundle, earlier_heads=start.earlier_heads)
    if parts.include_base or (start is not None and (start.folder / BASE_FILE).is_file()):
        _copy(base.path, folder / BASE_FILE)
    return bundle


def _source(given: Path | None, start: Bundle | None, kind: str) -> Path | None:
    part: Part | None = getattr(start, kind, None)
    if given is not None:
        if not given.is_file():
            raise BundleError(f"{given} is not a file: give the {kind}'s file")
        return given
    return start.verified_file(part) if start and part else None


def _copy(source: Path, target: Path) -> Part:
    shutil.copyfile(source, target)
    return Part(file=target.name, sha256=file_sha256(target))


def _without(bundle: Bundle, *parts: str) -> Bundle:
    """The bundle without the history of these parts."""
    kept = {name: entry for name, entry in bundle.provenance.items() if name not in parts}
    return replace(bundle, provenance=kept)


def _with_records(
    bundle: Bundle,
    records: list[RecordFile],
    start: Bundle | None,
    same: SameHeads,
    notice: Callable[[str], None],
) -> Bundle:
    """The bundle with its history and its figures; figures that no longer hold are left out, and said so."""
    provenance = dict(_without(bundle, *({SWITCHER, VERIFIER} - same.kinds)).provenance)
    if trainings := [record for record in records if record.format in TRAININGS]:
        history = history_of(trainings, bundle, start)
        provenance[ADAPTER], *earlier = history.entries
        provenance |= {EARLIER: earlier} if earlier else {}
        if start is not None and history.is_continued and TRACES in start.provenance:
            provenance[TRACES] = start.provenance[TRACES]
    for kind in ORIGIN_FORMATS:  # traces count once it is known that they were learned from
        for record in (one for one in records if one.format == kind):
            part, entry = origin_of(record, bundle, provenance)
            provenance[part] = _added(provenance.get(part, []), entry) if part == TRACES else entry
    ours = {part.sha256 for part in bundle.parts} | set(bundle.earlier_heads)
    outdated = bundle.adapter_sha256 if start and set(start.buckets) != set(bundle.buckets) else None
    results = [same.moved(one, bundle.heads.sha256 if bundle.heads else None) for one in bundle.results]
    kept = [one for one in results if set(one.parts) <= ours and outdated not in one.parts]
    if left_out := len(bundle.results) - len(kept):
        notice(f"{left_out} results are of other parts or buckets and left out: measure them again")
    fresh = [result for record in records for result in _results(record, bundle, ours)]
    again = {result.sha256 for result in fresh}
    found = {
        name: version for name, version in versions().items() if name in ("edgereason", "commit") and version
    }
    return replace(
        bundle,
        provenance=provenance | {"bundle": found},
        results=(*(result for result in kept if result.sha256 not in again), *fresh),
    )


def _added(entries: Sequence[Mapping[str, Any]], entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The entries with this one, which may be there already."""
    return [*(one for one in entries if one.get("record_sha256") != entry["record_sha256"]), entry]


def _with_calibration(
    bundle: Bundle, start: Bundle | None, same: SameHeads, notice: Callable[[str], None]
) -> Bundle:
    """The bundle with how its threshold was set, as far as that still holds."""
    if start is None or start.calibration is None or not same.has_same_threshold:
        return bundle
    is_same = start.adapter_sha256 == bundle.adapter_sha256 and set(start.buckets) == set(bundle.buckets)
    if "min_accuracy" in start.calibration and not is_same:
        notice(
            "the switcher's threshold stays, but the accuracy that it was set by is of another adapter or "
            "other buckets and left out: calibrate again"
        )
        return bundle
    return replace(bundle, calibration=start.calibration)


def _results(record: RecordFile, bundle: Bundle, ours: set[str]) -> list[Result]:
    if record.format not in RESULT_FORMATS:
        return []
    found = results_of(record, bundle.base, ours, bundle.buckets)
    if record.format == HEAD and bundle.heads is not None:  # whose heads they are, `origin_of` has checked
        adapter = () if record.values["head"] != VERIFIER else (bundle.adapter_sha256,)  # on when it judges
        parts = tuple(one for one in (*adapter, bundle.heads.sha256) if one is not None)
        return [replace(result, parts=parts) for result in found]
    return found
