"""Records as reports see them: recognised by what they hold, read, and given names that tell them apart.

::

    a folder with summary.json and samples.jsonl   "edgereason-eval"      → runs, likelihoods
    a JSON file                                    "edgereason-sweep"     → sweeps
                                                   "edgereason-bench-…"   → benches
                                                   "edgereason-ppl"       → perplexities

A file's name decides nothing. What is read is named after its folder or file and its commit, never by a path.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from edgereason.config import load_json, read_bounded, read_toml
from edgereason.core.fields import Fields
from edgereason.core.printable import on_one_line
from edgereason.errors import ConfigError
from edgereason.evals.record import BEFORE_NAMED, FORMAT, MAY_DIFFER, RUN, SUMMARY
from edgereason.evals.samples import Sample, read_samples
from edgereason.report.markdown import cell

EVAL: Final = FORMAT
SWEEP: Final = "edgereason-sweep"
PERPLEXITY: Final = "edgereason-ppl"
BENCHES: Final = tuple(f"edgereason-bench-{name}" for name in ("engine", "parallel", "peers", "switch"))


@dataclass(frozen=True, slots=True)
class RecordSource:
    """Which record a figure was drawn from: its folder's or file's name, and its commit."""

    name: str
    commit: str | None = None

    @property
    def short_commit(self) -> str | None:
        """Seven digits, with the `+` that says that files differed from the commit."""
        return self.commit and self.commit[:7] + ("+" if self.commit.endswith("+") else "")

    def __str__(self) -> str:
        return self.name if self.commit is None else f"{self.name} @ {self.short_commit}"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What an evaluation ran on; None for what its record does not say."""

    name: str | None
    sha256: str | None
    size_bytes: float | None


@dataclass(frozen=True, slots=True)
class Record:
    """A JSON record, or an evaluation's summary: where it is from, and its values."""

    source: RecordSource
    values: Fields

    @property
    def machine(self) -> str | None:
        """What it was measured on."""
        return machine_of(self.values)

    @property
    def model(self) -> ModelFile:
        """The model file that it is about."""
        return _model(self.values)

    @property
    def notes(self) -> list[str]:
        """What the record says that a reader must know, as one paragraph of Markdown, or none."""
        notes = self.values.texts("notes")
        return [f"Notes of {cell(str(self.source))}: {cell('; '.join(notes))}."] if notes else []

    @property
    def subject(self) -> str:
        """The model that was measured, as Markdown."""
        model = self.values.section("model")
        name = self.values.section("source").text("name") or model.text("name")
        parts = (name, model.text("quantization"))
        return cell(", ".join(part for part in parts if part) or "a model")


@dataclass(frozen=True, slots=True)
class Setting:
    """What an evaluation was given.

    Attributes:
        budget_tokens: its hard budget; None if it had none, or one in seconds or by name.
        others: everything else that its rows depend on: settings, data, model and bundle. Evaluations that
            have these in common are alike in all but their budget.
        data_sha256: of its data set, where that was a file.
    """

    budget_tokens: int | None
    others: str
    data_sha256: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """An evaluation; figures are its summary's, None where the summary lacks them.

    Attributes:
        label: what reports call it, different for every run.
        ci95: interval of the accuracy.
        mean_tokens: of the winning streams; `mean_all_streams_tokens` adds up all streams.
        share_cut: of the samples that their budget or cap ended.
        latency_s: median over rows.
        bundle_bytes: 0 without a bundle.
    """

    source: RecordSource
    label: str
    task: str
    setting: Setting
    samples: tuple[Sample, ...]
    accuracy: float | None
    ci95: tuple[float, float] | None
    mean_tokens: float | None
    mean_all_streams_tokens: float | None
    share_cut: float | None
    latency_s: float | None
    tokens_per_s: float | None
    model: ModelFile
    bundle_bytes: float | None
    machine: str | None

    @property
    def num_bytes(self) -> float | None:
        """What lies on the device: model and bundle."""
        if self.model.size_bytes is None or self.bundle_bytes is None:
            return None
        return self.model.size_bytes + self.bundle_bytes

    @property
    def questions(self) -> frozenset[str]:
        """Ids of what was asked."""
        return frozenset(sample.id for sample in self.samples)


@dataclass(slots=True)
class Records:
    """What a report is drawn from; each kind in the order given."""

    runs: list[Run] = field(default_factory=list)
    likelihoods: list[Record] = field(default_factory=list)
    sweeps: list[Record] = field(default_factory=list)
    perplexities: list[Record] = field(default_factory=list)
    benches: dict[str, list[Record]] = field(default_factory=lambda: {kind: [] for kind in BENCHES})

    def tasks(self) -> dict[str, list[Run]]:
        """Runs by task, in the order given."""
        found: dict[str, list[Run]] = {}
        for run in self.runs:
            found.setdefault(run.task, []).append(run)
        return found


