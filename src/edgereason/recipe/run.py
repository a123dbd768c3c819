"""A recipe is carried out: what is finished is kept, what was stopped goes on, what is stale is said.

::

    FOLDER/
      recipe.toml                the resolved recipe
      stages/STAGE/              a stage's own folder, as its command leaves it
      stages/STAGE.json          its settings, hashes of what it needed and of what it made, what it took
      earlier/STAGE-1/           what a stage made before the recipe was changed
      NAME/                      the bundle with its card
      record.json                what was made of what
      smoke/                     the same with few rows

A stage is finished while its settings, what it needed and what it made are as `STAGE.json` says. A changed
setting makes it stale, and so does whatever it needed. Stale stages are refused, and named; `redo` makes them
again, and moves what they made to `earlier`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

import tomli_w

from edgereason.config import nearest
from edgereason.core.bundle import write_atomically
from edgereason.errors import ConfigError, EdgeReasonError
from edgereason.recipe.config import MakeRecipe, plain
from edgereason.recipe.data import Source
from edgereason.recipe.pace import Estimate, Pace, Stopwatch, estimates
from edgereason.recipe.smoke import smoke_of
from edgereason.recipe.stages import Stage, stages_of
from edgereason.recipe.work import EARLIER, FOLDER, Work, disk_bytes, file_hashes, free_memory, vacant
from edgereason.records.context import RunContext
from edgereason.records.folder import RECIPE, RunFolder, differences, forget_peak_rss, peak_rss_bytes

FORMAT: Final = "edgereason-make"
STAGE_FORMAT: Final = "edgereason-stage"
SMOKE: Final = "smoke"
FREE: Final = frozenset(
    {
        *("parallel", "checkpoint_minutes", "cached_prompt_bytes", "checkpoint_activations"),
        *("micro_rows", "threads", "label", "report_to"),
    }
)
"""Settings that change how long a stage takes, and not what it makes (but for the last bits of sums)."""


class Standing(StrEnum):
    """How far a stage is."""

    FINISHED = "finished"
    BEGUN = "begun"
    MISSING = "missing"
    STALE = "stale"
    WAITING = "waiting"
    """Finished, but a stage that it needs is not: whether it stays is known when that one is finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A stage, how far it is, and what makes it stale.

    Attributes:
        entry: what `STAGE.json` says; empty if there is none.
        why: differences, as "config.training.epochs: 1 there, 2 now".
    """

    stage: Stage
    standing: Standing
    entry: Mapping[str, Any]
    why: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which stages are carried out.

    Attributes:
        until: the last stage; "traces" stands for all sets of traces.
        only: the only stage.
        redo: whether stale stages are made again.
    """

    until: str | None = None
    only: str | None = None
    redo: bool = False

    def of(self, stages: Sequence[Stage]) -> list[Stage]:
        """The stages that are chosen.

        Raises:
            ConfigError: there is no such stage.
        """
        if self.until is not None and self.only is not None:
            raise ConfigError("give one of until and only")
        asked = self.only or self.until
        if asked is None:
            return [*stages]
        places = [n for n, one in enumerate(stages) if one.name == asked or one.name.startswith(f"{asked}/")]
        if not places:
            raise ConfigError(f"there is no stage {asked!r}: {nearest(asked, [one.name for one in stages])}")
        return [stages[n] for n in places] if self.only is not None else [*stages[: places[-1] + 1]]


def look(chosen: Sequence[Stage], folder: Path, stages: Sequence[Stage]) -> list[Found]:
    """How far stages are; reads what is there and changes nothing.

    Args:
        chosen: which of them.
        folder: of what is made.
        stages: all of the recipe, in order.
    """
    found: dict[str, Found] = {}
    for stage in stages:
        found[stage.name] = look_at(stage, folder, found)
    return [found[stage.name] for stage in chosen]


