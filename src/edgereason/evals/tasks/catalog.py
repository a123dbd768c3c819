"""A task by its name, with its items: from the hub, a local file or a generator.

::

    "gsm8k"            ─ TASKS ─→ rows ─→ every row an item ─→ the first `limit` ─→ Task
    "gym:leg_counting" ─ reasoning-gym ──────────────────────────────────────────→ Task

Every row is checked before the first question is asked. Knows names and items; does not know engines,
records or whether code may be run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgereason.config import nearest
from edgereason.data.rows import Row, Rows, read_file, read_hub
from edgereason.errors import ConfigError
from edgereason.evals.tasks.base import Item, Preset
from edgereason.evals.tasks.gym import NUM_ITEMS, generate
from edgereason.evals.tasks.known import TASKS, KnownTask
from edgereason.evals.tasks.questions import id_field

__all__ = ["TASKS", "KnownTask", "Task", "load_task"]

_GYM = "gym:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task that is ready to be asked.

    Attributes:
        name: as it was called for.
        items: at least one, each with its own id.
        preset: how the paper samples it.
        data_name: file, hub data set or generator that the items came from.
        data_sha256: of the file, or of a generator's questions and answers; None for the hub's.
        data_revision: the hub's commit, or the generator's version; None for a file.
        runs_code: whether scoring runs what a model wrote.
    """

    name: str
    items: tuple[Item, ...]
    preset: Preset
    data_name: str
    data_sha256: str | None
    data_revision: str | None
    runs_code: bool


def load_task(name: str, *, data: Path | None = None, limit: int | None = None, seed: int = 0) -> Task:
    """Read a task's data and make items of it.

    Args:
        name: one of `TASKS`, or ``gym:`` and the name of a reasoning-gym generator.
        data: a local .jsonl, .jsonl.gz or .parquet file; without it the hub is asked.
        limit: number of items, >= 1, from the first; all of them without it, 100 of a generator.
        seed: a generator's; data sets don't use it.

    Raises:
        ConfigError: there is no such task, its data can't be had, or any row of it is broken.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"the limit is {limit} items; expected at least 1")
    if name.startswith(_GYM):
        return _gym_task(name, data, limit, seed)
    known = TASKS.get(name)
    if known is None:
        raise ConfigError(f"there is no task {name!r}: {nearest(name, [*TASKS, f'{_GYM}NAME'])}")
    rows = (
        read_hub(known.dataset, config=known.config, split=known.split) if data is None else read_file(data)
    )
    return Task(
        name=name,
        items=_items(name, known, rows)[:limit],
        preset=known.preset,
        data_name=rows.name,
        data_sha256=rows.sha256,
        data_revision=rows.revision,
        runs_code=known.runs_code,
    )


def _items(name: str, known: KnownTask, rows: Rows) -> tuple[Item, ...]:
    items: list[Item] = []
    firsts: dict[str, Row] = {}
    for row in rows.rows:
        item = known.item(name, row)
        if (first := firsts.setdefault(item.id, row)) is not row:
            row.fail(id_field(row) or "id", f"is {item.id!r}, as in {first.place}; expected every id once")
        if known.counts(row):
            items.append(item)
    if not items:
        raise ConfigError(f"{rows.name} holds no row of the split {known.split!r} of {name}")
    return tuple(items)


def _gym_task(name: str, data: Path | None, limit: int | None, seed: int) -> Task:
    if data is not None:
        raise ConfigError(f"{name} makes its own questions and takes no data; got {data.name}: leave it out")
    generated = generate(name.removeprefix(_GYM), size=limit or NUM_ITEMS, seed=seed)
    if generated.runs_code:
        raise ConfigError(
            f"the scorer of {name} evaluates what the model wrote inside this process, without limits: "
            "choose another generator"
        )
    return Task(
        name=name,
        items=generated.items,
        preset=Preset(),
        data_name=generated.name,
        data_sha256=generated.sha256,
        data_revision=generated.version,
        runs_code=False,
    )
