"""What is in a bundle, as plain values and as lines.

Reads the manifest, sizes and the heads' few kilobytes. Does not check anything, nor need the base.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from edgereason.bundles.card import figures_text, head_kinds, measured_with
from edgereason.core.bundle import Bundle, Part
from edgereason.heads.file import read_heads
from edgereason.hub.locate import find_base
from edgereason.report.markdown import bytes_text


def describe(bundle: Bundle) -> dict[str, Any]:
    """A bundle as plain values, for `--json`.

    Raises:
        BundleError: its heads are there and can't be read.
    """
    found, kinds = find_base(bundle), head_kinds(bundle)
    return {
        "name": bundle.title,
        "base": {
            **asdict(bundle.base),
            "place": found.place,
            "is_here": found.path is not None,
            "catalogue_name": found.model.name if found.model else None,
        },
        "adapter": _part(bundle, bundle.adapter),
        "heads": _heads(bundle),
        "buckets": list(bundle.buckets),
        "calibration": bundle.calibration,
        "provenance": bundle.provenance,
        "results": [
            asdict(result)
            | {"measured_with": measured_with(result, bundle, kinds), "text": figures_text(result)}
            for result in bundle.results
        ],
    }


def lines(described: dict[str, Any]) -> Iterator[str]:
    """What `describe` says, for people."""
    yield described["name"]
    base = described["base"]
    known = f" as {base['catalogue_name']}" if base["catalogue_name"] else ""
    yield f"base      {base['name']}, {base['place']}{known}, {base['sha256'][:16]}…"
    for kind in ("adapter", "heads"):
        part = described[kind]
        if part is None:
            yield f"{kind:<9} none"
            continue
        size = bytes_text(part["size_bytes"]) if part["is_here"] else "missing"
        yield f"{kind:<9} {part['file']}, {size}, {part['sha256'][:16]}…"
    heads = described["heads"]
    if heads and heads["threshold"] is not None:
        yield f"switcher  thinks from {heads['threshold']:.4g} on"
    if heads and heads["has_verifier"]:
        yield "verifier  scores finished traces"
    if described["buckets"]:
        yield f"buckets   {', '.join(map(str, described['buckets']))} tokens"
    for result in described["results"]:
        yield f"measured  {result['what']} ({result['measured_with']}): {result['text']}"


def _part(bundle: Bundle, part: Part | None) -> dict[str, Any] | None:
    if part is None:
        return None
    path = bundle.folder / part.file
    is_here = path.is_file()
    return {**asdict(part), "is_here": is_here, "size_bytes": path.stat().st_size if is_here else None}


def _heads(bundle: Bundle) -> dict[str, Any] | None:
    described = _part(bundle, bundle.heads)
    if bundle.heads is None or described is None:
        return None
    heads = read_heads(bundle.folder / bundle.heads.file) if described["is_here"] else None
    switcher = heads.switcher if heads else None
    return described | {
        "threshold": switcher.threshold if switcher else None,
        "has_verifier": heads is not None and heads.verifier is not None,
    }
