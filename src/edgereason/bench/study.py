"""A study: recipes that differ in a setting, each trained, evaluated and timed.

::

    study.toml                                       Study.read: the recipe, and one for every other value
      recipe = "sft-smollm2-135m.toml"        ─┐       "recipe"                  the recipe as it stands
      [axes]                                   ├─→     "lora.rank=8"             with another rank
      "lora.rank" = [8, 32]                    │       "training.learning_rate=0.0002"
      "training.learning_rate" = [2e-4, 1e-3] ─┘
      [eval]

    run: each ─ learn ─→ bundle ─┬─ evaluation, thinking ─→ accuracy ─┐
                                 └─ a decode step ────────→ lora_tax ─┴─→ FOLDER/sweep.json

Source: paper section 3, the study of rank, learning rate and batch size. Deviation: linears to adapt are an
axis like any other; one setting at a time by default, where the paper tries the whole product.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Final, Self

from edgereason.bench.lab import EndlessEngine, Lab
from edgereason.bench.step_measures import lora
from edgereason.config import nearest, parse, read_toml
from edgereason.core.bundle import file_sha256, write_atomically
from edgereason.core.types import Mode
from edgereason.errors import ConfigError
from edgereason.evals.evaluate import EvalConfig
from edgereason.evals.run import run_task
from edgereason.records.context import RunContext
from edgereason.train.lora.run import SftRecipe
from edgereason.train.lora.run import run as train_lora

FORMAT: Final = "edgereason-train-sweep"
PLAIN: Final = "recipe"
"""Name of the recipe as it stands."""
_TAX_ROUNDS: Final = 5
_FIGURES: Final = ("accuracy", "ci95", "n", "mean_tokens", "share_cut")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One recipe of a study; `changed` holds what is not as in the recipe that the study starts from."""

    name: str
    changed: Mapping[str, Any]
    recipe: SftRecipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What is tried, and how it is evaluated; `tables` is the file, for the record."""

    tables: Mapping[str, Any]
    variants: Sequence[Variant]
    evaluation: EvalConfig

    @classmethod
    def read(cls, path: Path, *, whole: bool = False) -> Self:
        """The study of a TOML file.

        Args:
            path: of the file; its `recipe` is named from where the file is.
            whole: every combination, not one setting at a time.

        Raises:
            ConfigError: recipe or axes are missing, or a setting in them is not understood.
        """
        tables = read_toml(path)
        recipe, axes = tables.get("recipe"), tables.get("axes")
        if not isinstance(recipe, str):
            raise ConfigError(f"{path.name} names no recipe: give recipe = 'sft-….toml', beside it")
        if not isinstance(axes, dict) or not axes:
            raise ConfigError(f"{path.name} has no [axes]: give settings, such as 'lora.rank' = [8, 32]")
        start = SftRecipe.read(path.parent / recipe)
        evaluation = parse(EvalConfig, tables.get("eval", {"task": "gsm8k"}), f"{path.name} [eval]")
        return cls(
            tables=tables,
            variants=variants(start, axes, f"{path.name} [axes]", whole=whole),
            evaluation=evaluation,
        )


def variants(recipe: SftRecipe, axes: Mapping[str, Any], where: str, *, whole: bool = False) -> list[Variant]:
    """The recipes of a study, each once, the one that it starts from among them.

    Args:
        recipe: what to start from.
        axes: ``table.setting`` → list of values.
        where: what the axes are called in messages.
        whole: every combination, not one setting at a time.

    Raises:
        ConfigError: a setting that recipes don't have, or a value that it can't take.
    """
    for name, values in axes.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{where}: {name} must be a list of values, got {values!r}")
    if whole:
        changes = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    else:
        changes = [{}, *({name: value} for name, values in axes.items() for value in values)]
    found: list[Variant] = []
    for change in changes:
        made = _changed(recipe, change, where)
        if all(made != variant.recipe for variant in found):
            kept = {} if made == recipe else change
            found.append(Variant(name=_name(kept), changed=kept, recipe=made))
    return found


def run(
    study: Study,
    traces: Sequence[Path],
    folder: Path,
    context: RunContext = RunContext(),
    *,
    data: Path | None = None,
) -> dict[str, Any] | None:
    """Trains, evaluates and times every variant; the same call goes on with what a stopped one left.

    Args:
        study: what is tried.
        traces: JSONL files that every variant learns from.
        folder: of the study, with a folder for each variant.
        context: stopped, it keeps what is finished.
        data: questions of the evaluation; by default the task's data set.

    Returns:
        The record, as `sweep.json` has it; None if it was stopped.

    Raises:
        ConfigError: a variant's folder holds another recipe or other traces, or several processes were
            started.
    """
    if (num_processes := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise ConfigError(
            f"train sweep is one process, and {num_processes} were started: start it without "
            "`accelerate launch`; `train sft` can be spread over processes"
        )
    rows: list[dict[str, Any]] = []
    for number, variant in enumerate(study.variants, 1):
        here = context.titled(f"{variant.name} ({number} of {len(study.variants)})")
        own = folder / variant.name
        trained = _trained(own, variant, traces) or train_lora(variant.recipe, own, here, traces=traces)
        judged = trained and run_task(
            replace(study.evaluation, bundle=str(own / "bundle"), model=None, mode=Mode.THINK),
            own / "eval",
            here,
            data=data,
        )
        if not trained or not judged:
            return None
        rows.append(
            {"name": variant.name, "changed": dict(variant.changed)}
            | {figure: judged[figure] for figure in _FIGURES}
            | {"loss": trained["end_loss"], "adapter_bytes": trained["adapter"]["size_bytes"]}
            | _tax(own, variant.recipe.base.name, context)
        )
    record = {"format": FORMAT, "study": study.tables, "points": rows, **context.about()}
    write_atomically(folder / "sweep.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return record


def _changed(recipe: SftRecipe, change: Mapping[str, Any], where: str) -> SftRecipe:
    tables = recipe.to_tables()
    kinds = {name: type(getattr(recipe, name)) for name in tables}
    known = [f"{table}.{setting}" for table in tables for setting in kinds[table].__dataclass_fields__]
    for name, value in change.items():
        if name not in known:
            raise ConfigError(f"{where} has no setting {name!r}: {nearest(name, known)}")
        table, _, setting = name.partition(".")
        tables[table] = {**tables[table], setting: value}
    parts = {name: parse(kinds[name], values, f"{where} [{name}]") for name, values in tables.items()}
    return replace(recipe, **parts)


def _name(change: Mapping[str, Any]) -> str:
    """A name that can be a folder's: ``lora.rank=8``, ``lora.targets=q_proj+v_proj``."""
    said = (
        f"{name}={'+'.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in change.items()
    )
    return ",".join(said) or PLAIN


