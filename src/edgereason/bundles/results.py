"""Records that a bundle draws on, and the figures in them: only what a record holds, with the record's hash.

::

    RUN_FOLDER ─→ summary.json of an evaluation, or record.json of a training       FILE ─→ the record itself

    edgereason-eval          accuracy, tokens, seconds       edgereason-bench-engine   speed, lora_tax
    edgereason-ppl           perplexity                      edgereason-bench-switch   first token
    edgereason-sweep         votes over streams, budgets     edgereason-bench-train    masked_speedup
    edgereason-head          AUROC, ECE on held-out data

A record counts if it is of the bundle's base, and with none but the bundle's parts; anything else is refused.
A figure's command is the one that its record holds. Records of earlier versions hold none: theirs is put
together from their settings.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from edgereason.bench.record import AS_IS
from edgereason.config import load_json, read_bounded
from edgereason.core.bundle import Base, Result
from edgereason.core.fields import Fields
from edgereason.errors import BundleError
from edgereason.evals.curves.votes import NUM_DRAWS
from edgereason.evals.evaluate import EvalConfig
from edgereason.evals.likelihood.tasks import LOGLIK_TASKS
from edgereason.evals.record import BEFORE_NAMED, SUMMARY
from edgereason.hub.catalog import find_by_sha256
from edgereason.report.records import (
    EVAL,
    PERPLEXITY,
    SWEEP,
    commit_of,
    kv_setting,
    likelihood_setting,
    machine_of,
)

HEAD: Final = "edgereason-head"
_BENCH: Final = "edgereason-bench-"

_NAMES: Final = (SUMMARY, "record.json")
_ASKED: Final = (
    "accuracy", "num_questions", "mean_tokens", "mean_all_streams_tokens", "share_think", "share_cut",
    "share_in_time", "max_overshoot_s", "latency_s",
)  # fmt: skip
_WEIGHED: Final = ("acc", "acc_norm", "ppl", "n")
_PERPLEXITY: Final = ("ppl", "num_tokens")
_HEAD: Final = ("auroc", "auroc_within_questions", "ece", "n")
_NO_FIGURES: Final = frozenset(
    {"rounds", "total_s", "model_bytes", "read_per_token_bytes", "steal_share", "others_share", "switch_s",
     "opening_tokens"}
)  # fmt: skip
_NOT_HELD_OUT: Final = ("train", "validation")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFile:
    """A record.

    Attributes:
        format: what it says that it is.
        values: all of it.
        sha256: of the file.
        folder: that it lies in.
    """

    name: str
    format: str
    values: dict[str, Any]
    sha256: str
    folder: Path

    @property
    def fields(self) -> Fields:
        """Its values, with their types checked as they are taken."""
        return Fields(self.values, self.name, BundleError)

    @property
    def commit(self) -> str | None:
        """Of the code that wrote it."""
        return commit_of(self.fields)

    @property
    def command(self) -> str | None:
        """What measures it again, where it says so itself."""
        words = self.fields.texts("command")
        return shlex.join(("edgereason", *words) if words[0] != "edgereason" else words) if words else None

    @property
    def machine(self) -> str | None:
        """What it was measured on."""
        return machine_of(self.fields)


def read_record(path: Path) -> RecordFile:
    """Reads the record at `path`.

    Raises:
        BundleError: it can't be read, or is not a JSON object that names its format.
    """
    file = path
    if path.is_dir():
        found = [path / name for name in _NAMES if (path / name).is_file()]
        if not found:
            raise BundleError(
                f"{path} holds neither {' nor '.join(_NAMES)}: give the folder of a finished run"
            )
        file = found[0]
    try:
        content = read_bounded(file)
        values = load_json(content)
    except OSError as error:
        raise BundleError(f"the record {file} can't be read: {error.strerror}") from error
    except ValueError as error:  # no JSON, or no text
        raise BundleError(f"the record {file} is not JSON: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("format"), str):
        raise BundleError(f"{file} is not a record: it does not name its format")
    return RecordFile(
        name=file.name if file.parent == Path() else f"{file.resolve().parent.name}/{file.name}",
        format=values["format"],
        values=values,
        sha256=hashlib.sha256(content).hexdigest(),
        folder=file.parent,
    )


# ── figures ────────────────────────────────────────────────────────────────────────────────────────


def results_of(
    record: RecordFile, base: Base, parts: Iterable[str], buckets: Sequence[int] = ()
) -> list[Result]:
    """What a record says of a base, or of a bundle on it.

    Args:
        record: of a kind in `RESULT_FORMATS`.
        base: the bundle's.
        parts: hashes of what a bundle's part may have been.
        buckets: budgets that the bundle's hints announce.

    Raises:
        BundleError: it is of another base, of other parts or of other buckets, or holds no figures.
    """
    known = find_by_sha256(base.sha256)
    try:
        found = RESULT_FORMATS[record.format](record, known.name if known else base.name)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"the record {record.name} is not of this version: {error}") from error
    if not any(result.figures for result in found):
        raise BundleError(f"the record {record.name} holds no figures for a bundle")
    _require_subject(record, base, set(parts), buckets)
    return found


def _require_subject(record: RecordFile, base: Base, parts: set[str], buckets: Sequence[int]) -> None:
    runs = record.fields.section("runs")
    subjects = [runs.section(name) for name in runs] if record.format == SWEEP else [record.fields]
    for subject in subjects:
        measured = {subject.section(key).text("sha256") for key in ("model", "source")}
        if base.sha256 not in measured:
            got = ", ".join(sorted(one for one in measured if one)) or "a model without a hash"
            raise BundleError(
                f"the record {record.name} is of another base: it measured {got}, the bundle's is "
                f"{base.sha256} ({base.name})"
            )
        bundle = subject.section("bundle")
        if strange := [one for one in bundle.texts("sha256") if one not in parts]:
            raise BundleError(
                f"the record {record.name} is of another bundle: it measured a part {strange[0]}, which is "
                "none of this one's"
            )
        # Records of earlier versions do not say.
        if "buckets" in bundle and set(announced := bundle.numbers("buckets")) != set(buckets):
            raise BundleError(
                f"the record {record.name} is of other buckets: it measured {_listed(announced)}, the bundle "
                f"has {_listed(buckets)}"
            )


def _listed(numbers: Iterable[float | None]) -> str:
    return ", ".join(f"{number:g}" for number in numbers if number is not None) or "none"


def _asked(record: RecordFile, model: str) -> list[Result]:
    values = record.fields
    config = values.section("config")
    if "acc" in values:
        figures, task = _figures(values, _WEIGHED), values.text("task")
        intervals = _intervals(values, {"acc": "acc_ci95", "acc_norm": "acc_norm_ci95"})
        what = ", ".join((f"{task} by likelihood", *likelihood_setting(config), *kv_setting(config)))
        return [_result(record, what, figures, intervals, _command(record, model))]
    figures = _figures(values, _ASKED)
    if figures.get("mean_all_streams_tokens") == figures.get("mean_tokens"):
        figures.pop("mean_all_streams_tokens", None)
    if config.text("mode") != "auto":
        figures.pop("share_think", None)
    task, label = values.need("task", values.text), values.text("label")
    what = ", ".join(_described(task, config)) if label is None else f"{task}: {label}"
    what += ", calculator" * config.flag("calculator")
    intervals = _intervals(values, {"accuracy": "ci95"})
    return [_result(record, what, figures, intervals, _command(record, model), is_timed=True)]


def _described(task: str, config: Fields) -> Iterator[str]:
    """What tells an evaluation from another of the same bundle."""
    yield task
    if (mode := config.text("mode")) is not None:
        yield mode
    for name, text in (("budget", "{:.0f} tokens"), ("budget_s", "{:g} s"), ("streams", "{:.0f} streams")):
        value = config.number(name)
        if value is not None and (name, value) != ("streams", 1):
            yield text.format(value)
    if (vote := config.text("vote")) is not None:
        yield vote
    yield from kv_setting(config)


def _perplexity(record: RecordFile, model: str) -> list[Result]:
    values = record.fields
    what = ", ".join((f"perplexity of {values.section('data').text('name')}", *kv_setting(values)))
    intervals = _intervals(values, {"ppl": "ppl_ci95"})
    return [_result(record, what, _figures(values, _PERPLEXITY), intervals, _command(record, model))]


def _curves(record: RecordFile, model: str) -> list[Result]:
    """A result for every run's votes, and for every run's hard budgets."""
    runs = record.fields.section("runs")
    found = []
    for name, curve in (("votes", _votes), ("budgets", _budgets)):
        for run in (curves := record.fields.section(name)):
            result = curve(record, run, curves.section(run))
            found.append(replace(result, parts=runs.section(run).section("bundle").texts("sha256")))
    return found


def _votes(record: RecordFile, run: str, curve: Fields) -> Result:
    """Accuracy of every vote, and tokens, at every number of streams; what the most of them gain over one."""
    figures: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    points = sorted(curve.rows("points"), key=lambda point: point.need("n", point.number))
    for point in points:
        streams, of_votes = f"N={point.need('n', point.number):.0f}", point.section("votes")
        for vote in of_votes:
            figures |= _renamed(of_votes.section(vote), {"accuracy": f"{vote} {streams}"})
        figures |= _renamed(point, {"mean_all_streams_tokens": f"tokens {streams}"})
        if point is points[-1] and len(points) > 1:
            for vote in of_votes:
                gain, values = f"{vote} {streams} over one", of_votes.section(vote)
                figures |= _renamed(values, {"difference": gain})
                intervals |= _intervals(values, {gain: "difference_ci95"})
    return _result(record, f"votes of {run}", figures, intervals, _command(record, run=run))


def _budgets(record: RecordFile, run: str, curve: Fields) -> Result:
    """Accuracy and tokens at every hard budget, and of traces as they were."""
    figures: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    limits, accuracy = curve.numbers("budgets"), curve.numbers("accuracy")
    tokens, pairs = curve.numbers("mean_tokens"), curve.pairs("ci95")
    for limit, right, mean_tokens, ends in zip(limits, accuracy, tokens, pairs, strict=True):
        within = f"within {limit:.0f}"
        found = {within: right, f"tokens {within}": mean_tokens}
        figures |= {name: value for name, value in found.items() if value is not None}
        intervals |= {} if ends is None else {within: ends}
    names = {"accuracy": "uncut", "mean_tokens": "tokens uncut"}
    figures |= _renamed(curve.section("untruncated"), names)
    command = _command(record, run=run, is_cut=True)
    return _result(record, f"hard budgets of {run}", figures, intervals, command)


def _bench(record: RecordFile, model: str) -> list[Result]:
    values, kind = record.fields, record.format.removeprefix(_BENCH)
    figures = {
        name: value
        for name in values
        if values.is_number(name) and name not in _NO_FIGURES and (value := values.number(name)) is not None
    }
    for row in values.rows("lengths"):
        tokens = row.need("prompt_tokens", row.number)
        for name in ("shared_over_chat", "reencoded_over_shared"):
            if (value := row.number(name)) is not None:
                figures[f"{name} at {tokens:.0f} tokens"] = value
    made = values.section("model").text("quantization")
    what = f"bench {kind}" + ("" if made in (None, AS_IS) else f", a plain {made} of the base")
    return [_result(record, what, figures, {}, _command(record, model), is_timed=True)]


def _head(record: RecordFile, model: str) -> list[Result]:
    """A result for every set of prompts or questions that the head did not learn from."""
    values = record.fields
    head, sets = values.need("head", values.text), values.section("reliability")
    return [
        _result(
            record,
            f"{head} on {name.replace('_', ' ')}",
            _figures(sets.section(name), _HEAD),
            {},
            _command(record, model),
        )
        for name in sets
        if name not in _NOT_HELD_OUT
    ]


def _result(
    record: RecordFile,
    what: str,
    figures: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],
    command: str,
    *,
    is_timed: bool = False,
) -> Result:
    return Result(
        what=what,
        record=record.format,
        sha256=record.sha256,
        command=command,
        figures=figures,
        parts=record.fields.section("bundle").texts("sha256"),
        intervals=intervals,
        machine=record.machine if is_timed else None,
        commit=record.commit,
    )


def _figures(values: Fields, names: Iterable[str]) -> dict[str, float]:
    return {name: value for name in names if (value := values.number(name)) is not None}


def _renamed(values: Fields, names: Mapping[str, str]) -> dict[str, float]:
    found = {figure: values.number(name) for name, figure in names.items()}
    return {figure: value for figure, value in found.items() if value is not None}


def _intervals(values: Fields, names: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    found = {figure: values.pair(name) for figure, name in names.items()}
    return {figure: ends for figure, ends in found.items() if ends is not None}


# ── commands ─────────────────────────────────────────────────────────────────────────────────────

_BUNDLE: Final = "BUNDLE"
"""Stands for a bundle's folder in commands that are put together here."""

