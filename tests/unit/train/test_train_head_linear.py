"""Logistic regression against its own conditions; folds that see nothing of what they judge; Platt's rule."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgereason.heads.base import sigmoid
from edgereason.heads.reliability import ece
from edgereason.train.heads.linear import (
    Calibration,
    Linear,
    Scale,
    calibrate,
    calibrated_linear,
    cross_validate,
    log_loss,
    train_logistic,
)


def p_of(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def problem(seed: int = 0, rows: int = 400, size: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn as a linear layer says."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, size)).astype(np.float32)
    return x, rng.random(rows) < p_of(x @ np.array([2.0, -1, 0.5, 0, 0, 0]) + 0.3)


def test_one_feature_of_two_values_gives_each_its_own_share() -> None:
    # At x = +1 three of four are true, at x = −1 one of four: w = log 3, b = 0.
    x = np.array([[1.0]] * 4 + [[-1.0]] * 4)
    layer = train_logistic(x, np.array([1.0, 1, 1, 0, 1, 0, 0, 0]), 0.0)
    assert layer.weight == pytest.approx([math.log(3)], abs=1e-6)
    assert layer.bias == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("l2", [1e-3, 0.1, 10.0])
def test_at_the_minimum_the_gradient_is_zero(l2: float) -> None:
    x, y = problem()
    layer = train_logistic(x, y.astype(float), l2)
    error = p_of(layer.logits(x)) - y
    np.testing.assert_allclose(x.T.astype(float) @ error / len(y) + l2 * layer.weight, 0, atol=1e-7)
    assert error.mean() == pytest.approx(0, abs=1e-7)  # the bias is free
    again = train_logistic(x, y.astype(float), l2, start=Linear(np.full(6, 3.0), -2.0))
    np.testing.assert_allclose(again.weight, layer.weight, atol=1e-5)  # convex: one minimum


def test_a_stronger_term_leaves_less_weight_and_in_the_limit_only_the_share() -> None:
    x, y = problem()
    sizes = [np.linalg.norm(train_logistic(x, y.astype(float), l2).weight) for l2 in (1e-4, 0.1, 1.0, 1e4)]
    assert sizes == sorted(sizes, reverse=True)
    layer = train_logistic(x, y.astype(float), 1e4)
    assert layer.weight == pytest.approx(np.zeros(6), abs=1e-4)
    assert p_of(np.array(layer.bias)) == pytest.approx(y.mean(), abs=1e-5)


def test_the_loss_by_hand() -> None:
    z, y = np.array([0.0, 800.0, -800.0, 2.0]), np.array([1.0, 1.0, 1.0, 0.25])
    # log 2; 0; 800; log(1 + e²) − ½
    assert log_loss(z, y) == pytest.approx((math.log(2) + 0 + 800 + math.log(1 + math.exp(2)) - 0.5) / 4)


def test_a_number_that_never_differs_is_left_as_large_as_it_is() -> None:
    scale = Scale.of(np.array([[1, 5], [3, 5]], np.float32))
    assert scale.std.tolist() == [1, 1]
    np.testing.assert_array_equal(scale(np.array([[4, 6]], np.float32)), [[2, 1]])


def test_a_fold_is_judged_by_a_layer_that_saw_nothing_of_it() -> None:
    x, y = problem()
    folds = np.arange(len(y)) % 4
    other = np.where(folds == 2, ~y, y)
    moved = np.where(folds[:, None] == 2, 50 * x + 9, x).astype(np.float32)
    before = cross_validate(x, y, folds, (0.1,))
    relabelled = cross_validate(x, other, folds, (0.1,))
    rescaled = cross_validate(moved, y, folds, (0.1,))
    assert before is not None
    assert relabelled is not None
    assert rescaled is not None
    np.testing.assert_array_equal(relabelled.logits[folds == 2], before.logits[folds == 2])
    assert not np.allclose(relabelled.logits[folds == 1], before.logits[folds == 1])
    # neither do its states count towards the layer or the normalisation
    layer = train_logistic(*_normalised(x, y, folds != 2), 0.1)
    expected = layer.logits(Scale.of(x[folds != 2])(moved[folds == 2]))
    np.testing.assert_allclose(rescaled.logits[folds == 2], expected, atol=1e-4)


def _normalised(x: np.ndarray, y: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return Scale.of(x[chosen])(x[chosen]), y[chosen].astype(float)


def test_the_term_with_the_least_loss_on_rows_left_out_is_chosen() -> None:
    # 60 rows of 200 numbers, two of which say something: without a term, a layer learns the others by heart.
    rng = np.random.default_rng(3)
    x = rng.standard_normal((60, 200)).astype(np.float32)
    y = rng.random(60) < p_of(2 * x[:, 0] - 2 * x[:, 1])
    found = cross_validate(x, y, np.arange(60) % 5, (1e-4, 0.3, 1e4))
    assert found is not None
    assert found.l2 == 0.3
    assert min(found.losses, key=found.losses.__getitem__) == 0.3
    assert found.losses[0.3] == pytest.approx(log_loss(found.logits, y.astype(float)))
    assert cross_validate(x, y, np.arange(60) % 5, (1.0,), should_stop=lambda: True) is None


def test_calibration_finds_the_slope_and_offset_that_were_put_on() -> None:
    rng = np.random.default_rng(4)
    true = rng.normal(0, 2, 20_000)
    labels = rng.random(20_000) < p_of(true)
    found = calibrate(3 * true - 1, labels)
    assert found.slope == pytest.approx(1 / 3, abs=0.02)
    assert found.offset == pytest.approx(1 / 3, abs=0.05)
    assert found.ece_on_fit_rows_after < 0.02 < found.ece_on_fit_rows_before
    assert found.keeps_order
    np.testing.assert_allclose(found(3 * true - 1), true, atol=0.3)


def test_logits_that_separate_the_labels_get_a_finite_slope_by_platts_targets() -> None:
    # Two values: each is mapped to Platt's target of its label, (n + 1)/(n + 2) and 1/(n + 2), n = 10.
    found = calibrate(np.array([5.0] * 10 + [-5.0] * 10), np.array([True] * 10 + [False] * 10))
    assert p_of(found(np.array([5.0, -5.0]))) == pytest.approx([11 / 12, 1 / 12], abs=1e-5)


def test_a_calibration_that_turns_the_order_around_is_of_no_use() -> None:
    assert not Calibration(-1.0, 0.0, 0.4, 0.1).keeps_order
    # what it does to the rows that it is from decides nothing
    assert Calibration(1.0, 0.0, 0.1, 0.1).keeps_order


def test_folding_a_calibration_in_is_the_same_as_applying_it() -> None:
    x, y = problem()
    layer = train_logistic(x, y.astype(float), 0.1)
    by = Calibration(0.5, 0.25, 0.2, 0.1)
    np.testing.assert_allclose(calibrated_linear(layer, by).logits(x), by(layer.logits(x)), atol=1e-12)
    assert ece(sigmoid(by(layer.logits(x)).astype(np.float32)), y) >= 0