def look_at(stage: Stage, folder: Path, before: Mapping[str, Found]) -> Found:
    """How far one stage is.

    Args:
        before: the stages that it needs.
    """
    own = folder / FOLDER / stage.name
    entry = note_of(folder, stage.name)
    if not entry:
        return Found(stage=stage, standing=Standing.MISSING, entry={})
    waits = [name for name in stage.needs if before[name].standing is not Standing.FINISHED]
    was = {name: hashes for name, hashes in entry.get("needs", {}).items() if name not in waits}
    needs = {name: needed(stage, before[name]) for name in stage.needs if name not in waits}
    there = {"config": entry.get("config", {}), "needs": was}
    now = {"config": stage.config, "needs": needs}
    why = [line for line in differences(there, now) if not _is_free(line)]
    products = entry.get("products")
    if products is not None and file_hashes(own, stage.products) != products:
        why.append("what it made was changed or removed")
    if why:
        standing = Standing.STALE
    elif waits and products is not None:
        standing = Standing.WAITING
    else:
        standing = Standing.BEGUN if products is None else Standing.FINISHED
    return Found(stage=stage, standing=standing, entry=entry, why=tuple(why))


def needed(stage: Stage, before: Found) -> dict[str, str]:
    """The hashes of those files of a finished stage that another depends on."""
    patterns, products = stage.needs[before.stage.name], before.entry["products"]
    return {name: sha256 for name, sha256 in products.items() if any(fnmatch(name, one) for one in patterns)}


def _is_free(line: str) -> bool:
    """Whether a difference changes no result: a free setting, or a switch that is off and was unknown."""
    return line.partition(":")[0].rpartition(".")[2] in FREE or line.endswith(": None there, False now")


def require_fresh(chosen: Sequence[Found], choice: Choice) -> None:
    """Refuses stale stages, unless they are to be made again.

    Raises:
        ConfigError: it names them, and why.
    """
    stale = [one for one in chosen if one.standing is Standing.STALE]
    if not stale or choice.redo:
        return
    follow = [one.stage.name for one in chosen if one.standing is Standing.WAITING]
    said = "; ".join(f"{one.stage.name} ({_some(one.why)})" for one in stale)
    after = f", and with them perhaps {', '.join(follow)}" if follow else ""
    raise ConfigError(
        f"the recipe has changed, or what was made of it: stale are {said}{after}: --redo makes them again "
        f"and keeps what there is in {EARLIER}/, or take the change back"
    )


