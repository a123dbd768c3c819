"""What can be drawn from evaluations that are there: votes over streams, the switcher's threshold.

::

    run with ≥ 2 finished traces a question ──────────────→ votes[run]     (sweep_votes)
    chat run + think run + p_think for every question ────→ threshold      (sweep_threshold)
    truncation at hard budgets, which has to generate ────→ budgets        (handed in)

What can't be drawn is no error: `notes` says what is missing. Knows runs' names and rows; does not know their
folders, and generates nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from edgereason.core.types import Route
from edgereason.errors import ConfigError
from edgereason.evals.metrics import finished_traces
from edgereason.evals.samples import Sample
from edgereason.evals.sweep_threshold import p_think_of, threshold_curve
from edgereason.evals.sweep_votes import NUM_DRAWS, vote_curve

FORMAT: Final = "edgereason-sweep"

Run = tuple[str, Sequence[Sample]]


def sweep(
    runs: Sequence[Run],
    *,
    budgets: dict[str, Any] | None = None,
    draws: int = NUM_DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Draws every curve that the runs have rows for.

    The threshold curve takes the one run of chat rows only, the one of think rows only, and p_think from the
    first run that has it for all of their questions.

    Args:
        runs: names, each its own, and rows.
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
        threshold = _threshold(runs, seed)
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


def _threshold(runs: Sequence[Run], seed: int) -> dict[str, Any]:
    chat_name, chat = _only_run(runs, Route.CHAT)
    think_name, think = _only_run(runs, Route.THINK)
    ids = {sample.id for sample in chat}
    said: dict[str, Mapping[str, float]] = {name: p_think_of(samples) for name, samples in runs}
    source = next((name for name, p_think in said.items() if ids <= p_think.keys()), None)
    if source is None:
        most = max((len(ids & p_think.keys()) for p_think in said.values()), default=0)
        raise ConfigError(
            f"no run has p_think for all {len(ids)} questions (at most {most}): "
            "evaluate them in auto mode, with a bundle that has a switcher"
        )
    p_think = {id_: said[source][id_] for id_ in ids}
    drawn_from = {"chat": chat_name, "think": think_name, "p_think": source}
    return {"runs": drawn_from, **threshold_curve(chat, think, p_think, seed=seed)}


def _only_run(runs: Sequence[Run], route: Route) -> Run:
    """The one run all of whose rows took the route."""
    found = [run for run in runs if run[1] and all(sample.route is route for sample in run[1])]
    if len(found) != 1:
        names = ", ".join(name for name, _ in found)
        raise ConfigError(
            f"it takes exactly one run on the {route} route, got {len(found)}"
            + (f" ({names})" if found else "")
        )
    return found[0]
