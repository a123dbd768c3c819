"""What every bench shares: the file that it measures, and all that a record says beside its figures.

::

    --model NAME|FILE ─→ Subject: a plain Q4_0 of it, or the file as it is
    Recording() … measuring … .close(…) ─→ format, source, config, machine, versions, date, who had the CPUs

Records hold names and hashes, never a local path. Does not know what is measured.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from edgereason.bench.files import Notice, plain_q4_0, read_per_token_bytes
from edgereason.core.bundle import file_sha256
from edgereason.core.machine import usable_cores
from edgereason.engine.handles import check_gguf
from edgereason.errors import ConfigError
from edgereason.hub.pull import resolve
from edgereason.records.machine import describe, versions
from edgereason.records.measure import MIN_ROUNDS, CpuWatch

AS_IS: Final = "default file"
"""How records call the file that was asked for, where it is not quantized first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is measured: `path`, which was made from `source` or is it."""

    source: Path
    source_sha256: str
    path: Path
    quantization: str
    threads: int

    def entry(self) -> dict[str, Any]:
        """What a record says of the measured file."""
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
    """The file that a bench is to measure, fetched and quantized where it has to be.

    Args:
        model: a name of the catalogue or a GGUF file.
        as_is: the file itself, not a plain Q4_0 of it.
        threads: by default as many as this process may use.
        notice: told in a line what is made or fetched first.

    Raises:
        PullError, ModelFileError: the model can't be had, read or quantized.
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
    """Begins when measuring begins, and becomes what a record holds beside its figures."""

    def __init__(self) -> None:
        self._started_s, self._watch = time.perf_counter(), CpuWatch()
        self._date = datetime.now(UTC).isoformat(timespec="seconds")

    def close(
        self,
        *,
        format: str,
        source: Path,
        sha256: str,
        config: Mapping[str, Any],
        threads: int,
        bandwidth: float,
        notes: Sequence[str],
        workers_cpu_s: float = 0.0,
    ) -> dict[str, Any]:
        """Everything but figures.

        Args:
            format: name of the record's format.
            source: the file that was asked for.
            sha256: its hash.
            config: the resolved configuration.
            threads: CPU threads that were used.
            bandwidth: bytes a second that they read from memory.
            notes: what a reader of the figures must know.
            workers_cpu_s: CPU time of processes that the bench itself started and that ended since.
        """
        total_s, shares = time.perf_counter() - self._started_s, self._watch.shares()
        if (others := shares["others_share"]) is not None:
            own = workers_cpu_s / (total_s * (os.cpu_count() or 1))
            shares["others_share"] = max(0.0, others - own)
        return {
            "format": format,
            "source": {"name": source.name, "sha256": sha256},
            "config": {**config, "model": Path(config["model"]).name, "threads": threads},
            "machine": describe(threads) | {"read_bytes_per_s": bandwidth},
            "versions": versions(),
            "date": self._date,
            "total_s": total_s,
            "notes": list(notes),
        } | shares


def trial_note(rounds: int) -> list[str]:
    """What must stand beside figures of too few rounds."""
    if rounds >= MIN_ROUNDS:
        return []
    return [f"a trial: {rounds} round{'' if rounds == 1 else 's'}, figures need at least {MIN_ROUNDS}"]


def require_distinct(name: str, values: Sequence[int], *, most: int | None = None) -> None:
    """Refuses a list of sizes that is empty, has one twice, or one out of range.

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
    """Six significant digits: more would be noise."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
