"""Sources left out: which rows a fold sees, and what a shortcut is worth there."""

from __future__ import annotations

import numpy as np
import pytest

from edgereason.errors import ConfigError
from edgereason.heads.reliability import auroc
from edgereason.train.heads.cross_validation import folds_of, measure
from edgereason.train.heads.mlp import MlpConfig, train_mlp

CONFIG = MlpConfig(max_epochs=12, restarts=2, learning_rate=1e-2, noise_std=0.1)
EASY, HARD = ("squad", "trivia", "mmlu"), ("gsm8k", "math")


def rows(num: int = 40) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Number 0 says how hard a prompt is, a little; number s + 1 that it is of source s, loudly."""
    rng = np.random.default_rng(0)
    sources = [name for name in (*EASY, *HARD) for _ in range(num)]
    labels = np.array([name in HARD for name in sources])
    x = rng.standard_normal((len(sources), 6)).astype(np.float32)
    x[:, 0] += 1.5 * labels
    for number, name in enumerate((*EASY, *HARD), 1):
        x[:, number] += 6.0 * (np.array(sources) == name)
    return x, labels, sources


def test_every_source_is_left_out_with_one_of_the_other_label() -> None:
    _, labels, sources = rows()
    folds = folds_of(labels, sources, range(len(sources)), seed=0)
    assert [fold.left_out for fold in folds] == [("mmlu", "gsm8k"), ("squad", "math"), ("trivia", "gsm8k")]
    for fold in folds:
        assert {sources[i] for i in fold.judged} == set(fold.left_out)
        assert not {sources[i] for i in fold.learned} & set(fold.left_out)
        assert len(fold.judged) + len(fold.learned) == len(sources)


def test_with_one_source_of_a_label_folds_are_parts_in_whole_groups() -> None:
    labels = np.arange(60) % 2 == 1
    sources = ["easy" if not label else "hard" for label in labels]
    groups = [n // 4 for n in range(60)]
    folds = folds_of(labels, sources, groups, seed=0)
    assert [fold.left_out for fold in folds] == [()] * 5
    assert sorted(np.concatenate([fold.judged for fold in folds])) == list(range(60))
    for fold in folds:
        assert not {groups[i] for i in fold.judged} & {groups[i] for i in fold.learned}


def test_sources_that_leave_one_label_when_they_are_left_out_fall_back_to_parts() -> None:
    # Without b, which has both labels, and its partner, nothing hard or nothing easy would be left.
    sources = ["a"] * 10 + ["b"] * 20 + ["c"] * 10
    labels = np.array([False] * 20 + [True] * 20)
    assert {fold.left_out for fold in folds_of(labels, sources, range(40), seed=0)} == {()}


def test_prompts_that_can_not_be_cut_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 prompts to learn from can't be cut"):
        folds_of(np.array([True, False]), ["a", "b"], [0, 1], seed=0)


def test_a_fold_is_judged_by_a_head_that_saw_nothing_of_it() -> None:
    x, labels, sources = rows()
    folds = folds_of(labels, sources, range(len(sources)), seed=0)
    found = measure(x, labels, folds, CONFIG)
    assert found is not None
    fold = folds[1]
    head = train_mlp(x[fold.learned], labels[fold.learned], found.num_epochs, CONFIG)
    assert head is not None
    place = len(folds[0].judged)
    assert found.rows[place] == fold.judged[0]
    logits = found.logits[place : place + len(fold.judged)]
    np.testing.assert_array_equal(logits, head.logits(x[fold.judged]).astype(float))
    assert found.aurocs[1] == auroc(logits, labels[fold.judged])


def test_epochs_are_those_with_the_best_mean_and_worst_ranking() -> None:
    x, labels, sources = rows()
    folds = folds_of(labels, sources, range(len(sources)), seed=0)
    found = measure(x, labels, folds, CONFIG)
    assert found is not None
    worths = []
    for num_epochs in range(1, CONFIG.max_epochs + 1):
        heads = [train_mlp(x[f.learned], labels[f.learned], num_epochs, CONFIG) for f in folds]
        aurocs = [auroc(h.logits(x[f.judged]), labels[f.judged]) for h, f in zip(heads, folds, strict=True)]
        worths.append((np.mean(aurocs) + min(aurocs)) / 2)
    assert found.num_epochs == 1 + int(np.argmax(worths))
    assert found.worth == pytest.approx(max(worths))


def test_a_feature_that_only_tells_sources_apart_is_worth_less_than_one_that_tells_labels() -> None:
    x, labels, sources = rows()
    folds = folds_of(labels, sources, range(len(sources)), seed=0)
    looks, depth = measure(x[:, 1:], labels, folds, CONFIG), measure(x[:, :1], labels, folds, CONFIG)
    assert looks is not None
    assert depth is not None
    # Within its own sources the loud one is perfect.
    head = train_mlp(x[:, 1:], labels, 12, CONFIG)
    assert head is not None
    assert auroc(head.logits(x[:, 1:]), labels) > 0.99
    assert depth.worth > 0.75 > looks.worth


def test_it_stops_when_told_to() -> None:
    x, labels, sources = rows(10)
    folds = folds_of(labels, sources, range(len(sources)), seed=0)
    assert measure(x, labels, folds, CONFIG, lambda: True) is None
