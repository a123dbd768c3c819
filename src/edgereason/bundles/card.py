"""A bundle's README.md: the manifest for people, and nothing that the manifest does not say.

::

    what it is · how to run it · what is in it · what it was made from · what was measured, and how to
    measure it again · what it is not

Knows manifests, figures' names and which heads a file holds; does not know records or who reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from edgereason.bundles.commands import BUNDLE
from edgereason.bundles.results import HEAD
from edgereason.bundles.same_heads import SWITCHER, VERIFIER
from edgereason.core.bundle import BASE_FILE, Bundle, Result
from edgereason.errors import BundleError
from edgereason.heads.file import read_heads
from edgereason.hub.catalog import find, find_by_sha256
from edgereason.report.markdown import bytes_text, cell, interval_text, percent, table

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
_HASH: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def render_card(bundle: Bundle) -> str:
    """The card; its parts must lie in the bundle's folder.

    Raises:
        BundleError: its provenance or calibration was written by hand, or by another version; or its heads
            can't be read.
    """
    kinds = head_kinds(bundle)
    try:
        return "\n\n".join(_blocks(bundle, kinds)) + "\n"
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(
            f"provenance or calibration in the manifest of {bundle.title} is not of this version: {error!r}"
        ) from error


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


def _blocks(bundle: Bundle, kinds: Sequence[str]) -> list[str]:
    return [
        _front_matter(bundle),
        f"# {cell(bundle.title)}",
        _summary(bundle, kinds),
        "## Run it",
        *_run(bundle),
        "## What is in it",
        *_contents(bundle),
        "## What it was made from",
        *_origins(bundle.provenance),
        "## Measured",
        *_measured(bundle, kinds),
        "## Limits",
        "\n".join(f"- {line}" for line in _limits(bundle, kinds)),
    ]


def _front_matter(bundle: Bundle) -> str:
    model = find_by_sha256(bundle.base.sha256)
    lines = ["library_name: edgereason", "tags: [edgereason, reasoning, lora]"]
    if model is not None:
        lines.append(f"license: {model.licence.lower()}")
        hub = (find(model.made.teacher) if model.made else model).hub
        if hub is not None:
            lines.append(f"base_model: {hub.repo}")
    return "\n".join(["---", *sorted(lines), "---"])


def _summary(bundle: Bundle, kinds: Sequence[str]) -> str:
    lines = [f"A reasoning mode for `{bundle.base.name}`, run by edgereason:", ""]
    if bundle.adapter:
        lines.append(
            "- an adapter (LoRA) that is on from `<think>` to the end of the answer, and off on prompts"
        )
    else:
        lines.append("- no adapter: thinking is elicited by a lead-in")
    if SWITCHER in kinds:
        lines.append("- a switcher, which decides between chat and think by the model's states on the prompt")
    if VERIFIER in kinds:
        lines.append("- a verifier, which scores finished answers by the model's states, for votes")
    return "\n".join(lines)


def _run(bundle: Bundle) -> Iterator[str]:
    model = find_by_sha256(bundle.base.sha256)
    is_inside = (bundle.folder / BASE_FILE).is_file()
    is_known = is_inside or model is not None
    yield "\n".join(
        [
            "```",
            "pip install edgereason",
            f'edgereason ask "If 3 pens cost 4.50, what do 7 cost?" --bundle {BUNDLE}'
            + ("" if is_known else " --base BASE.gguf"),
            f"edgereason bundle verify {BUNDLE}",
            "```",
        ]
    )
    if is_inside:
        where = f"is in the bundle, as `{BASE_FILE}`"
    elif model is not None:
        where = f"is fetched by name (`{model.name}` of `edgereason models`) when it is first needed"
    else:
        where = "is not in the catalogue: give its file with `--base`"
    yield f"{BUNDLE} is this folder. The base {where}; any other file is refused by its hash."


def _contents(bundle: Bundle) -> Iterator[str]:
    rows = [
        [f"`{part.file}`", bytes_text((bundle.folder / part.file).stat().st_size), f"`{part.sha256}`"]
        for part in bundle.parts
    ]
    base, model = bundle.base, find_by_sha256(bundle.base.sha256)
    size = bytes_text(model.size_bytes) if model else ""
    inside = bundle.folder / BASE_FILE
    if inside.is_file():
        size = bytes_text(inside.stat().st_size)
    rows.append([f"base: `{base.name}`", size, f"`{base.sha256}`"])
    yield table(["file", "size", "SHA-256"], rows, right=False)
    licence = f"licence {model.licence}" if model else "its licence is not known to the catalogue"
    title = f"{model.title}, " if model else ""
    yield (
        f"Base: {title}family {base.arch}, {base.num_layers} layers, hidden size {base.hidden_size}; "
        f"{licence}."
    )
    if bundle.buckets:
        budgets = ", ".join(map(str, bundle.buckets))
        yield f"Hints announce these budgets, in tokens: {budgets}."
    if bundle.calibration:
        yield _calibration(bundle.calibration)


def _calibration(values: Mapping[str, Any]) -> str:
    """How the threshold came about; `calibrate.py` wrote the values."""
    share = f"{percent(values['share_think'], 1)} of {values['num_prompts']} prompts"
    said = (
        f"The switcher begins to think at {values['threshold']:.3g}. Set by `edgereason bundle calibrate`, "
    )
    if "min_accuracy" in values:
        said += (
            f"to think as little as an accuracy of {percent(values['min_accuracy'], 1)} allows: {share} "
            f"think, {percent(values['accuracy'], 1)} right on the questions that it was chosen on"
        )
        if "held_out_accuracy" in values:
            ends = interval_text(values["held_out_ci95"])
            said += (
                f", {percent(values['held_out_accuracy'], 1)}{ends} expected on others (each half of them "
                "chose for the other half)"
            )
    else:
        said += f"to think on {percent(values['target_think_rate'], 1)}: {share} do"
    data = values.get("prompts") or values.get("data") or {}
    return f"{said} ({_plain(data)})."


def _origins(provenance: Mapping[str, Any]) -> Iterator[str]:
    rows = []
    for part, entries in provenance.items():
        for entry in entries if isinstance(entries, list) else [entries]:
            rows.append([part.replace("_", " "), cell(_plain(_short(entry)))])
    if not rows:
        yield "No record was given."
        return
    yield table(["part", "from its record"], rows, right=False)
    yield "In full, with settings, in `bundle.json`."


def _short(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What a line has room for: names and hashes of data, counts, commit; settings stay in the manifest."""
    return {
        name: value
        for name, value in entry.items()
        if not isinstance(value, dict) or name in ("teacher", "model", "traces", "counts", "splits")
    }


