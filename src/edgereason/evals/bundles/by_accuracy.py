"""A threshold by the accuracy that it must keep, from evaluations of the same questions on both routes.

::

    chat RUN, think RUN ─ of this base and adapter, on these data ─→ outcomes ─┐
    data ─ the questions, prefilled ─→ p_think ────────────────────────────────┴→ threshold

Rows of forced modes have no p_think, so the bundle's own switcher is asked. Knows evaluations' folders and
data; does not know how a threshold is chosen or put in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from edgereason.core.bundle import Bundle
from edgereason.core.types import Mode
from edgereason.errors import BundleError, ConfigError
from edgereason.evals.bundles.calibrate import Found
from edgereason.evals.bundles.records import RecordFile, read_record
from edgereason.evals.bundles.results import results_of
from edgereason.evals.bundles.threshold import probabilities, require_accuracy, threshold_for_accuracy
from edgereason.evals.evaluate import EvalConfig
from edgereason.evals.record import RUN, data_entry, read_config
from edgereason.evals.report.records import EVAL
from edgereason.evals.samples import Sample, read_samples
from edgereason.evals.tasks.catalog import Task, load_task
from edgereason.reasoning.model import Model


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
        first, second = configs.values()
        for name in ("task", "seed", "system"):
            if getattr(first, name) != getattr(second, name):
                raise ConfigError(
                    f"the evaluations differ in {name}: {getattr(first, name)!r} in chat, "
                    f"{getattr(second, name)!r} in think; auto asks both routes alike"
                )
        task = load_task(first.task, data=data, limit=first.limit, seed=first.seed)
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
            config=first,
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


def _checked_run(folder: Path, record: RecordFile, mode: Mode, bundle: Bundle) -> EvalConfig:
    """The configuration of an evaluation, which is of this mode and this bundle."""
    if record.format != EVAL or "accuracy" not in record.fields:
        raise ConfigError(f"{folder} is no evaluation of answers: give the folder of `edgereason eval TASK`")
    config = read_config(folder / RUN, EvalConfig)
    if config.mode is not mode:
        raise ConfigError(f"{folder} was evaluated in {config.mode} mode, expected --mode {mode}")
    ours = {part.sha256 for part in bundle.parts} | set(bundle.earlier_heads)
    (result,) = results_of(record, bundle.base, ours)
    adapter = bundle.adapter_sha256
    if mode is Mode.THINK and adapter is not None and adapter not in result.parts:
        raise BundleError(f"{folder} was evaluated without the bundle's adapter: evaluate with --bundle")
    return config
