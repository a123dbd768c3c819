"""The switcher by hand, at its limits, and a reader that goes on elsewhere."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from some_heads import random_switcher

from edgereason.errors import BundleError
from edgereason.heads.base import NEVER_THINK, Switcher, sigmoid
from edgereason.heads.features import CHUNK_TOKENS, FeaturePart, Features, PromptFeatures
from edgereason.heads.switcher import MlpSwitcher


def by_hand() -> MlpSwitcher:
    """Two features, two hidden units."""
    arrays = {
        "mean": [1.0, 2.0],
        "std": [2.0, 0.5],
        "hidden_weight": [[1.0, 1.0], [-1.0, 0.0]],
        "hidden_bias": [0.5, 0.0],
        "output_weight": [[2.0, 3.0]],
        "output_bias": [-1.0],
    }
    return MlpSwitcher(**{name: np.array(value, np.float32) for name, value in arrays.items()})


def test_the_equation_by_hand() -> None:
    # features (3, 2): x = (1, 0), h = (max(0, 1 + 0 + 0.5), max(0, −1)) = (1.5, 0), logit 2 · 1.5 − 1 = 2
    # features (−1, 1): x = (−1, −2), h = (0, 1), logit 3 − 1 = 2
    # features (1, 2): x = 0, h = (0.5, 0), logit 0
    features = np.array([[3, 2], [-1, 1], [1, 2]], np.float32)
    np.testing.assert_allclose(by_hand().logits(features), [2, 2, 0], atol=1e-6)
    p = 1 / (1 + math.exp(-2))
    np.testing.assert_allclose(by_hand().p_think(features), [p, p, 0.5], rtol=1e-6)


def test_the_sigmoid_has_no_overflow_and_is_symmetric() -> None:
    x = np.array([-1e4, -3, 0, 3, 1e4], np.float32)
    p = sigmoid(x)
    np.testing.assert_allclose(p, [0, 1 / (1 + math.exp(3)), 0.5, 1 / (1 + math.exp(-3)), 1], rtol=1e-5)
    np.testing.assert_allclose(p + p[::-1], np.ones(5), atol=1e-7)


def test_a_reader_gives_the_head_the_features_of_all_that_was_pushed() -> None:
    switcher: Switcher = random_switcher()
    states = np.random.default_rng(3).standard_normal((300, 16)).astype(np.float32)
    reader, features = switcher.reader(), PromptFeatures(16)
    for part in np.split(states, [7, 200]):
        reader.push(part)
        features.push(part)
    assert reader.p_think() == pytest.approx(float(random_switcher().p_think(features.value()[None])[0]))


@given(
    before=st.lists(st.integers(0, 300), max_size=3),
    after=st.lists(st.integers(1, 300), min_size=1, max_size=3),
    parts=st.permutations(list(FeaturePart)).flatmap(
        lambda all_: st.sampled_from([tuple(all_), tuple(all_[:1])])
    ),
    skipped=st.integers(0, 30),
    seed=st.integers(0, 99),
)
def test_a_reader_restored_from_a_state_goes_on_bit_for_bit(
    before: list[int], after: list[int], parts: tuple[FeaturePart, ...], skipped: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    switcher = random_switcher(seed, features=Features(parts=parts, skipped_tokens=skipped))
    reader = switcher.reader()
    for tokens in before:
        reader.push(rng.standard_normal((tokens, 16)).astype(np.float32))
    restored = switcher.reader(reader.state())
    for tokens in after:
        states = rng.standard_normal((tokens, 16)).astype(np.float32)
        reader.push(states)
        restored.push(states)
        assert restored.p_think() == reader.p_think()
    for name, array in reader.state().items():
        assert array.dtype == np.float32
        assert np.array_equal(array, restored.state()[name])


def test_a_state_is_a_copy_and_stays_what_it_was() -> None:
    reader = random_switcher().reader()
    reader.push(np.ones((CHUNK_TOKENS + 10, 16), np.float32))
    before = {name: array.copy() for name, array in reader.state().items()}
    state = reader.state()
    reader.push(np.full((50, 16), -1, np.float32))
    assert all(np.array_equal(state[name], before[name]) for name in before)
    state["chunk_sum"][:] = 99
    assert not np.array_equal(reader.state()["chunk_sum"], state["chunk_sum"])


def test_a_state_of_another_size_or_kind_is_refused() -> None:
    state = random_switcher(size=8).reader().state()
    with pytest.raises(BundleError, match="saved switcher state"):
        random_switcher(size=16).reader(state)
    with pytest.raises(BundleError, match="saved switcher state"):
        random_switcher(size=16).reader({})
    other = random_switcher(features=Features(parts=(FeaturePart.LAST,))).reader().state()
    with pytest.raises(BundleError, match="saved switcher state"):
        random_switcher().reader(other)


def test_a_threshold_is_a_setting_of_its_own() -> None:
    assert by_hand().threshold == 0.5
    assert replace(by_hand(), threshold=0.8).threshold == 0.8
    assert replace(by_hand(), threshold=NEVER_THINK).threshold > 1


@pytest.mark.parametrize("threshold", [-0.1, 30.0, math.inf, math.nan])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(BundleError, match="threshold lies between 0"):
        replace(by_hand(), threshold=threshold)


def test_it_reads_states_of_the_size_of_one_part() -> None:
    switcher = random_switcher(features=Features(layer=-7, parts=(FeaturePart.AVERAGE, FeaturePart.LAST)))
    assert (len(switcher.mean), switcher.hidden_size, switcher.layer) == (32, 16, -7)
