"""The switcher's threshold: found from prompts or from evaluations, and put into a bundle.

::

    prompts ─ prefilled ─→ p_think ─ sorted ─→ the cut that lets the share wanted think ──────────┐
    labelled prompts ─ prefilled ─→ p_think ─→ the cut that costs the least ──────────────────────┤
    chat RUN, think RUN ─ of this base and adapter, on these data ─→ the curve over thresholds ───┤
    data ─ the questions, prefilled ─→ p_think ──────↗  the fewest tokens, accurate enough ───────┤
                                                                                                  ↓
    heads-1f2e….safetensors ─→ bundle.json names them ─→ the old heads go, README.md follows ←─ threshold

How a threshold is chosen among probabilities stands in `threshold.py`. Rows of forced modes have no p_think,
so the bundle's own switcher is asked. The two evaluations must be what one `auto` request would do on either
route. Heads are written under a new name, and named by the manifest afterwards: a reader finds both or
neither.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from edgereason.bundles.card import CARD, render_card
from edgereason.bundles.results import RecordFile, read_record, results_of
from edgereason.bundles.threshold import (
    ThresholdPoint,
    require_accuracy,
    require_needless_cost,
    require_think_rate,
    threshold_for_accuracy,
    threshold_for_cost,
    threshold_for_share,
)
from edgereason.core.bundle import Bundle, Part, file_sha256, write_atomically
from edgereason.core.types import DEFAULT_CHAT_TOKENS, Mode, Request
from edgereason.data.questions import label_of, prompt_of
from edgereason.data.rows import Rows, read_file
from edgereason.errors import BundleError, ConfigError, ContextOverflow
from edgereason.evals.evaluate import EvalConfig
from edgereason.evals.record import RUN, read_config
from edgereason.evals.samples import Sample, read_samples
from edgereason.evals.tasks.catalog import Task, load_task
from edgereason.heads.file import read_heads, write_with_threshold
from edgereason.reasoning.model import Model
from edgereason.reasoning.plan import Room
from edgereason.records.folder import data_entry
from edgereason.records.machine import versions
from edgereason.report.records import EVAL

_ALIKE: Final = ("task", "seed", "system", "temperature", "top_p", "top_k", "budget", "budget_s", "kv")
"""Settings of a request that both routes depend on; effort, streams and vote are of thinking alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A threshold, and from what; plain values.

    Attributes:
        num_left_out: prompts that do not fit in the context.
    """

    point: ThresholdPoint
    method: Mapping[str, Any]
    num_left_out: int = 0


# ── where from ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class ByShare:
    """So many of these prompts are to think."""

    share: float
    rows: Rows
    requests: tuple[Request, ...]

    def __post_init__(self) -> None:
        require_think_rate(self.share)

    @classmethod
    def read(cls, share: float, prompts: Path) -> Self:
        """From a file of rows that ask something, each in a form of `prompt_of`.

        Raises:
            ConfigError: the share is out of range, or a row has no prompt; the message names file and line.
        """
        rows = read_file(prompts)
        return cls(
            share=share, rows=rows, requests=tuple(Request(messages=prompt_of(row)) for row in rows.rows)
        )

    def find(
        self, model: Model, progress: Callable[[int, int], None], should_stop: Callable[[], bool]
    ) -> Found | None:
        """The threshold; None if it was stopped."""
        said = probabilities(model, self.requests, progress, should_stop)
        if said is None:
            return None
        fitting = [p for p in said if p is not None]
        return Found(
            point=threshold_for_share(fitting, self.share),
            method={"target_think_rate": self.share, "prompts": _entry(self.rows)},
            num_left_out=len(said) - len(fitting),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ByCost:
    """As few of these prompts as may be go the wrong way, each by what that costs."""

    needless_cost: float
    rows: Rows
    requests: tuple[Request, ...]
    labels: tuple[bool, ...]

    @classmethod
    def read(cls, needless_cost: float, prompts: Path) -> Self:
        """From a file of rows with a label each, as `train heads switcher` reads them.

        Raises:
            ConfigError: the cost is out of range, a row has no prompt or no label, or all labels are alike.
        """
        require_needless_cost(needless_cost)
        rows = read_file(prompts)
        labels = tuple(label_of(row) for row in rows.rows)
        if len(set(labels)) < 2:
            raise ConfigError(
                f"{rows.name} has prompts of one label only; a threshold by cost needs both: add prompts of "
                "the other, or calibrate by share (--target-think-rate)"
            )
        requests = tuple(Request(messages=prompt_of(row)) for row in rows.rows)
        return cls(needless_cost=needless_cost, rows=rows, requests=requests, labels=labels)

    def find(
        self, model: Model, progress: Callable[[int, int], None], should_stop: Callable[[], bool]
    ) -> Found | None:
        """The threshold; None if it was stopped."""
        said = probabilities(model, self.requests, progress, should_stop)
        if said is None:
            return None
        fitting = [(p, label) for p, label in zip(said, self.labels, strict=True) if p is not None]
        return Found(
            point=threshold_for_cost(fitting, self.needless_cost),
            method={"needless_cost": self.needless_cost, "prompts": _entry(self.rows)},
            num_left_out=len(said) - len(fitting),
        )


def _entry(rows: Rows) -> dict[str, Any]:
    return data_entry(rows.name, rows.sha256, rows.revision)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByAccuracy:
    """Accuracy must be so high on questions that were evaluated on both routes."""

    min_accuracy: float
    chat: tuple[Sample, ...]
    think: tuple[Sample, ...]
    records: Mapping[str, str]
    config: EvalConfig
    task: Task

    def __post_init__(self) -> None:
        require_accuracy(self.min_accuracy)

    @classmethod
    def read(cls, min_accuracy: float, bundle: Bundle, chat: Path, think: Path, data: Path | None) -> Self:
        """From the folders of two evaluations, which must be of this bundle.

        Args:
            bundle: whose switcher is to decide.
            chat: every question on the chat route; the base alone will do.
            think: the same questions on the think route.
            data: the local file that they were evaluated on, if it was one.

        Raises:
            BundleError: an evaluation is of another base or adapter.
            ConfigError: the accuracy is out of range, or the evaluations or data don't go together.
        """
        records = {Mode.CHAT: read_record(chat), Mode.THINK: read_record(think)}
        configs = {
            mode: _checked_run(folder, record, mode, bundle)
            for (mode, record), folder in zip(records.items(), (chat, think), strict=True)
        }
        config = configs[Mode.CHAT]
        _require_one_request(config, configs[Mode.THINK])
        task = load_task(config.task, data=data, limit=config.limit, seed=config.seed)
        for record in records.values():
            found = record.fields.section("data")
            if (task.data_sha256, task.data_revision) != (found.text("sha256"), found.text("revision")):
                raise ConfigError(
                    f"{record.name} was evaluated on {found.text('name')}, and {task.data_name} is not that: "
                    "give the same file (--data)"
                )
        return cls(
            min_accuracy=min_accuracy,
            chat=tuple(read_samples(chat)),
            think=tuple(read_samples(think)),
            records={str(mode): record.sha256 for mode, record in records.items()},
            config=config,
            task=task,
        )

    def find(
        self, model: Model, progress: Callable[[int, int], None], should_stop: Callable[[], bool]
    ) -> Found | None:
        """The threshold; None if it was stopped."""
        asked = {sample.id for sample in self.chat}
        items = [item for item in self.task.items if item.id in asked]
        requests = [self.config.request(item.question, 0) for item in items]
        said = probabilities(model, requests, progress, should_stop)
        if said is None:
            return None
        p_think = {item.id: p for item, p in zip(items, said, strict=True) if p is not None}
        method = {
            "min_accuracy": self.min_accuracy,
            "data": data_entry(self.task.data_name, self.task.data_sha256, self.task.data_revision),
            "record_sha256": self.records,
        }
        point = threshold_for_accuracy(self.chat, self.think, p_think, self.min_accuracy)
        return Found(point=point, method=method)


def _require_one_request(chat: EvalConfig, think: EvalConfig) -> None:
    """Refuses evaluations that are not the two routes of one request.

    Raises:
        ConfigError: they are not.
    """
    differing = [name for name in _ALIKE if getattr(chat, name) != getattr(think, name)]
    if differing:
        name = differing[0]
        raise ConfigError(
            f"the evaluations differ in {name}: {getattr(chat, name)!r} in chat, {getattr(think, name)!r} in "
            "think; auto asks both routes alike"
        )
    most = [config.max_tokens or DEFAULT_CHAT_TOKENS for config in (chat, think)]
    if most[0] != most[1]:
        raise ConfigError(
            f"the evaluations differ in max_tokens: {most[0]} in chat, {most[1]} in think (as the default "
            "is); auto asks both routes alike"
        )
    if chat.streams != 1:
        raise ConfigError(
            f"the chat evaluation took {chat.streams} streams, and auto chats with one: evaluate with "
            "--streams 1"
        )


def _checked_run(folder: Path, record: RecordFile, mode: Mode, bundle: Bundle) -> EvalConfig:
    """The configuration of an evaluation, which is of this mode and this bundle."""
    if record.format != EVAL or "accuracy" not in record.fields:
        raise ConfigError(
            f"{folder} is not an evaluation of answers: give the folder of `edgereason eval TASK`"
        )
    config = read_config(folder / RUN, EvalConfig)
    if config.mode is not mode:
        raise ConfigError(f"{folder} was evaluated in {config.mode} mode, expected --mode {mode}")
    ours = {part.sha256 for part in bundle.parts} | set(bundle.earlier_heads)
    (result,) = results_of(record, bundle.base, ours, bundle.buckets)
    adapter = bundle.adapter_sha256
    if mode is Mode.THINK and adapter is not None and adapter not in result.parts:
        raise BundleError(f"{folder} was evaluated without the bundle's adapter: evaluate with --bundle")
    return config


def probabilities(
    model: Model,
    requests: Sequence[Request],
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[float | None] | None:
    """What the switcher says of each request, its prompt encoded as when it is asked.

    Args:
        model: has a switcher; nobody else may use it meanwhile.
        requests: of which only the prompts count.
        progress: told after every prompt.
        should_stop: asked between chunks of prompts.

    Returns:
        In the order of the requests; None for one that does not fit in the context. None if it was stopped.
    """
    prompts = [model.pipeline.prompt(request) for request in requests]
    found: list[float | None] = [None] * len(prompts)
    # The longest first: the context is made once.
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for done, index in enumerate(order, 1):
        with model.pipeline.prefix() as prefix:
            try:
                with prefix.reserved(Room(len(prompts[index]), sequences=1, longest=len(prompts[index]))):
                    if not prefix.become(prompts[index], should_stop):
                        return None
                    found[index] = prefix.p_think
            except ContextOverflow:
                pass
        progress(done, len(prompts))
    return found


# ── into the bundle ────────────────────────────────────────────────────────────────────────────────


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
