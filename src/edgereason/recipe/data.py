"""The data of a recipe: rows of a file, of the hub or of a generator, of which some count.

::

    [data.easy]                                      [data.sums]
    file = "gsm8k_train.jsonl.gz"                    generate = "worked-sums:600"
    rows = [0, 480]
    most_steps = 3                                   [data.hard]
    leave_out = ["near_eval"]                        generate = "reasoning-gym:leg_counting:60"
                                                     label = 1

A file is looked for beside the recipe and in the folders of `--data`; where it is in none of them, and `hub`
names a data set, that one is read. Generators: `worked-sums:COUNT`, `worked-sums:COUNT:MOST_TERMS`,
`reasoning-gym:NAME:COUNT`, and `everyday:COUNT`, prompts for the switcher with their labels.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from edgereason.config import nearest, require_at_least_one
from edgereason.core.bundle import file_sha256, temporary_beside, write_atomically
from edgereason.data.questions import question_of
from edgereason.data.rows import Row, Rows, read_file, read_hub
from edgereason.errors import ConfigError
from edgereason.evals.tasks.catalog import load_task
from edgereason.train.data import everyday
from edgereason.train.data.questions import read_questions
from edgereason.train.data.solutions import num_steps
from edgereason.train.data.traces import row_id
from edgereason.train.data.worked_sums import rows as worked_sums

_EVERYDAY: Final = "everyday"
GENERATORS: Final = (_EVERYDAY, "reasoning-gym", "worked-sums")
_TEXTS: Final = (".txt", ".raw")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Where rows come from, and which of them count.

    Attributes:
        file: name or path of a .jsonl, .jsonl.gz or .parquet file; .txt and .raw are taken as they are.
        hub: data set of the Hugging Face hub, with `subset` and `split`.
        generate: a generator and its counts.
        seed: of the generator.
        rows: the first row that counts, from 0, and the one behind the last.
        leave_out: fields; a row where one of them is true does not count.
        most_steps: of a worked solution: lines without the one that repeats the answer.
        every: 5 for every fifth of the rows that are left.
        first: so many of these from the beginning; `limit` so many, evenly spread.
        label: of a switcher's prompts: 1 for those that need thinking, else 0; rows may bring their own.
            Of `everyday`, which does, only those with this label count.
    """

    file: str | None = None
    hub: str | None = None
    subset: str | None = None
    split: str = "train"
    generate: str | None = None
    seed: int = 0
    rows: tuple[int, int] | None = None
    leave_out: tuple[str, ...] = ()
    most_steps: int | None = None
    every: int = 1
    first: int | None = None
    limit: int | None = None
    label: int | None = None

    def __post_init__(self) -> None:
        require_at_least_one(every=self.every, first=self.first, limit=self.limit, most_steps=self.most_steps)
        if (self.file is None and self.hub is None) == (self.generate is None):
            raise ConfigError("data come from a file, from the hub or from `generate`: say which one")
        if self.generate is not None and (kind := self.generate.partition(":")[0]) not in GENERATORS:
            raise ConfigError(f"there is no generator {kind!r}: {nearest(kind, GENERATORS)}")
        if self.rows is not None and not 0 <= self.rows[0] < self.rows[1]:
            raise ConfigError(f"rows must be the first and the one behind the last, got {list(self.rows)}")
        if self.label not in (None, 0, 1):
            raise ConfigError(f"label must be 0 or 1, got {self.label}")

    @property
    def makes_prompts(self) -> bool:
        """Whether a generator makes the rows, and labels them."""
        return self.generate is not None and self.generate.partition(":")[0] == _EVERYDAY

    @property
    def chooses(self) -> bool:
        """Whether the rows that count are others than the source's."""
        return replace(self, hub=None, subset=None, split="train") != DataConfig(file=self.file)


