"""The verifier's training: questions with right answers in, a head and its record out.

::

    questions ─ that no evaluation asks ─ K traces each, graded ─┬─ train     folds choose what is read and λ,
                                                                 │            and calibrate
                                                                 └─ held out  only judged, as test files are

All traces of a question stand on one side. A folder goes on where it stands, and is trained again at once
where all traces are there.

Source: paper section 6. Deviations: folds instead of one validation part, since questions are few here; by
default a mean over the trace is read, of a layer that the folds choose. The paper's state behind the
verification prompt is read where that is asked for. Both are kept of every trace and measured in any case, so
that one folder of traces serves either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from edgereason.core.chat import VERIFICATION
from edgereason.errors import ConfigError
from edgereason.heads.base import Array, sigmoid
from edgereason.heads.file import Heads, Storage
from edgereason.heads.reliability import auroc, auroc_within
from edgereason.heads.verifier import LinearVerifier, TraceFeatures
from edgereason.reasoning.model import Model
from edgereason.records.context import RunContext
from edgereason.records.folder import RunFolder, model_entry
from edgereason.train.data.decontaminate import Evaluations
from edgereason.train.data.questions import LEFT_OUT, Question, Questions, require_unique_ids, usable
from edgereason.train.data.traces import length_summary
from edgereason.train.heads.cross_validation import grouped, stratified
from edgereason.train.heads.linear import (
    Calibration,
    CrossValidated,
    Linear,
    Scale,
    calibrate,
    calibrated_linear,
    cross_validate,
    train_logistic,
)
from edgereason.train.heads.prompt_states import layers_at
from edgereason.train.heads.record import (
    FORMAT,
    StateJournal,
    base_sha256,
    both,
    calibration_entry,
    finish,
    judge,
    require_names,
    store,
)
from edgereason.train.heads.trace_states import Samples, TraceConfig, TraceStateRow, collect, verification_ids

MIN_QUESTIONS: Final = 20
"""Fewer could not be split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierConfig:
    """How a verifier is trained.

    Attributes:
        layers: whose means over the trace are candidates; () for four depths of the model.
        reads_prompt: read the state behind the verification prompt, as the paper does, instead of a mean.
        l2: terms to choose among.
        folds: of the questions that are learned from.
        held_out_share: of the questions.
        seed: of the splits.
    """

    traces: TraceConfig = field(default_factory=TraceConfig)
    layers: tuple[int, ...] = ()
    reads_prompt: bool = False
    l2: tuple[float, ...] = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
    folds: int = 5
    held_out_share: float = 0.15
    seed: int = 0


