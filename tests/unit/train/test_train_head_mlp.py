"""The switcher's training: what it can learn, what noise is on, and that torch and numpy agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgereason.heads.reliability import auroc
from edgereason.train.head_linear import Calibration, log_loss
from edgereason.train.head_mlp import MlpConfig, calibrated_mlp, train_mlp

CONFIG = MlpConfig(max_epochs=40, patience_epochs=10, restarts=2, learning_rate=1e-2, seed=1)


def problem(rows: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """True where the first two of ten numbers have unlike signs: no linear layer can tell."""
    x = np.random.default_rng(seed).standard_normal((rows, 10)).astype(np.float32)
    return x, x[:, 0] * x[:, 1] < 0


TRAIN, VALIDATION = np.arange(300), np.arange(300, 400)


def test_it_learns_what_no_linear_layer_can_and_says_so_in_torch_and_numpy_alike() -> None:
    x, y = problem()
    trained = train_mlp(x, y, TRAIN, VALIDATION, replace(CONFIG, noise_std=0.1, max_epochs=150))
    assert trained is not None
    logits = trained.head.logits(x[VALIDATION])
    assert auroc(logits, y[VALIDATION]) > 0.9
    # the loss that torch saw is the one that numpy's head has
    expected = log_loss(logits.astype(float), y[VALIDATION].astype(float))
    assert trained.validation_loss == pytest.approx(expected, rel=1e-4)
    assert trained.head.hidden_weight.shape == (8, 10)


def test_one_seed_gives_one_head_and_another_another() -> None:
    x, y = problem(120)
    rows, validation = np.arange(80), np.arange(80, 120)
    first, again, other = (
        train_mlp(x, y, rows, validation, replace(CONFIG, max_epochs=5, seed=seed)) for seed in (1, 1, 2)
    )
    assert first is not None
    assert again is not None
    assert other is not None
    assert np.array_equal(first.head.hidden_weight, again.head.hidden_weight)
    assert not np.array_equal(first.head.hidden_weight, other.head.hidden_weight)


def test_noise_is_on_normalised_features_so_their_size_does_not_matter() -> None:
    x, y = problem(120)
    rows, validation = np.arange(80), np.arange(80, 120)
    config = replace(CONFIG, max_epochs=5)
    small = train_mlp(x, y, rows, validation, config)
    large = train_mlp(x * 1000 + 77, y, rows, validation, config)
    assert small is not None
    assert large is not None
    np.testing.assert_allclose(large.head.logits(x * 1000 + 77), small.head.logits(x), atol=0.02)


def test_labels_of_validation_rows_choose_and_do_not_teach() -> None:
    x, y = problem(120)
    rows, validation = np.arange(80), np.arange(80, 120)
    other = np.concatenate([y[:80], ~y[80:]])
    config = replace(CONFIG, max_epochs=1, restarts=1)  # nothing to choose
    first, relabelled = (train_mlp(x, labels, rows, validation, config) for labels in (y, other))
    assert first is not None
    assert relabelled is not None
    assert np.array_equal(first.head.hidden_weight, relabelled.head.hidden_weight)
    assert first.validation_loss != relabelled.validation_loss


def test_it_stops_without_patience_and_when_told_to() -> None:
    x, y = problem(120)
    told: list[tuple[int, int]] = []
    arguments = (x, y, np.arange(80), np.arange(80, 120), CONFIG)
    assert train_mlp(*arguments, lambda *counts: told.append(counts), lambda: len(told) == 1) is None
    assert told == [(1, 2)]


def test_folding_a_calibration_in_is_the_same_as_applying_it() -> None:
    x, y = problem(120)
    trained = train_mlp(x, y, np.arange(80), np.arange(80, 120), replace(CONFIG, max_epochs=2))
    assert trained is not None
    by = Calibration(0.5, 0.25, 0.2, 0.1)
    expected = 0.5 * trained.head.logits(x) + 0.25
    np.testing.assert_allclose(calibrated_mlp(trained.head, by).logits(x), expected, atol=1e-5)
