"""What is in a bundle, for people: its README.md by `card.md.j2`, and the values and lines of `bundle show`.

Both say what the manifest says, and which heads the file of heads holds. They check nothing and need no base.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib import resources
from typing import Any, Final

import jinja2

from edgereason.bundles.provenance import SWITCHER, VERIFIER
from edgereason.bundles.results import HEAD
from edgereason.core.bundle import BASE_FILE, Bundle, Part, Result
from edgereason.errors import BundleError
from edgereason.heads.file import read_heads
from edgereason.hub.catalog import find, find_by_sha256
from edgereason.hub.pull import find_base
from edgereason.report.markdown import bytes_text, cell, interval_text, percent

CARD: Final = "README.md"

_WORDS: Final = {
    "num_questions": "questions",
    "mean_all_streams_tokens": "tokens of all streams",
    "share_think": "thinking",
    "share_cut": "cut",
    "share_in_time": "in time",
    "max_overshoot_s": "worst overshoot in s",
    "latency_s": "median s",
    "acc": "likeliest",
    "acc_norm": "likeliest by length",
    "ppl": "perplexity",
    "auroc": "AUROC",
    "auroc_within_questions": "AUROC within a question",
    "ece": "ECE",
}
_SHARES: Final = ("accuracy", "acc", "acc_norm", "uncut")
_SHARE_BEGINS: Final = ("share_", "majority ", "weighted ", "best ", "within ")
_AT_ANOTHER: Final = {SWITCHER: f"{SWITCHER} at another threshold"}
_SHOWN_INSIDE: Final = ("teacher", "model", "traces", "counts", "splits")
"""Objects in an origin that a row has room for; settings stay in the manifest."""
_HASH: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def head_kinds(bundle: Bundle) -> tuple[str, ...]:
    """Which heads are in a bundle's file, such as `SWITCHER`; none if the file is missing.

    Raises:
        BundleError: they can't be read.
    """
    if bundle.heads is None or not (path := bundle.folder / bundle.heads.file).is_file():
        return ()
    heads = read_heads(path)
    found = ((SWITCHER, heads.switcher), (VERIFIER, heads.verifier))
    return tuple(kind for kind, head in found if head is not None)


# ── the card ─────────────────────────────────────────────────────────────────────────────────────


def render_card(bundle: Bundle) -> str:
    """The card; its parts must lie in the bundle's folder.

    Raises:
        BundleError: its provenance or calibration was written by hand, or by another version; or its heads
            can't be read.
    """
    kinds, model, inside = head_kinds(bundle), find_by_sha256(bundle.base.sha256), bundle.folder / BASE_FILE
    is_inside = inside.is_file()
    known_bytes = model.size_bytes if model else None
    try:
        return _template().render(
            bundle=bundle,
            base=bundle.base,
            base_file=BASE_FILE,
            model=model,
            hub=model and (find(model.made.teacher) if model.made else model).hub,
            is_inside=is_inside,
            base_bytes=inside.stat().st_size if is_inside else known_bytes,
            has_switcher=SWITCHER in kinds,
            has_verifier=VERIFIER in kinds,
            parts=[(part, (bundle.folder / part.file).stat().st_size) for part in bundle.parts],
            origins=list(_origins(bundle.provenance)),
            results=[(one, measured_with(one, bundle, kinds), figures_text(one)) for one in bundle.results],
            commands=dict.fromkeys(one.command for one in bundle.results),
        )
    except (jinja2.TemplateError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(
            f"provenance or calibration in the manifest of {bundle.title} is not of this version: {error!r}"
        ) from error


def _template() -> jinja2.Template:
    """The card's text; what stands in it is Markdown, which `cell` escapes foreign text for."""
    environment = jinja2.Environment(
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "cell": cell,
        "bytes": bytes_text,
        "percent": partial(percent, decimals=1),
        "interval": interval_text,
        "plain": _plain,
    }
    source = resources.files("edgereason.bundles").joinpath("card.md.j2").read_text(encoding="utf-8")
    return environment.from_string(source)


def _origins(provenance: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Parts, and what a row has room for: names and hashes of data, counts, commit."""
    for part, entries in provenance.items():
        for entry in entries if isinstance(entries, list) else [entries]:
            shown = {
                name: value
                for name, value in entry.items()
                if not isinstance(value, dict) or name in _SHOWN_INSIDE
            }
            yield part.replace("_", " "), shown


def _plain(value: Any) -> str:
    """Plain values in a line: name: value, …; a hash in twelve digits."""
    if isinstance(value, Mapping):
        known = {name: one for name, one in value.items() if one is not None}
        return ", ".join(f"{name.replace('_', ' ')} {_plain(one)}" for name, one in known.items())
    if isinstance(value, list | tuple):
        return " and ".join(map(_plain, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    digits = text.rstrip("+")  # a commit whose files were changed
    return text.replace(digits, digits[:12]) if _HASH.fullmatch(digits) else text


# ── figures ──────────────────────────────────────────────────────────────────────────────────────


def figures_text(result: Result) -> str:
    """All figures in a line, with their intervals."""
    return "; ".join(_figure(result, name) for name in result.figures)


def measured_with(result: Result, bundle: Bundle, kinds: Sequence[str]) -> str:
    """What took part, beside the base.

    Args:
        result: of the bundle.
        bundle: whose parts are named.
        kinds: of heads that are in its file; none if it is missing.
    """
    names = []
    if bundle.adapter and bundle.adapter.sha256 in result.parts:
        names.append("adapter")
    is_current = bundle.heads is not None and bundle.heads.sha256 in result.parts
    if is_current or set(result.parts) & set(bundle.earlier_heads):
        if result.record == HEAD:  # of one head, whatever its threshold
            names.append(result.what.partition(" ")[0])
        else:
            names += [kind if is_current else _AT_ANOTHER.get(kind, kind) for kind in kinds or ("heads",)]
    return " + ".join(["base", *names]) if names else "base alone"


def _figure(result: Result, name: str) -> str:
    value, ends, words = result.figures[name], result.intervals.get(name), _WORDS.get(name, name)
    words = words.replace("_", " ")
    if name in _SHARES or name.startswith(_SHARE_BEGINS):
        return f"{words} {percent(value, 1)}{interval_text(ends)}"
    interval = "" if ends is None else f" ({_number(ends[0])}–{_number(ends[1])})"
    return f"{words} {_number(value)}{interval}"


def _number(value: float) -> str:
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


# ── bundle show ──────────────────────────────────────────────────────────────────────────────────


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
        "calculator": bundle.calculator,
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
    if described["calculator"]:
        yield "calculator forces exact results of arithmetic while it thinks"
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
