"""The switcher's training: labelled prompts in, a head and its record out.

::

    prompts ─ that no test file asks ─ features by the engine ─┬─ train       the weights
                                                               ├─ validation  when to stop, which restart,
                                                               │              calibration
                                                               └─ held out    only judged, as test files are

Every part has the same share of every source. A folder goes on where it stands, and is trained again at once
where all features are there.

Source: paper section 4.

Knows prompts, features and the record; does not know terminals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgereason.errors import ConfigError
from edgereason.heads.features import DEFINITION
from edgereason.heads.file import Heads, Storage
from edgereason.reasoning.model import Model
from edgereason.train.decontaminate import Evaluations
from edgereason.train.head_linear import calibrate
from edgereason.train.head_mlp import MlpConfig, calibrated_mlp, train_mlp
from edgereason.train.head_splits import stratified
from edgereason.train.head_states import StateJournal, base_sha256
from edgereason.train.heads import FORMAT, Progress, calibration_entry, finish, judge, require_names, store
from edgereason.train.prompt_states import Prompt, PromptRow, Prompts, PromptStates, require_both_labels
from edgereason.train.trace_folder import claim_folder, length_summary, model_entry

PARTS: Final = ("train", "validation", "held_out")


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitcherConfig:
    """How a switcher is trained; the shares are those of the prompts not trained on."""

    mlp: MlpConfig = field(default_factory=MlpConfig)
    validation_share: float = 0.15
    held_out_share: float = 0.15
    seed: int = 0


def train_switcher(
    folder: Path,
    config: SwitcherConfig,
    prompts: Sequence[Prompts],
    tests: Sequence[Prompts] = (),
    *,
    model: Model,
    storage: Storage = Storage.F32,
    about: Mapping[str, Any] | None = None,
    progress: Progress = lambda what, done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """Trains a switcher, or goes on where `folder` stands.

    Args:
        folder: of features, head and record; made if it is not there.
        config: how.
        prompts: to learn from, and to hold out of.
        tests: only judged; a prompt of theirs is not learned from.
        model: its base prefills; nobody else may use it meanwhile.
        storage: of the weights.
        about: what else the record says, such as date and machine.
        progress: told after every prompt and every restart.
        should_stop: asked between steps; once true, the features that are written stay.

    Returns:
        The record; None if it was stopped.

    Raises:
        ConfigError: too few prompts, one label only, or a folder that holds something else.
    """
    require_names([one.entry for one in (*prompts, *tests)])
    counts: dict[str, int] = dict.fromkeys(("prompts", "in_tests", "duplicates", "too_long"), 0)
    reading = PromptStates(model.engine)
    known = Evaluations.of(prompt.question for test in tests for prompt in test.prompts)
    chosen = _to_learn(prompts, known, reading, counts)
    splits = dict(
        zip(
            PARTS,
            stratified(
                [prompt.source for prompt in chosen],
                (config.validation_share, config.held_out_share),
                config.seed,
            ),
            strict=True,
        )
    )
    for part in PARTS:
        require_both_labels([chosen[i] for i in splits[part]], f"the {part} part of the prompts")
    judged = {test.entry["name"]: [one for one in test.prompts if reading.fits(one)] for test in tests}
    base = base_sha256(model)
    run = {"head": "switcher", "base": base, "features": dict(DEFINITION)}
    claim_folder(folder, run, FORMAT)
    with StateJournal(folder, PromptRow, model.info.hidden_size) as journal:
        everything = [*chosen, *(prompt for test in judged.values() for prompt in test)]
        if not reading.collect(journal, everything, partial(progress, "prompts"), should_stop):
            return None
        states = journal.states()
        places = {row.key: place for place, row in enumerate(journal.rows)}
        lengths = {row.key: row.num_tokens for row in journal.rows}
    features = states[[places[prompt.sha256] for prompt in chosen]]
    labels = np.array([prompt.label for prompt in chosen])
    validation = splits["validation"]
    trained = train_mlp(
        features,
        labels,
        splits["train"],
        validation,
        config.mlp,
        partial(progress, "restarts"),
        should_stop,
    )
    if trained is None:
        return None
    calibration = calibrate(trained.head.logits(features[validation]).astype(np.float64), labels[validation])
    head = calibrated_mlp(trained.head, calibration) if calibration.is_better else trained.head
    heads = store(folder, Heads(base_sha256=base, switcher=head, storage=storage))
    assert heads.switcher is not None
    sets = {part: [chosen[i] for i in splits[part]] for part in PARTS} | judged
    reliability = {
        name: judge(
            heads.switcher.p_think(states[[places[prompt.sha256] for prompt in of_set]]),
            np.array([prompt.label for prompt in of_set]),
            [prompt.source for prompt in of_set],
        )
        for name, of_set in sets.items()
        if of_set
    }
    record = {
        "head": "switcher",
        "model": model_entry(model.engine),
        "config": asdict(config),
        "prompts": [dict(one.entry) for one in prompts],
        "tests": [dict(one.entry) for one in tests],
        "counts": counts,
        "splits": {part: len(splits[part]) for part in PARTS},
        "prompt_tokens": length_summary([lengths[prompt.sha256] for prompt in chosen]),
        "fit": {name: value for name, value in trained._asdict().items() if name != "head"},
        "calibration": calibration_entry(calibration),
        "threshold": heads.switcher.threshold,
        "reliability": reliability,
        **(about or {}),
    }
    return finish(folder, run, heads, record)


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
