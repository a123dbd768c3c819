"""A figure of a bundle: what a record of a measurement says, and how to measure it again.

Knows the manifest's entry; does not know records, or what a figure means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgereason.core.section import Section, number, pair


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a record says of this bundle, or of its base alone.

    Attributes:
        what: was measured, in a few words, such as "gsm8k, think".
        record: format of the record, such as "edgereason-eval".
        sha256: of the record.
        command: measures it again.
        parts: hashes of the parts that took part, beside the base.
        figures: by name.
        intervals: of 95 %, of those figures that have one.
        machine: that it was measured on, for figures that depend on it.
        commit: of the code that measured it.
    """

    what: str
    record: str
    sha256: str
    command: str
    figures: Mapping[str, float]
    parts: tuple[str, ...] = ()
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    machine: str | None = None
    commit: str | None = None


def read_result(section: Section) -> Result:
    """The result that an entry of the manifest describes.

    Raises:
        BundleError: a field is missing, wrong or unknown.
    """
    result = Result(
        what=section.take("what", str),
        record=section.take("record", str),
        sha256=section.take("sha256", str),
        command=section.take("command", str),
        figures=section.mapping("figures", number, "a number"),
        parts=section.texts("parts"),
        intervals=section.mapping("intervals", pair, "two numbers"),
        machine=section.text("machine"),
        commit=section.text("commit"),
    )
    section.end()
    return result