_BENCH_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "engine": ("model", "rounds", "only"),
    "switch": ("model", "rounds", "lengths", "as_is"),
    "train": (
        *("model", "rounds", "prompt_tokens", "responses", "response_tokens", "dtype"),
        *("from", "samples", "cap_tokens", "only"),
    ),
}
"""Settings of a bench that are options of its command."""

_NO_OPTIONS: Final = frozenset({"task", "score", "model", "bundle", "threads", "label"})
"""Settings of an evaluation that its command says otherwise, or that change none of its figures."""


def _command(record: RecordFile, model: str = "", run: str = "", *, is_cut: bool = False) -> str:
    """What measures again what a record holds: its own command, or where it lacks one that of its settings.

    Args:
        model: what the base is called.
        run: of a sweep.
        is_cut: whether it is of the sweep's hard budgets, or of its votes.

    Raises:
        BundleError: neither the record's command nor its settings are known.
    """
    if record.command is not None:
        return record.command
    values, config = record.values, record.values.get("config", {})
    subject = values["runs"][run] if run else values
    data = subject.get("data") or {}
    local = data["name"] if data.get("sha256") and not data.get("revision") else None
    options: dict[str, Any]
    if record.format == EVAL:
        words = ["eval", values["task"]]
        defaults = {field.name: field.default for field in fields(EvalConfig)} | {
            "orders": "cyclic",
            "shots": 0,
        }
        known = LOGLIK_TASKS.get(values["task"])
        if "acc" in values and known and known.has_letters:
            config = {"orders": BEFORE_NAMED["orders"]} | config
        options = {
            "score": "loglik" if "acc" in values else None,
            **({"bundle": _BUNDLE} if values.get("bundle") else {"model": model}),
            "data": local,
            **{k: v for k, v in config.items() if k not in _NO_OPTIONS and v != defaults.get(k)},
        }
    elif record.format == PERPLEXITY:
        words = ["eval", "ppl", data["name"]]
        settings = {"window": "window_tokens", "stride": "stride_tokens", "limit_tokens": "limit_tokens"}
        options = {"model": model, **{option: values.get(name) for option, name in settings.items()}}
        options["kv"] = kv if (kv := values.get("kv")) != BEFORE_NAMED["kv"] else None
    elif record.format == SWEEP:
        words = ["eval", "sweep", run]
        draws = values["votes"].get(run, {}).get("num_draws", NUM_DRAWS)
        if is_cut:
            of = _BUNDLE if subject.get("bundle") else subject["model"]["name"]
            options = {"budgets": values["budgets"][run]["budgets"], "data": local, "model": of}
        else:
            options = {"draws": draws if draws != NUM_DRAWS else None}
        options["seed"] = values.get("seed") or None
    elif (kind := record.format.removeprefix(_BENCH)) in _BENCH_OPTIONS:
        words = ["bench", kind]
        settings = config | {"model": model}
        options = {name: settings.get(name) for name in _BENCH_OPTIONS[kind]} | {"json": True}
    else:
        raise BundleError(f"the record {record.name} does not say which command made it: make it again")
    return shlex.join(["edgereason", *words, *_as_options(options)])


def _as_options(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        option = f"--{name.replace('_', '-')}"
        if name in {"stop_early", "calculator"} and value is False:
            yield f"--no-{name.replace('_', '-')}"
        elif value is True:
            yield option
        elif name == "only" and value is not None:
            yield from (word for one in value for word in (option, one))
        elif value is not None and value is not False:
            text = ",".join(map(str, value)) if isinstance(value, list) else value
            yield from (option, f"{text:g}" if isinstance(text, float) else str(text))


RESULT_FORMATS: Final[Mapping[str, Callable[[RecordFile, str], list[Result]]]] = {
    EVAL: _asked,
    PERPLEXITY: _perplexity,
    SWEEP: _curves,
    HEAD: _head,
    **{f"{_BENCH}{name}": _bench for name in _BENCH_OPTIONS},
}
