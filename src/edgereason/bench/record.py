"""What every benchmark shares: settings, the measured file and the record.

::

    --model NAME|FILE ─→ Subject: a plain Q4_0 of it, or the file as it is
    with Recording(subject) as recording: measuring
    recording.close(figures, …) ─→ figures, format, source, config, machine, versions, date, who had the CPUs

Records hold names and hashes, never a local path.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from edgereason.bench.files import Notice, plain_q4_0, read_per_token_bytes
from edgereason.config import require_at_least_one
from edgereason.core.bundle import file_sha256
from edgereason.core.machine import require_threads, usable_cores
from edgereason.engine.handles import check_gguf
from edgereason.errors import ConfigError
from edgereason.hub.catalog import DEFAULT_MODEL
from edgereason.hub.pull import resolve
from edgereason.records.machine import describe, read_bandwidth, versions
from edgereason.records.measure import MIN_ROUNDS, CpuWatch

AS_IS: Final = "default file"
"""How records call the file that was asked for, where it is not quantized first."""


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Settings of every benchmark of the runtime.

    Attributes:
        rounds: of every case; fewer than 7 are a trial.
        threads: CPU threads; by default as many as this process may use.
        seed: of random adapters and of draws.
    """

    rounds: int = MIN_ROUNDS
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least_one(rounds=self.rounds, threads=self.threads)
        require_threads(self.threads)


@dataclass(frozen=True, kw_only=True)
class FileBenchConfig(BenchConfig):
    """Settings of a benchmark of one file.

    Attributes:
        model: a name of the catalogue or a GGUF file.
        as_is: measure the file itself, not a plain Q4_0 of it.
    """

    model: str = DEFAULT_MODEL
    as_is: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The measured file: `path`, which was made from `source` or is the same file."""

    source: Path
    source_sha256: str
    path: Path
    quantization: str
    threads: int

    def entry(self) -> dict[str, Any]:
        """The measured file as the record describes it."""
        return {
            "model": {
                "name": self.path.name,
                "sha256": file_sha256(self.path),
                "quantization": self.quantization,
            },
            "model_bytes": self.path.stat().st_size,
            "read_per_token_bytes": read_per_token_bytes(self.path),
        }


def find_subject(model: str, *, as_is: bool, threads: int | None, notice: Notice) -> Subject:
    """The file to measure, fetched and quantized if necessary.

    Args:
        model: a name of the catalogue or a GGUF file.
        as_is: the file itself, not a plain Q4_0 of it.
        threads: by default as many as this process may use.
        notice: told in a line what is fetched or made first.

    Raises:
        PullError, ModelFileError: the model can't be fetched, read or quantized.
    """
    source = resolve(model, notice=notice)
    check_gguf(source, "model")
    sha256 = file_sha256(source)
    return Subject(
        source=source,
        source_sha256=sha256,
        path=source if as_is else plain_q4_0(source, sha256, notice),
        quantization=AS_IS if as_is else "Q4_0",
        threads=threads or usable_cores(),
    )


class Recording:
    """What a record holds beside its figures; measuring happens in its `with` block.

    Attributes:
        read_bytes_per_s: bytes a second that memory delivers, the better of before and after measuring.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._date = datetime.now(UTC).isoformat(timespec="seconds")
        self.read_bytes_per_s = 0.0

    def __enter__(self) -> Self:
        self._started_s, self._watch = time.perf_counter(), CpuWatch()
        self.read_bytes_per_s = read_bandwidth(self._subject.threads)
        return self

    def __exit__(self, failed: object, *exc: object) -> None:
        if failed is None:
            self.read_bytes_per_s = max(self.read_bytes_per_s, read_bandwidth(self._subject.threads))
            self._total_s, self._shares = time.perf_counter() - self._started_s, self._watch.shares()

    def close(
        self, figures: Mapping[str, Any], *, format: str, config: Mapping[str, Any], notes: Sequence[str] = ()
    ) -> dict[str, Any]:
        """The record, after the `with` block.

        Args:
            figures: what was measured; if `rounds` is among them and too low, a note says so.
            format: name of the record's format.
            config: the resolved configuration.
            notes: what else a reader of the figures must know.
        """
        subject = self._subject
        record: dict[str, Any] = rounded(
            {
                **figures,
                "format": format,
                "source": {"name": subject.source.name, "sha256": subject.source_sha256},
                "config": {**config, "model": Path(config["model"]).name, "threads": subject.threads},
                "machine": describe(subject.threads) | {"read_bytes_per_s": self.read_bytes_per_s},
                "versions": versions(),
                "date": self._date,
                "total_s": self._total_s,
                "notes": [*trial_note(figures.get("rounds", MIN_ROUNDS)), *notes],
                **self._shares,
            }
        )
        return record


def trial_note(rounds: int) -> list[str]:
    """What must stand beside figures of too few rounds."""
    if rounds >= MIN_ROUNDS:
        return []
    return [f"a trial: {rounds} round{'' if rounds == 1 else 's'}, figures need at least {MIN_ROUNDS}"]


def require_distinct(name: str, values: Sequence[int], *, most: int | None = None) -> None:
    """Refuses a list of sizes that is empty, repeats a size, or has one out of range.

    Raises:
        ConfigError: naming the list.
    """
    if not values:
        raise ConfigError(f"{name} must name at least one number")
    if len(set(values)) < len(values):
        raise ConfigError(f"{name} must differ from each other, got {', '.join(map(str, values))}")
    for value in values:
        if value < 1 or (most is not None and value > most):
            allowed = "at least 1" if most is None else f"between 1 and {most}"
            raise ConfigError(f"each of {name} must be {allowed}, got {value}")


def rounded(value: Any) -> Any:
    """The value with six significant digits: more would be noise."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