def train_verifier(
    folder: Path,
    config: VerifierConfig,
    sources: Sequence[Questions],
    against: Evaluations,
    tests: Sequence[Questions] = (),
    *,
    model: Model,
    storage: Storage = Storage.F32,
    context: RunContext = RunContext(),
) -> dict[str, Any] | None:
    """Trains a verifier, or goes on where `folder` stands.

    More questions or more samples go on with the traces that are there; another model, adapter or other
    sampling is refused.

    Args:
        folder: of traces, states, head and record; made if it is not there.
        config: how.
        sources: questions to learn from, and to hold out of.
        against: evaluations; what they ask is not learned from.
        tests: questions that are only judged; what they ask is not learned from either.
        model: with the adapter that will run; nobody else may use it meanwhile.
        storage: of the weights.
        context: stopped, it keeps the traces that are written.

    Returns:
        The record; None if it was stopped.

    Raises:
        ConfigError: too few questions, traces that are all right or all wrong, two questions with one id, or
            a folder that holds something else.
    """
    require_names([one.entry for one in (*sources, *tests)])
    asked_by_tests = Evaluations.of(question.text for test in tests for question in test.questions)
    learned, left_out = usable(sources, both(against, asked_by_tests))
    counts = {name: sum(counts[name] for counts in left_out.values()) for name in LEFT_OUT}
    judged = [question for test in tests for question in test.questions]
    everything = [*learned, *judged]
    require_unique_ids(everything)
    if len(learned) < MIN_QUESTIONS:
        raise ConfigError(
            f"a verifier needs {MIN_QUESTIONS} questions that no evaluation asks, got {len(learned)}: add "
            "questions (--questions, --limit)"
        )
    base, bundle = base_sha256(model), model.bundle
    kept = _Kept(config.layers or layers_at(model.info.num_layers), model.info.hidden_size)
    adapter = bundle.adapter_sha256 if bundle else None
    run = {
        "head": "verifier",
        "base": base,
        "adapter": adapter,
        "buckets": list(bundle.buckets) if bundle else [],
        "verification": VERIFICATION,
        "layers": list(kept.layers),
        **config.traces.run,
        **({"calculator": True} if bundle and bundle.calculator else {}),  # earlier folders know no other
    }
    RunFolder(folder, "verifier").claim_record(FORMAT, run)
    with StateJournal(folder, TraceStateRow, kept.width) as journal:
        if not collect(journal, config.traces, everything, model, kept.layers, context):
            return None
        samples = Samples.of(journal).only(lambda row: row.number < config.traces.samples)
    train, held_out = _split(samples, learned, config)
    _require_enough(train, held_out, config.folds)
    fitted = _fit(train, kept, config, context)
    if fitted is None:
        return None
    made = Heads(
        base_sha256=base,
        adapter_sha256=adapter,
        buckets=bundle.buckets if bundle else (),
        verifier=fitted.head(verification_ids(model.engine)),
        storage=storage,
    )
    heads = store(folder, made)
    assert heads.verifier is not None
    sets = {"train": train, "held_out": held_out}
    sets |= {test.entry["name"]: samples.about(test.questions) for test in tests}
    reliability = {"validation": _judge(fitted.p_left_out, train)} | {
        name: _judge(heads.verifier.score(kept.of(of_set, fitted.features)), of_set)
        for name, of_set in sets.items()
        if of_set.rows
    }
    asked = samples.about(everything)
    counts["question_too_long"] = len(everything) - len(set(asked.questions))
    record = {
        "head": "verifier",
        "model": model_entry(model.info),
        "verification_ids": list(heads.verifier.prompt_ids),
        "config": asdict(config),
        "questions": [dict(one.entry) for one in sources],
        "against": list(against.files),
        "tests": [dict(one.entry) for one in tests],
        "counts": counts,
        "splits": {name: of_set.counts for name, of_set in sets.items()},
        "stops": Counter(str(row.stop) for row in asked.rows),
        "tokens": length_summary([row.num_tokens for row in asked.rows]),
        "fit": {
            "features": fitted.features.to_json(),
            "l2": fitted.found.l2,
            "validation_loss": {f"{l2:g}": loss for l2, loss in fitted.found.losses.items()},
        },
        "candidates": fitted.tried,
        "calibration": calibration_entry(fitted.calibration),
        "reliability": reliability,
        **context.about(),
    }
    return finish(folder, run, heads, record)


def _split(samples: Samples, learned: Sequence[Question], config: VerifierConfig) -> tuple[Samples, Samples]:
    """What is learned from and what is held out, in whole questions, the same share of each source."""
    there = set(samples.questions)
    questions = [question for question in learned if question.id in there]
    parts = stratified([one.source for one in questions], (config.held_out_share,), config.seed)
    train, held_out = (samples.about([questions[i] for i in part]) for part in parts)
    return train, held_out


def _require_enough(train: Samples, held_out: Samples, folds: int) -> None:
    counts = train.counts
    if counts["questions"] < folds:
        raise ConfigError(f"only {counts['questions']} questions fit in the context: add shorter ones")
    if counts["right"] in (0, counts["samples"]):
        raise ConfigError(
            f"{counts['right']} of {counts['samples']} traces to learn from are right; a verifier needs both "
            f"kinds: ask {'harder' if counts['right'] else 'easier'} questions, or more of them"
        )
    held = held_out.counts
    if held["right"] in (0, held["samples"]):
        raise ConfigError(
            f"{held['right']} of the {held['samples']} traces of {held['questions']} questions that are held "
            "out are right; judging a verifier needs both kinds: add questions, or ask for more samples"
        )


