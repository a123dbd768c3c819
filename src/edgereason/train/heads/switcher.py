"""The switcher's training: labelled prompts in, a head and its record out.

::

    prompts ─ that no test file asks ─ features by the engine ─┬─ train     the weights; folds that leave out
                                                               │            sources choose and calibrate
                                                               └─ held out  only judged, as test files are

Both parts have the same share of every family of sources, and prompts about one passage stand on one side. A
question alone and behind a text is of one family, `s1k` and `s1k+text`, which a fold leaves out together. A
folder goes on where it stands, and is trained again at once where all features are there.

Source: paper section 4. Deviation: features, weight decay and epochs are chosen by sources left out
(`cross_validation.py`) instead of fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from edgereason.errors import ConfigError
from edgereason.heads.base import Array, sigmoid
from edgereason.heads.features import FeaturePart, Features
from edgereason.heads.file import Heads, Storage
from edgereason.heads.reliability import auroc_standard_error
from edgereason.reasoning.model import Model
from edgereason.records.context import RunContext
from edgereason.records.folder import RunFolder, model_entry
from edgereason.train.data.decontaminate import Evaluations
from edgereason.train.data.traces import length_summary
from edgereason.train.heads.cross_validation import Fold, FoldResults, folds_of, measure, passages, stratified
from edgereason.train.heads.linear import Labels, calibrate
from edgereason.train.heads.mlp import MlpConfig, calibrated_mlp, train_mlp
from edgereason.train.heads.prompt_states import (
    Prompt,
    PromptRow,
    Prompts,
    PromptStates,
    layers_at,
    require_both_labels,
)
from edgereason.train.heads.record import (
    FORMAT,
    StateJournal,
    base_sha256,
    calibration_entry,
    finish,
    judge,
    require_names,
    store,
)

PARTS: Final = ("train", "held_out")


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitcherConfig:
    """How a switcher is trained.

    Attributes:
        seed: of the splits.
        layers: to choose among, counted from the end; () for four depths of the model.
        parts: of features, to choose among.
        weight_decays: to choose among once features are chosen, with `mlp`'s own.
        held_out_share: of the prompts.
    """

    seed: int = 0
    mlp: MlpConfig = field(default_factory=MlpConfig)
    layers: tuple[int, ...] = ()
    parts: tuple[tuple[FeaturePart, ...], ...] = (
        (FeaturePart.AVERAGE,),
        (FeaturePart.LAST,),
        (FeaturePart.AVERAGE, FeaturePart.LAST),
    )
    weight_decays: tuple[float, ...] = (0.1, 1.0, 10.0)
    held_out_share: float = 0.15


def train_switcher(
    folder: Path,
    config: SwitcherConfig,
    prompts: Sequence[Prompts],
    tests: Sequence[Prompts] = (),
    *,
    model: Model,
    storage: Storage = Storage.F32,
    context: RunContext = RunContext(),
) -> dict[str, Any] | None:
    """Trains a switcher, or goes on where `folder` stands.

    Args:
        folder: of features, head and record; made if it is not there.
        config: how.
        prompts: to learn from, and to hold out of.
        tests: only judged; a prompt of theirs is not learned from.
        model: its base prefills; nobody else may use it meanwhile.
        storage: of the weights.
        context: stopped, it keeps the features that are written.

    Returns:
        The record; None if it was stopped.

    Raises:
        ConfigError: too few prompts, one label only, or a folder that holds something else.
    """
    require_names([one.entry for one in (*prompts, *tests)])
    counts = dict.fromkeys(("prompts", "in_tests", "duplicates", "too_long", "test_too_long"), 0)
    layers = layers_at(model.info.num_layers)
    reading = PromptStates(model.engine, tuple(sorted({*layers, *config.layers})))
    known = Evaluations.of(prompt.question for test in tests for prompt in test.prompts)
    chosen = _to_learn(prompts, known, reading, counts)
    families = [prompt.family for prompt in chosen]
    together = passages([prompt.question for prompt in chosen], families)
    splits = dict(
        zip(PARTS, stratified(families, (config.held_out_share,), config.seed, together), strict=True)
    )
    for part in PARTS:
        require_both_labels([chosen[i] for i in splits[part]], f"the {part} part of the prompts")
    judged = {test.name: [one for one in test.prompts if reading.fits(one)] for test in tests}
    counts["test_too_long"] = sum(len(test.prompts) - len(judged[test.name]) for test in tests)
    base, taken = base_sha256(model), reading.taken()
    run = {"head": "switcher", "base": base, "features": [one.to_json() for one in taken]}
    RunFolder(folder, "switcher").claim_record(FORMAT, run)
    with StateJournal(folder, PromptRow, reading.width) as journal:
        everything = [*chosen, *(prompt for test in judged.values() for prompt in test)]
        if not reading.collect(journal, everything, context):
            return None
        kept = journal.states()
        places = {row.key: place for place, row in enumerate(journal.rows)}
        lengths = {row.key: row.num_tokens for row in journal.rows}

    def features_of(of_set: Sequence[Prompt], features: Features) -> Array:
        rows = np.array([places[prompt.sha256] for prompt in of_set], np.int64)
        return kept[np.ix_(rows, reading.columns(features))]

    sets = {part: [chosen[i] for i in splits[part]] for part in PARTS} | judged
    learned = sets["train"]
    labels = _labels(learned)
    learned_families = [prompt.family for prompt in learned]
    folds = folds_of(labels, learned_families, [together[i] for i in splits["train"]], config.seed)
    wanted = config.layers or layers
    candidates = [replace(one, parts=parts) for one in taken if one.layer in wanted for parts in config.parts]
    found = _choose(candidates, config, partial(features_of, learned), labels, folds, context)
    if found is None:
        return None
    calibration = calibrate(found.measured.logits, labels[found.measured.rows])
    trained = train_mlp(
        features_of(learned, found.features),
        labels,
        found.measured.num_epochs,
        found.mlp,
        found.features,
        context.should_stop,
    )
    if trained is None:
        return None
    left_out = found.measured.logits
    if calibration.keeps_order:
        trained, left_out = calibrated_mlp(trained, calibration), calibration(left_out)
    heads = store(folder, Heads(base_sha256=base, switcher=trained, storage=storage))
    assert heads.switcher is not None
    of_left_out = [learned[i].source for i in found.measured.rows]
    sets |= _by_file(sets["held_out"], prompts)
    reliability = {
        "validation": judge(sigmoid(left_out.astype(np.float32)), labels[found.measured.rows], of_left_out)
    } | {
        name: _judge(heads.switcher.p_think(features_of(of_set, found.features)), of_set)
        for name, of_set in sets.items()
        if of_set
    }
    record = {
        "head": "switcher",
        "model": model_entry(model.info),
        "config": asdict(config),
        "prompts": [dict(one.entry) for one in prompts],
        "tests": [dict(one.entry) for one in tests],
        "counts": counts,
        "splits": {part: len(splits[part]) for part in PARTS},
        "prompt_tokens": length_summary([lengths[prompt.sha256] for prompt in chosen]),
        "fit": {
            "features": found.features.to_json(),
            "weight_decay": found.mlp.weight_decay,
            "epochs": found.measured.num_epochs,
        },
        "yardstick": {
            "left_out": [list(fold.left_out) or "a part" for fold in folds],
            **found.measured.to_json(),
            "candidates": found.tried,
        },
        "calibration": calibration_entry(calibration),
        "threshold": heads.switcher.threshold,
        "reliability": reliability,
        **context.about(),
    }
    return finish(folder, run, heads, record)


class _Found(NamedTuple):
    """The best way to train, what it is worth, and what else was tried."""

    features: Features
    mlp: MlpConfig
    measured: FoldResults
    tried: list[dict[str, Any]]


def _choose(
    candidates: Sequence[Features],
    config: SwitcherConfig,
    rows_of: Callable[[Features], Array],
    labels: Labels,
    folds: Sequence[Fold],
    context: RunContext,
) -> _Found | None:
    """The features that are worth the most, and then the weight decay; None if stopped."""
    decays = [decay for decay in config.weight_decays if decay != config.mlp.weight_decay]
    total, best = len(candidates) + len(decays), None
    tried: list[dict[str, Any]] = []
    for number in range(total):
        if number < len(candidates):
            features, mlp = candidates[number], config.mlp
        else:
            assert best is not None
            features = best.features
            mlp = replace(config.mlp, weight_decay=decays[number - len(candidates)])
        measured = measure(rows_of(features), labels, folds, mlp, context.should_stop)
        if measured is None:
            return None
        of_way = {"layer": features.layer, "parts": list(features.parts), "weight_decay": mlp.weight_decay}
        tried.append(of_way | measured.to_json())
        if best is None or measured.worth > best.measured.worth:
            best = _Found(features, mlp, measured, tried)
        context.progress("candidates", number + 1, total)
    return best


def _by_file(held_out: Sequence[Prompt], files: Sequence[Prompts]) -> dict[str, list[Prompt]]:
    """What is held out of each file, for the record; nothing where there is one file only."""
    if len(files) == 1:
        return {}
    first = {prompt.sha256: file.name for file in reversed(files) for prompt in file.prompts}
    return {
        f"held_out of {file.name}": [one for one in held_out if first[one.sha256] == file.name]
        for file in files
    }


def _judge(p: Array, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Reliability by prompts, which are independent, so that their AUROC has a standard error."""
    labels = _labels(prompts)
    return judge(p, labels, [prompt.source for prompt in prompts]) | {
        "auroc_standard_error": auroc_standard_error(p, labels)
    }


def _labels(prompts: Sequence[Prompt]) -> Labels:
    return np.array([prompt.label for prompt in prompts], np.bool_)


def _to_learn(
    sources: Sequence[Prompts], known: Evaluations, reading: PromptStates, counts: dict[str, int]
) -> list[Prompt]:
    """Prompts to learn from, each once, in none of the tests; what is left out is counted."""
    found: dict[str, Prompt] = {}
    for prompt in (prompt for source in sources for prompt in source.prompts):
        counts["prompts"] += 1
        before = found.get(prompt.sha256)
        if before is not None:
            if before.label != prompt.label:
                raise ConfigError(
                    f"{prompt.place}: label is {prompt.label:d}, and {before.label:d} at {before.place}; "
                    "expected one"
                )
            counts["duplicates"] += 1
        elif known.know(prompt.question):
            counts["in_tests"] += 1
        elif not reading.fits(prompt):
            counts["too_long"] += 1
        else:
            found[prompt.sha256] = prompt
    return list(found.values())
