"""What a threshold is set from: prompts of which a share is to think, or evaluations of both routes.

::

    prompts ─ prefilled ─→ p_think ──────────────────────────────────── share ────┐
    chat RUN, think RUN ─ of this base and adapter, on these data ─→ outcomes ─┬──┴→ threshold
    data ─ the questions, prefilled ─→ p_think ────────────────────────────────┘

Rows of forced modes have no p_think, so the bundle's own switcher is asked. The two evaluations must be what
one `auto` request would do on either route. Knows prompts in files, evaluations' folders and data; does not
know how a threshold is chosen or put in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from edgereason.bundles.calibrate import Found
from edgereason.bundles.records import RecordFile, read_record
from edgereason.bundles.results import results_of
from edgereason.bundles.threshold import (
    probabilities,
    require_accuracy,
    require_think_rate,
    threshold_for_accuracy,
    threshold_for_share,
)
from edgereason.core.bundle import Bundle
from edgereason.core.types import DEFAULT_CHAT_TOKENS, Mode, Request
from edgereason.data.rows import Rows, prompt_of, read_file
from edgereason.errors import BundleError, ConfigError
from edgereason.evals.evaluate import EvalConfig
from edgereason.evals.record import RUN, read_config
from edgereason.evals.samples import Sample, read_samples
from edgereason.evals.tasks.catalog import Task, load_task
from edgereason.reasoning.model import Model
from edgereason.records.folder import data_entry
from edgereason.report.records import EVAL

_ALIKE: Final = ("task", "seed", "system", "temperature", "top_p", "top_k", "budget", "budget_s", "kv")
"""Settings of a request that both routes depend on; effort, streams and vote are of thinking alone."""


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
            method={
                "target_think_rate": self.share,
                "prompts": data_entry(self.rows.name, self.rows.sha256, self.rows.revision),
            },
            num_left_out=len(said) - len(fitting),
        )


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
        raise ConfigError(f"{folder} is no evaluation of answers: give the folder of `edgereason eval TASK`")
    config = read_config(folder / RUN, EvalConfig)
    if config.mode is not mode:
        raise ConfigError(f"{folder} was evaluated in {config.mode} mode, expected --mode {mode}")
    ours = {part.sha256 for part in bundle.parts} | set(bundle.earlier_heads)
    (result,) = results_of(record, bundle.base, ours, bundle.buckets)
    adapter = bundle.adapter_sha256
    if mode is Mode.THINK and adapter is not None and adapter not in result.parts:
        raise BundleError(f"{folder} was evaluated without the bundle's adapter: evaluate with --bundle")
    return config
