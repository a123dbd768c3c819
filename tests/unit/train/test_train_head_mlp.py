"""The switcher's training: what it can learn, what noise is on, and that torch and numpy agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgereason.heads.features import FeaturePart, Features
from edgereason.heads.reliability import auroc
from edgereason.heads.switcher import MlpSwitcher
from edgereason.train.heads.linear import Calibration
from edgereason.train.heads.mlp import MlpConfig, by_epoch, calibrated_mlp, train_mlp

CONFIG = MlpConfig(max_epochs=40, restarts=2, learning_rate=1e-2, seed=1)


def problem(rows: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """True where the first two of ten numbers have unlike signs: no linear layer can tell."""
    x = np.random.default_rng(seed).standard_normal((rows, 10)).astype(np.float32)
    return x, x[:, 0] * x[:, 1] < 0


def trained(x: np.ndarray, y: np.ndarray, num_epochs: int, config: MlpConfig) -> MlpSwitcher:
    head = train_mlp(x, y, num_epochs, config)
    assert head is not None
    return head


def test_it_learns_what_no_linear_layer_can_and_tells_rows_that_it_has_not_seen() -> None:
    x, y = problem(700)
    config = replace(CONFIG, noise_std=0.1, max_epochs=60)
    assert auroc(trained(x[:600], y[:600], 60, config).logits(x[600:]), y[600:]) > 0.9


def test_the_head_is_the_average_of_networks_that_differ_in_their_logits() -> None:
    x, y = problem(120)
    head = trained(x, y, 3, replace(CONFIG, restarts=3))
    assert head.hidden_weight.shape == (24, 10)
    alone = [
        replace(
            head,
            hidden_weight=head.hidden_weight[part],
            hidden_bias=head.hidden_bias[part],
            output_weight=head.output_weight[:, part] * 3,
        )
        for part in (slice(0, 8), slice(8, 16), slice(16, 24))
    ]
    logits = [one.logits(x) for one in alone]
    assert not np.allclose(logits[0], logits[1], atol=0.01)
    np.testing.assert_allclose(np.mean(logits, axis=0), head.logits(x), atol=1e-5)


def test_one_seed_gives_one_head_and_another_another() -> None:
    x, y = problem(120)
    first, again, other = (trained(x, y, 5, replace(CONFIG, seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.hidden_weight, again.hidden_weight)
    assert not np.array_equal(first.hidden_weight, other.hidden_weight)


def test_fewer_epochs_are_the_beginning_of_more() -> None:
    x, y = problem(120)
    heads = list(by_epoch(x, y, replace(CONFIG, max_epochs=4)))
    assert np.array_equal(trained(x, y, 2, CONFIG).hidden_weight, heads[1].hidden_weight)
    assert not np.array_equal(heads[1].hidden_weight, heads[3].hidden_weight)


def test_noise_is_on_normalised_features_so_their_size_does_not_matter() -> None:
    x, y = problem(120)
    small, large = trained(x, y, 5, CONFIG), trained(x * 1000 + 77, y, 5, CONFIG)
    np.testing.assert_allclose(large.logits(x * 1000 + 77), small.logits(x), atol=0.02)


def test_a_head_says_which_features_it_reads() -> None:
    x, y = problem(60)
    features = Features(layer=-5, parts=(FeaturePart.LAST, FeaturePart.AVERAGE))
    head = train_mlp(x, y, 1, CONFIG, features)
    assert head is not None
    assert (head.features, head.hidden_size) == (features, 5)


def test_it_stops_when_told_to() -> None:
    x, y = problem(60)
    asked: list[int] = []
    assert train_mlp(x, y, 9, CONFIG, should_stop=lambda: asked.append(1) or len(asked) > 3) is None
    assert len(asked) == 4


def test_folding_a_calibration_in_is_the_same_as_applying_it() -> None:
    x, y = problem(120)
    head = trained(x, y, 2, CONFIG)
    by = Calibration(0.5, 0.25, 0.2, 0.1)
    np.testing.assert_allclose(calibrated_mlp(head, by).logits(x), 0.5 * head.logits(x) + 0.25, atol=1e-5)


def test_more_epochs_than_there_may_be_are_a_mistake() -> None:
    x, y = problem(60)
    with pytest.raises(AssertionError, match="3 epochs of at most 2"):
        train_mlp(x, y, 3, replace(CONFIG, max_epochs=2))