def _some(lines: Sequence[str]) -> str:
    shown = [line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…" for line in lines[:2]]
    return "; ".join(shown) + (f" and {len(lines) - 2} more" if len(lines) > 2 else "")


_LONGEST: Final = 100


def make(
    recipe: MakeRecipe,
    folder: Path,
    context: RunContext = RunContext(),
    *,
    data_folders: Sequence[Path] = (),
    choice: Choice = Choice(),
) -> dict[str, Any] | None:
    """Makes a bundle, or goes on with what `folder` holds.

    Args:
        recipe: what to make.
        folder: of everything that comes out; made if it is not there.
        context: stopped, the stage leaves what it has.
        data_folders: in which the recipe's files are looked for.
        choice: of stages.

    Returns:
        The record, which says of each stage that is finished what it took; None if it was stopped.

    Raises:
        ConfigError: settings, data or folder can't be used, or stages are stale. A stage's own errors are
            passed on; what was finished before it stays.
    """
    sources = sources_of(recipe, data_folders)
    stages = stages_of(recipe, sources)
    work = Work(recipe=recipe, root=folder, sources=sources, context=context)
    require_fresh(look(choice.of(stages), folder, stages), choice)
    run = claim(recipe, folder)
    with run.lock():
        write_atomically(folder / RECIPE, tomli_w.dumps(plain(recipe)))
        found = carry_out(stages, work, choice)
        return None if found is None else run.write(_record(recipe, found) | context.about())


def carry_out(stages: Sequence[Stage], work: Work, choice: Choice = Choice()) -> dict[str, Found] | None:
    """Carries out what is chosen and not finished; None if it was stopped.

    Args:
        stages: all, in order.
        work: what they are carried out with.
        choice: of them.

    Raises:
        ConfigError: a stage is stale, or needs one that is not finished.
    """
    chosen = {stage.name for stage in choice.of(stages)}
    found: dict[str, Found] = {}
    later = _Later.of(stages, work.root)
    for number, stage in enumerate(stages, 1):
        now = look_at(stage, work.root, found)
        if stage.name in chosen and now.standing is not Standing.FINISHED:
            require_needs(stage, found)
            titled = later.titled(work.context, stage, f"{number} of {len(stages)}, {stage.name}")
            if not _carry_out(now, found, replace(work, context=titled), choice):
                return None
            now = look_at(stage, work.root, found)
        found[stage.name] = now
    return found


def claim(recipe: MakeRecipe, folder: Path) -> RunFolder:
    """The folder of a bundle, which is new or holds one of this name and model.

    Raises:
        ConfigError: it holds something else.
    """
    run = RunFolder(folder, "bundle")
    run.claim(RECIPE, plain(recipe), _other_bundle)
    return run


def _other_bundle(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = ("name", "model")
    return differences({n: there.get(n) for n in names}, {n: now.get(n) for n in names})


def require_needs(stage: Stage, found: Mapping[str, Found]) -> None:
    """Refuses a stage before those that it needs are finished.

    Raises:
        ConfigError: it names them.
    """
    missing = [name for name in stage.needs if found[name].standing is not Standing.FINISHED]
    if missing:
        raise ConfigError(
            f"{stage.name} needs {', '.join(f'{name} ({found[name].standing})' for name in missing)}: carry "
            "them out first (--until, or without --only)"
        )


def _carry_out(now: Found, before: Mapping[str, Found], work: Work, choice: Choice) -> bool:
    """Carries a stage out; False if it was stopped."""
    stage = now.stage
    own = work.folder(stage.name)
    if now.standing is Standing.STALE:
        require_fresh([now], choice)
        _put_aside(now, work)
    inputs = {
        "config": dict(stage.config),
        "needs": {name: needed(stage, before[name]) for name in stage.needs},
    }
    own.mkdir(parents=True, exist_ok=True)
    record = {"format": STAGE_FORMAT, "stage": stage.name, **inputs}
    _note(work.root, stage.name, record)
    forget_peak_rss()
    watch = Stopwatch(work.context.progress)
    try:
        done = stage.run(replace(work, context=replace(work.context, progress=watch)), own)
    except EdgeReasonError:
        work.context.notice(f"{stage.name} failed; the stages before it stay as they are")
        raise
    finally:
        free_memory()
    if done is None:
        return False
    products = file_hashes(own, stage.products)
    if products is None:
        raise ConfigError(f"{stage.name} left none of {', '.join(stage.products)} in {own}: make it again")
    amount = None if stage.amount is None else stage.amount(rows_there(work.root, before))
    made = {
        "seconds": watch.seconds(),
        "row_s": watch.row_s(amount),
        "amount": amount,
        "rows": done.get("rows"),
        "peak_bytes": peak_rss_bytes(),
        "disk_bytes": disk_bytes(own),
    }
    _note(work.root, stage.name, record | {"products": products, "made": made})
    return True


def note_of(folder: Path, stage: str) -> dict[str, Any]:
    """What is noted of a stage; empty if nothing is.

    Raises:
        ConfigError: it can't be read.
    """
    return RunFolder(folder / FOLDER, "recipe").record(f"{stage}.json") or {}


def _note(folder: Path, stage: str, record: Mapping[str, Any]) -> None:
    RunFolder(folder / FOLDER, "recipe").write(record, f"{stage}.json")


def _put_aside(stale: Found, work: Work) -> None:
    """Moves what a stale stage made to `earlier`; where rows of it still count, a copy."""
    own, name = work.folder(stale.stage.name), stale.stage.name
    target = vacant(work.root / EARLIER, name)
    keeps = stale.stage.keeps
    note = work.root / FOLDER / f"{name}.json"
    if not own.is_dir():
        pass  # somebody removed it
    elif keeps and all(line.startswith(keeps) for line in stale.why):
        shutil.copytree(own, target)
        work.context.notice(f"{name} is made again from the rows that are there; {target} has it as it was")
    else:
        own.rename(target)
        work.context.notice(f"{name} is made again; {target} has what was there")
    if own.is_dir() or target.is_dir():
        shutil.copyfile(note, target.with_name(f"{target.name}.json"))


# ── data and estimates ─────────────────────────────────────────────────────────────────────────────


def sources_of(recipe: MakeRecipe, folders: Sequence[Path]) -> dict[str, Source]:
    """Where the recipe's data are.

    Raises:
        ConfigError: a file is in none of the folders.
    """
    return {name: Source.of(name, config, (*folders, Path())) for name, config in recipe.data.items()}


def rows_there(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """Rows of each data set whose stage is finished, by its name; those of `asked/X` under `asked-X`."""
    counts = {}
    for name in names:
        kind, _, rest = name.partition("/")
        if kind in ("data", "asked"):
            rows = note_of(folder, name).get("made", {}).get("rows")
            if rows is not None:
                counts[rest if kind == "data" else f"asked-{rest}"] = rows
    return counts


def plan(
    recipe: MakeRecipe, folder: Path, *, data_folders: Sequence[Path] = ()
) -> list[tuple[Found, Estimate]]:
    """What would be done, and what it would take; changes nothing.

    Args:
        recipe: what to make.
        folder: of what is made; its stages and those of its smoke run have measured paces.
        data_folders: in which the recipe's files are looked for.
    """
    sources = sources_of(recipe, data_folders)
    stages = stages_of(recipe, sources)
    found = look(stages, folder, stages)
    counts = rows_there(folder, [stage.name for stage in stages])
    for name, source in sources.items():
        is_near = source.path is not None or source.config.hub is None  # nothing is fetched for a plan
        if name not in counts and is_near and source.has_rows:
            counts[name] = len(source.rows())
    for name, evaluation in recipe.evaluation.items():
        if (limit := evaluation.eval.limit) is not None:
            counts.setdefault(f"asked-{name}", limit)
    judged = estimates(stages, paces_in(folder, stages), counts)
    return list(zip(found, judged, strict=True))


def paces_in(folder: Path, stages: Sequence[Stage]) -> dict[str, Pace]:
    """What stages took: in the folder itself, or in its smoke run."""
    found = {}
    for stage in stages:
        for place in (folder, folder / SMOKE):
            if (pace := Pace.of(note_of(place, stage.name))) is not None:
                found[stage.name] = pace
                break
    return found


@dataclass(frozen=True, slots=True)
class _Later:
    """How long the stages behind one will take, as far as paces were measured."""

    seconds: Mapping[str, float | None]

    @classmethod
    def of(cls, stages: Sequence[Stage], folder: Path) -> _Later:
        paces = paces_in(folder, stages)
        counts = rows_there(folder, [stage.name for stage in stages])
        ahead: dict[str, float | None] = {}
        total: float | None = 0.0
        for stage in reversed(stages):
            ahead[stage.name] = total
            if "products" in note_of(folder, stage.name):
                continue
            (judged,) = estimates([stage], paces, counts)
            total = None if judged.seconds is None or total is None else total + judged.seconds
        return cls(ahead)

    def titled(self, context: RunContext, stage: Stage, title: str) -> RunContext:
        """The context of a stage, whose progress says where in the whole it is."""
        ahead = self.seconds[stage.name]
        is_long = ahead is not None and ahead >= _WORTH_SAYING_S
        return context.titled(f"{title} (later stages: {_duration(ahead)})" if ahead and is_long else title)


_WORTH_SAYING_S: Final = 60.0


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _record(recipe: MakeRecipe, found: Mapping[str, Found]) -> dict[str, Any]:
    stages = {
        name: {"standing": str(one.standing)}
        | {k: one.entry[k] for k in ("products", "made") if k in one.entry}
        for name, one in found.items()
    }
    said = plain(recipe) | {"model": Path(recipe.model).name}  # a record holds no local paths
    said["data"] = {
        name: {key: Path(value).name if key == "file" else value for key, value in one.items()}
        for name, one in said["data"].items()
    }
    return {"format": FORMAT, "name": recipe.name, "recipe": said, "stages": stages}


def smoke(
    recipe: MakeRecipe,
    folder: Path,
    context: RunContext = RunContext(),
    *,
    data_folders: Sequence[Path] = (),
    choice: Choice = Choice(),
) -> dict[str, Any] | None:
    """Every stage with few rows, in a folder of its own: it shows early what fails, and how long things take.

    A smoke run is cheap: what is stale in it is made again without asking.
    """
    claim(recipe, folder)
    few = smoke_of(recipe)
    return make(few, folder / SMOKE, context, data_folders=data_folders, choice=replace(choice, redo=True))