def read_records(paths: Sequence[Path]) -> Records:
    """Reads every record.

    Raises:
        ConfigError: one can't be read, is of no known kind, or is given twice.
    """
    records, seen = Records(), set[Path]()
    names, labels = set[str](), set[str]()
    for path in paths:
        resolved = path.resolve()
        if resolved in seen:
            raise ConfigError(f"{path} is given twice: name each record once")
        seen.add(resolved)
        name = distinct(resolved.name, names)
        if path.is_dir():
            values = _read_summary(path, name)
            if "acc" in values:
                records.likelihoods.append(Record(RecordSource(name, commit_of(values)), values))
            else:
                label = distinct(values.text("label") or name, labels)
                records.runs.append(_read_run(path, RecordSource(name, commit_of(values)), label, values))
            continue
        values = Fields(_read_json(path), name)
        record = Record(RecordSource(name, commit_of(values)), values)
        kind = _kind(values, path)
        if kind == SWEEP:
            records.sweeps.append(record)
        elif kind == PERPLEXITY:
            records.perplexities.append(record)
        else:
            records.benches[kind].append(record)
    return records


def _kind(values: Fields, path: Path) -> str:
    kind = values.text("format")
    if kind == EVAL:
        raise ConfigError(f"{path} is the summary of an evaluation: give the folder that it lies in")
    if kind not in (SWEEP, PERPLEXITY, *BENCHES):
        known = ", ".join((EVAL, SWEEP, PERPLEXITY, *BENCHES))
        raise ConfigError(f"{path} is not a record: its format is {kind!r}, known are {known}")
    return kind


def _read_summary(folder: Path, name: str) -> Fields:
    path = folder / SUMMARY
    if not path.is_file():
        raise ConfigError(
            f"{folder} does not hold {SUMMARY}: give the folder of a finished evaluation, or a JSON record"
        )
    values = Fields(_read_json(path), f"{name}/{SUMMARY}")
    if (kind := values.text("format")) != EVAL:
        raise ConfigError(f"{path} is not an evaluation's: its format is {kind!r}, expected {EVAL!r}")
    return values


def _read_run(folder: Path, source: RecordSource, label: str, values: Fields) -> Run:
    samples = tuple(read_samples(folder))
    if not samples:
        raise ConfigError(f"{folder} has no rows: give the folder of a finished evaluation")
    if (n := values.number("n")) is not None and n != len(samples):
        raise ConfigError(
            f"the {SUMMARY} of {folder} counts {n:.0f} rows and there are {len(samples)}: "
            "run the evaluation again, so that it sums up what is there"
        )
    return Run(
        source=source,
        label=on_one_line(label),
        task=values.need("task", values.text),
        setting=_setting(folder, values),
        samples=samples,
        accuracy=values.number("accuracy"),
        ci95=values.pair("ci95"),
        mean_tokens=values.number("mean_tokens"),
        mean_all_streams_tokens=values.number("mean_all_streams_tokens"),
        share_cut=values.number("share_cut"),
        latency_s=values.number("latency_s"),
        tokens_per_s=values.number("tokens_per_s"),
        model=_model(values),
        bundle_bytes=values.section("bundle").number("size_bytes") if "bundle" in values else 0,
        machine=machine_of(values),
    )


def _setting(folder: Path, values: Fields) -> Setting:
    """From the resolved configuration, and from the summary where there is none."""
    path = folder / RUN
    others = {**BEFORE_NAMED, **(read_toml(path).get("eval", {}) if path.is_file() else {})}
    budget = others.pop("budget", None)
    for key in MAY_DIFFER:
        others.pop(key, None)
    data_sha256 = values.section("data").text("sha256")
    hashes = [data_sha256, _model(values).sha256, values.section("bundle").texts("sha256")]
    return Setting(
        budget if isinstance(budget, int) else None,
        json.dumps([others, hashes], sort_keys=True, default=str),
        data_sha256,
    )


def likelihood_setting(config: Fields) -> Iterator[str]:
    """What sets likelihoods of a task apart from those that earlier versions recorded, as words."""
    if config.text("orders") == "cyclic":
        yield "cyclic orders"
    if shots := config.number("shots"):
        yield f"{shots:.0f} examples"


def kv_setting(settings: Fields) -> Iterator[str]:
    """The type of the KV cache in words, where it is not the default."""
    if (kv := settings.text("kv")) not in (None, BEFORE_NAMED["kv"]):
        yield f"{kv} KV"


def _read_json(path: Path) -> Any:
    try:
        return load_json(read_bounded(path).decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from error
    except ValueError as error:  # text that is not JSON, or bytes that are not text
        raise ConfigError(f"{path} is not JSON: {error}") from error


def commit_of(values: Fields) -> str | None:
    """The commit of the code that wrote a record."""
    return values.text("commit") or values.section("versions").text("commit")


def _model(values: Fields) -> ModelFile:
    model = values.section("model")
    return ModelFile(model.text("name"), model.text("sha256"), model.number("size_bytes"))


def machine_of(values: Fields) -> str | None:
    """What a record was measured on: the CPU, and how many threads."""
    machine = values.section("machine")
    threads = machine.number("threads")
    parts = (machine.text("cpu"), None if threads is None else f"{threads:.0f} threads")
    return ", ".join(part for part in parts if part) or None


def distinct(name: str, taken: set[str], suffix: str = " ({})") -> str:
    """`name`, with a number behind it if it is taken already; it then is."""
    free, number = name, 1
    while free in taken:
        number += 1
        free = name + suffix.format(number)
    taken.add(free)
    return free