class _Kept(NamedTuple):
    """What was kept of every trace: the means of layers, then the state behind the verification prompt."""

    layers: tuple[int, ...]
    hidden_size: int

    @property
    def width(self) -> int:
        return (len(self.layers) + 1) * self.hidden_size

    @property
    def candidates(self) -> list[TraceFeatures]:
        """What a verifier could read, the paper's first."""
        return [TraceFeatures(behind_prompt=True), *(TraceFeatures(layers=(one,)) for one in self.layers)]

    def of(self, samples: Samples, features: TraceFeatures) -> Array:
        """The columns of some features, (N, F)."""
        places = [*map(self.layers.index, features.layers), *[len(self.layers)] * features.behind_prompt]
        states = samples.states.reshape(len(samples.rows), -1, self.hidden_size)
        return states[:, places].reshape(len(samples.rows), -1)


class _Fitted(NamedTuple):
    """A layer, how it was chosen, and what layers like it said of traces that they had not seen, (N,)."""

    features: TraceFeatures
    scale: Scale
    layer: Linear
    found: CrossValidated
    tried: list[dict[str, Any]]
    calibration: Calibration
    p_left_out: Array

    def head(self, prompt_ids: tuple[int, ...]) -> LinearVerifier:
        asks = self.features.behind_prompt
        return LinearVerifier(
            mean=self.scale.mean,
            std=self.scale.std,
            weight=self.layer.weight[None].astype(np.float32),
            bias=np.array([self.layer.bias], np.float32),
            features=self.features,
            prompt=VERIFICATION if asks else "",
            prompt_ids=prompt_ids if asks else (),
        )


def _fit(
    train: Samples,
    kept: _Kept,
    config: VerifierConfig,
    context: RunContext,
) -> _Fitted | None:
    """Folds choose a layer and the L2 term, and calibrate; the head then sees all. None if stopped."""
    folds = grouped(train.questions, config.folds, config.seed)
    tried: list[dict[str, Any]] = []
    best: tuple[TraceFeatures, CrossValidated] | None = None
    for number, candidate in enumerate(kept.candidates):

        def of_all(done: int, total: int, before: int = number) -> None:
            context.progress("folds", before * total + done, len(kept.candidates) * total)

        measured = cross_validate(
            kept.of(train, candidate), train.right, folds, config.l2, of_all, context.should_stop
        )
        if measured is None:
            return None
        tried.append(
            {
                "features": candidate.to_json(),
                "l2": measured.l2,
                "loss": measured.losses[measured.l2],
                "auroc": auroc(measured.logits, train.right),
                "auroc_within_questions": auroc_within(measured.logits, train.right, train.questions),
            }
        )
        if candidate.behind_prompt != config.reads_prompt:
            continue  # measured for the record
        if best is None or measured.losses[measured.l2] < best[1].losses[best[1].l2]:
            best = candidate, measured
    assert best is not None
    features, found = best
    rows = kept.of(train, features)
    scale = Scale.of(rows)
    layer = train_logistic(scale(rows), train.right.astype(np.float64), found.l2)
    calibration, left_out = calibrate(found.logits, train.right), found.logits
    if calibration.keeps_order:
        layer, left_out = calibrated_linear(layer, calibration), calibration(left_out)
    p_left_out = sigmoid(left_out.astype(np.float32))
    return _Fitted(features, scale, layer, found, tried, calibration, p_left_out)


def _judge(p: Array, samples: Samples) -> dict[str, Any]:
    """Reliability, and how well traces of the same question are told apart, on which votes live."""
    within = {"auroc_within_questions": auroc_within(p, samples.right, samples.questions)}
    return within | judge(p, samples.right, [row.source for row in samples.rows])
