"""A bundle's threshold is set: into its heads, and how it came about into its manifest.

::

    threshold ─→ heads-1f2e….safetensors ─→ bundle.json names them ─→ the old heads go, README.md follows

The heads are written under a new name and named by the manifest afterwards, so that whoever reads the
bundle finds both or neither. Knows bundles and heads; does not know how a threshold is found
(`threshold_sources.py`).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgereason.bundles.card import CARD, render_card
from edgereason.bundles.threshold import Point
from edgereason.core.bundle import Bundle, Part, file_sha256, write_atomically
from edgereason.errors import BundleError
from edgereason.heads.file import read_heads, write_with_threshold
from edgereason.records.machine import versions


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A threshold, and from what; plain values.

    Attributes:
        num_left_out: prompts that do not fit in the context.
    """

    point: Point
    method: Mapping[str, Any]
    num_left_out: int = 0


def require_switcher(bundle: Bundle) -> None:
    """Refuses a bundle without a switcher, before its base is loaded.

    Raises:
        BundleError: it has none, or its heads can't be read.
    """
    if bundle.heads is None or read_heads(bundle.verified_file(bundle.heads)).switcher is None:
        raise BundleError(
            f"{bundle.title} has no switcher, and so no threshold: train one (edgereason train heads "
            "switcher) and add it (edgereason bundle build --from … --heads …)"
        )


def set_threshold(bundle: Bundle, found: Found) -> Bundle:
    """Puts a threshold into a bundle's heads, and into the manifest how it came about.

    Raises:
        BundleError: the bundle has no switcher, or can't be written.
    """
    require_switcher(bundle)
    assert bundle.heads is not None
    before = bundle.heads
    try:
        heads = _write_heads(bundle, before, found.point.threshold)
        earlier = dict.fromkeys((*bundle.earlier_heads, before.sha256))
        calibrated = replace(
            bundle,
            heads=heads,
            earlier_heads=tuple(one for one in earlier if one != heads.sha256),
            calibration=_calibration(found),
        )
        try:
            card = render_card(calibrated)  # refused now, if at all
            calibrated.write()  # from here on the new heads count
        except (OSError, BundleError):
            _remove(bundle, heads, before)
            raise
        _remove(bundle, before, heads)
        write_atomically(bundle.folder / CARD, card)
    except OSError as error:
        raise BundleError(
            f"{bundle.folder} can't be written ({error.strerror or error}): calibrate a copy "
            "(edgereason bundle build --from …)"
        ) from error
    return calibrated


def _write_heads(bundle: Bundle, before: Part, threshold: float) -> Part:
    """The heads with another threshold, under a name of their own."""
    temporary = bundle.folder / f".heads.{secrets.token_hex(4)}"
    try:
        write_with_threshold(bundle.folder / before.file, temporary, threshold)
        sha256 = file_sha256(temporary)
        heads = Part(file=f"heads-{sha256[:8]}.safetensors", sha256=sha256)
        temporary.replace(bundle.folder / heads.file)
    finally:
        temporary.unlink(missing_ok=True)
    return heads


def _remove(bundle: Bundle, part: Part, kept: Part) -> None:
    """Removes a part's file, unless it is the one that is kept."""
    if part.file != kept.file:
        (bundle.folder / part.file).unlink(missing_ok=True)


def _calibration(found: Found) -> dict[str, Any]:
    figures = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(found.point).items()
        if value is not None
    }
    known = {name: one for name, one in versions().items() if name in ("edgereason", "commit") and one}
    return {**figures, **found.method, "versions": known}