@dataclass(frozen=True, slots=True)
class Source:
    """Where the rows of a data set are on this machine.

    Attributes:
        name: in the recipe.
        path: the file; None for the hub's and generated ones.
    """

    name: str
    config: DataConfig
    path: Path | None

    @classmethod
    def of(cls, name: str, config: DataConfig, folders: Sequence[Path]) -> Source:
        """Looks for the file.

        Args:
            folders: to look in, in this order.

        Raises:
            ConfigError: it is in none, and the hub is not named.
        """
        if config.file is None:
            return cls(name, config, None)
        file = Path(config.file).expanduser()
        path = next((folder / file for folder in folders if (folder / file).is_file()), None)
        if path is None and config.hub is None:
            raise ConfigError(
                f"[data.{name}]: {config.file} is not beside the recipe: say in which folder it is (--data)"
            )
        return cls(name, config, path)

    @property
    def file_name(self) -> str:
        """What the chosen rows are called."""
        suffix = ".jsonl" if self.has_rows or self.path is None else self.path.suffix
        return f"{self.name}{suffix}"

    @property
    def has_rows(self) -> bool:
        """Whether it is more than a text."""
        return self.path is None or self.path.suffix not in _TEXTS

    def identity(self) -> dict[str, Any]:
        """What decides which rows there are, without local paths."""
        config = self.config
        if self.path is not None:
            return {"sha256": file_sha256(self.path)}
        if config.generate is not None:
            return {"generate": config.generate, "seed": config.seed}
        return {"hub": config.hub, "subset": config.subset, "split": config.split}

    def write(self, folder: Path) -> int | None:
        """Writes the chosen rows to the folder; returns their number, None for a text.

        Raises:
            ConfigError: they can't be had, or none is left.
        """
        target = folder / self.file_name
        if not self.has_rows:
            if self.config.chooses:
                raise ConfigError(
                    f"[data.{self.name}]: {self.config.file} is a text and has no rows to choose"
                )
            assert self.path is not None
            with temporary_beside(target) as partial:
                shutil.copyfile(self.path, partial)
            return None
        rows = self.rows()
        write_atomically(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return len(rows)

    def rows(self) -> list[dict[str, Any]]:
        """The rows that count.

        Raises:
            ConfigError: they can't be had, or none is left.
        """
        config = self.config
        found = [row for row in self._all()[slice(*(config.rows or (None,)))] if self._counts(row)]
        found = _spread(found[:: config.every][: config.first], config.limit)
        if not found:
            raise ConfigError(f"[data.{self.name}]: no row is left: choose less strictly")
        if config.label is None or config.makes_prompts:
            return [dict(row.values) for row in found]
        return [
            {"id": row_id(row), "prompt": question_of(row), "label": config.label, "source": self.name}
            for row in found
        ]

    def _counts(self, row: Row) -> bool:
        config = self.config
        if config.makes_prompts and config.label not in (None, row.values["label"]):
            return False
        if any(row.values.get(field) for field in config.leave_out):
            return False
        most = config.most_steps
        solution = "solution" if row.has("solution") else "answer"  # GSM8K's own rows end with "#### 72"
        return most is None or num_steps(row.text(solution)) <= most

    def _all(self) -> Sequence[Row]:
        config = self.config
        if self.path is not None:
            return read_file(self.path).rows
        if config.generate is not None:
            return _generated(config.generate, config.seed, f"[data.{self.name}] generate")
        assert config.hub is not None
        rows: Rows = read_hub(config.hub, config=config.subset, split=config.split)
        return rows.rows


def _spread(rows: list[Row], limit: int | None) -> list[Row]:
    """So many rows, evenly spread; the same ones every time."""
    if limit is None or limit >= len(rows):
        return rows
    return [rows[number * len(rows) // limit] for number in range(limit)]


def _generated(spec: str, seed: int, where: str) -> list[Row]:
    """The rows of a generator.

    Raises:
        ConfigError: it takes other counts.
    """
    kind, *counts = spec.split(":")
    if kind == _EVERYDAY and len(counts) <= 1 and all(map(_is_count, counts)):
        rows = list(everyday.rows(int(counts[0]) if counts else everyday.DEFAULT_COUNT, seed))
    elif kind == "worked-sums" and 1 <= len(counts) <= 2 and all(map(_is_count, counts)):
        count, *most = map(int, counts)
        rows = list(worked_sums(count, seed + 1, *most))
    elif kind == "reasoning-gym" and len(counts) == 2 and _is_count(counts[1]):
        rows = [
            {"id": one.id, "question": one.text, "answer": one.reference, "source": one.source}
            for one in read_questions(spec, seed=seed).questions
        ]
    else:
        raise ConfigError(
            f"{where}: {spec!r} is not understood; expected everyday:COUNT, worked-sums:COUNT, "
            "worked-sums:COUNT:MOST_TERMS or reasoning-gym:NAME:COUNT"
        )
    return [Row(spec, number, row) for number, row in enumerate(rows, 1)]


def _is_count(text: str) -> bool:
    return re.fullmatch(r"[1-9]\d*", text) is not None


def write_task_questions(task: str, limit: int | None, seed: int, target: Path) -> int:
    """Writes what an evaluation asks that has no local file, so that nothing is learned from it.

    Raises:
        ConfigError: the task's data can't be had.
    """
    is_made = task.startswith("gym:")  # a data set is left out whole
    items = load_task(task, limit=limit if is_made else None, seed=seed).items
    lines = (json.dumps({"id": item.id, "question": item.question}, ensure_ascii=False) for item in items)
    write_atomically(target, "".join(f"{line}\n" for line in lines))
    return len(items)