def _trained(folder: Path, variant: Variant, traces: Sequence[Path]) -> dict[str, Any] | None:
    """The record of an earlier call that trained there, by the same recipe on the same traces."""
    record = _finished(folder / "record.json")
    if record is None:
        return None
    learned_from = [entry["sha256"] for entry in record["traces"]]
    if record["recipe"] != variant.recipe.to_tables() or learned_from != [file_sha256(one) for one in traces]:
        raise ConfigError(
            f"{folder} holds a run of another recipe or other traces: give a new folder (--output)"
        )
    return record


def _tax(folder: Path, model: str, context: RunContext) -> dict[str, Any]:
    """What a decode step costs with the adapter on, over one with it off; measured once."""
    if (known := _finished(folder / "tax.json")) is not None:
        return known
    base = context.fetch(model)
    with EndlessEngine(base, threads=context.num_threads) as engine:
        adapter = folder / "bundle" / "reasoning.gguf"
        lab = Lab(engine, base, context.num_threads, _TAX_ROUNDS, 0, adapter)
        figures = dict(lora(lab).figures)
    write_atomically(folder / "tax.json", json.dumps(figures) + "\n")
    return figures


def _finished(path: Path) -> dict[str, Any] | None:
    """What an earlier call left."""
    return json.loads(path.read_text("utf-8")) if path.is_file() else None