def _measured(bundle: Bundle, kinds: Sequence[str]) -> Iterator[str]:
    if not bundle.results:
        yield "Nothing yet."
        return
    rows = [
        [
            cell(result.what),
            measured_with(result, bundle, kinds),
            cell(figures_text(result)),
            cell(result.machine or ""),
            f"`{result.sha256[:12]}`",
        ]
        for result in bundle.results
    ]
    yield table(["what", "with", "figures", "machine", "record"], rows, right=False)
    yield "In brackets 95 % intervals. Records are named by SHA-256. To measure again:"
    yield "\n".join(["```", *_commands(bundle.results), "```"])


def _commands(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(result.command for result in results))


def _limits(bundle: Bundle, kinds: Sequence[str]) -> Iterator[str]:
    yield "It fits one base, byte for byte; with any other it is refused."
    yield "A small model: its answers may be wrong, and its thinking is no proof of them; see the figures."
    yield "Figures hold for the data that they were measured on, seconds and rates for that machine."
    if bundle.buckets:
        yield f"Trained for thinking of up to {max(bundle.buckets)} tokens."
    elif bundle.adapter:
        yield "Trained without budgets: a limit cuts its thinking where it stands."
    if SWITCHER not in kinds:
        yield "No switcher: `auto` always thinks."
    if VERIFIER not in kinds:
        yield "No verifier: votes count all answers alike."


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
