"""What can be drawn from evaluations that are there: votes over streams, the switcher's threshold.

::

    run with ≥ 2 finished traces a question ──────────────→ votes[run]     (sweep_votes)
    chat runs + think runs + p_think for every question ──→ threshold      (sweep_threshold)
    truncation at hard budgets, which has to generate ────→ budgets        (handed in)

What can't be drawn is not an error: `notes` says what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final

from edgereason.core.types import Route
from edgereason.errors import ConfigError
from edgereason.evals.curves.threshold import p_think_of, threshold_curve
from edgereason.evals.curves.votes import NUM_DRAWS, vote_curve
from edgereason.evals.metrics import finished_traces
from edgereason.evals.samples import Sample

FORMAT: Final = "edgereason-sweep"

Run = tuple[str, Sequence[Sample]]


def sweep(
    runs: Sequence[Run],
    *,
    bases: Mapping[str, str] | None = None,
    budgets: dict[str, Any] | None = None,
    draws: int = NUM_DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Draws every curve that the runs have rows for.

    The threshold curve takes all runs in chat mode and all in think mode, each of other questions, so that
    several tasks make one mixed set; and a question's p_think from the first run that has it.

    Args:
        runs: names, each its own, and rows.
        bases: which base each run had, by its name; a threshold curve is of runs on one. None asks no such
            thing.
        budgets: a record of truncation at hard budgets, put in as it is.
        draws: of the vote curves.
        seed: of all draws and bootstraps.

    Returns:
        A record of plain values: `format`, `votes` (a curve for each run that has one), `threshold` or None,
        `budgets` or None, and `notes`.

    Raises:
        ConfigError: there are no runs, or two of one name.
    """
    require_names(runs)
    notes: list[str] = []
    votes = {}
    for name, samples in runs:
        if (lacking := _lacks_traces(samples)) is None:
            votes[name] = vote_curve(samples, draws=draws, seed=seed)
        else:
            notes.append(f"no vote curve of {name}: {lacking}")
    threshold = None
    try:
        threshold = _threshold(runs, bases or {}, seed)
    except ConfigError as error:
        notes.append(f"no threshold curve: {error}")
    return {"format": FORMAT, "votes": votes, "threshold": threshold, "budgets": budgets, "notes": notes}


def require_names(runs: Sequence[Run]) -> None:
    """Refuses no runs at all, and two of one name."""
    names = [name for name, _ in runs]
    if not names:
        raise ConfigError("a sweep needs at least one evaluation")
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"two evaluations are called {min(twice)!r}: a sweep tells them apart by name")


def _lacks_traces(samples: Sequence[Sample]) -> str | None:
    """Why there is nothing to vote on; None if there is."""
    pools = finished_traces(samples)
    if not pools:
        return "it has no samples"
    id_, least = min(pools.items(), key=lambda item: len(item[1]))
    if len(least) >= 2:
        return None
    return (
        f"question {id_!r} has {len(least)} finished traces and a vote takes 2 "
        "(--repeats, or --streams without stopping early)"
    )


def _threshold(runs: Sequence[Run], bases: Mapping[str, str], seed: int) -> dict[str, Any]:
    chat, think = (_on_route(runs, route) for route in (Route.CHAT, Route.THINK))
    ids = {sample.id for _, samples in chat for sample in samples}
    said: dict[str, float] = {}
    sources = []
    for name, samples in runs:
        fresh = {id_: p for id_, p in p_think_of(samples).items() if id_ in ids - said.keys()}
        said |= fresh
        sources += [name] if fresh else []
    if len(said) < len(ids):
        raise ConfigError(
            f"p_think is known of {len(said)} of {len(ids)} questions: "
            "evaluate them in auto mode, with a bundle that has a switcher"
        )
    drawn_from = {
        "chat": [name for name, _ in chat],
        "think": [name for name, _ in think],
        "p_think": sources,
    }
    _require_one_base(drawn_from, bases)
    return {"runs": drawn_from, **threshold_curve(_rows(chat), _rows(think), said, seed=seed)}


def _require_one_base(drawn_from: Mapping[str, Sequence[str]], bases: Mapping[str, str]) -> None:
    """Refuses runs of several bases: a switcher's p_think, and what chat gets right, are one base's own."""
    of: dict[str | None, str] = {}
    for name in chain.from_iterable(drawn_from.values()):
        of.setdefault(bases.get(name), name)
    if len(of) > 1:
        first, second, *_ = of.values()
        raise ConfigError(f"{first} and {second} ran on different bases: give runs of one")


def _rows(runs: Sequence[Run]) -> list[Sample]:
    return [sample for _, samples in runs for sample in samples]


def _on_route(runs: Sequence[Run], route: Route) -> list[Run]:
    """The runs that were told to take the route (in auto mode rows have p_think); a question is in one."""
    found = [
        run
        for run in runs
        if run[1] and all(sample.route is route and sample.p_think is None for sample in run[1])
    ]
    if not found:
        raise ConfigError(f"there is no run on the {route} route")
    first: dict[str, str] = {}
    for name, samples in found:
        for sample in samples:
            if (other := first.setdefault(sample.id, name)) != name:
                raise ConfigError(
                    f"{other} and {name} both took the {route} route on question {sample.id!r}: "
                    "give one of them"
                )
    return found
